"""The present of a simulated node, as those who look at it hold it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Present = Callable[[], AbstractContextManager[None]]
"""Holds the node still, caught up with its clock, while one looks."""
