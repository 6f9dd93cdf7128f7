"""Who may see the pages, and how they are spoken with: what the web configuration file comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.exposition.authentication import Authenticator
from agent.exposition.rate_limit import TokenBucket

if TYPE_CHECKING:
    from agent.exposition.tls import Tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may see the pages, and what they may do."""

    authenticator: Authenticator | None = None
    """`None` lets everybody in, to look."""
    release: Callable[[float | None], str] | None = None
    """Lets go of the GPUs for these seconds, or its own default, and says so; `None`: not enabled."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every answer, besides the agent's own."""
    limiter: TokenBucket | None = None
    """`None` answers as many requests as come."""
    tls: Tls | None = None
    """`None` speaks plain HTTP."""
    closed: bool = False
    """The file has become invalid: nobody sees more than whether the agent is healthy."""


OPEN = Access()
