"""What is known of a node, and how old that is."""

from __future__ import annotations

from dataclasses import dataclass

from agent.exposition.picture import NodePicture


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The last picture there was, and what kept newer ones from coming."""

    origin: str
    """Whence it comes, in words."""
    picture: NodePicture | None = None
    received_seconds: float = 0.0
    """When that came, on the monotonic clock here. Clocks of other machines are not asked."""
    problem: str = ""
    """Of the last attempt; "": it gave the picture."""

    def age_seconds(self, now_seconds: float) -> float | None:
        """Of the picture."""
        if self.picture is None:
            return None
        return self.picture.age_seconds + max(now_seconds - self.received_seconds, 0.0)
