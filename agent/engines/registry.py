"""Every engine that the agent can read: one entry each, in the order in which a page is tried."""

from __future__ import annotations

from agent.engines.base import EngineDefinition
from agent.engines.vllm import VLLM

ENGINES: tuple[EngineDefinition, ...] = (VLLM,)
