"""What is different between two configurations: in words, and whether it takes a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.config import Configuration
from agent.engines.source import server_of
from agent.errors import ConfigurationError

FIXED = ("web",)
"""Sections that hold from the start to the end: the port is bound, and who may come in is decided, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From one configuration to the next. Nothing in it is a secret."""

    added: tuple[str, ...]
    """Servers of engines that were not listed."""
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    """Servers of engines that are listed otherwise."""
    keys: Mapping[str, str]
    """Of all else, by dotted path: how it changed, in words that may be empty."""

    @classmethod
    def between(cls, old: Configuration, new: Configuration) -> Difference:
        """From `old` to `new`."""
        before, after = ({server_of(one.url): one for one in given.engines} for given in (old, new))
        return cls(
            added=tuple(server for server in after if server not in before),
            removed=tuple(server for server in before if server not in after),
            changed=tuple(server for server, engine in after.items() if before.get(server, engine) != engine),
            keys=dict(_changed(_without_engines(old), _without_engines(new))),
        )

    def refuse_what_needs_a_restart(self) -> None:
        """Raises `ConfigurationError` with each key that cannot change in a running agent."""
        fixed = [key for key in self.keys if key.split(".")[0] in FIXED]
        if fixed:
            raise ConfigurationError(
                "configuration", tuple(f"{key}: cannot change without a restart" for key in fixed)
            )

    def __str__(self) -> str:
        """In a few words."""
        engines = (("added", self.added), ("removed", self.removed), ("changed", self.changed))
        words = [f"engines {what}: {', '.join(servers)}" for what, servers in engines if servers]
        words += [f"{key} {how}".strip() for key, how in self.keys.items()]
        return "; ".join(words) or "nothing is different"


def _without_engines(configuration: Configuration) -> dict[str, Any]:
    return configuration.model_dump(by_alias=True, exclude={"engines"})


def _changed(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each path at which they differ; only numbers and switches are shown, as others may be anybody's."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _changed(old[key], new[key], f"{path}.{key}" if path else key)
    elif isinstance(old, int | float) and isinstance(new, int | float):
        yield path, f"{_number(old)} → {_number(new)}"
    else:
        yield path, ""


def _number(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
