"""Which servers are watched: those that are configured, and those that were found on the node.

A server found twice – by its process and by its pod, or beside its own entry in the configuration – is
one. What was found and is gone stays, as down, for ten minutes; then its poller ends. Pollers begin and
end in one place, by what is watched now and was not before, and the other way round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from agent.clock import Clock
from agent.readings import MAX_FOUND, Discovery, FoundServer, ModelFacts, ServerReading
from agent.resolution import merge_facts
from agent.sources.base import Poller

log = logging.getLogger(__name__)

GONE_SECONDS = 10 * 60.0
"""A found server that is gone is shown as down for so long."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoredServer:
    """A server to watch, and what is known of it beforehand."""

    poller: Poller[ServerReading]
    server: str
    """The value of the label `server`."""
    url: str = ""
    engine: str = "unknown"
    """The software, where it is known; it labels the server until its page says so."""
    gpus: tuple[int | str, ...] | None = None
    """As configured."""
    on_this_node: bool = False
    """It runs on this machine."""
    model: ModelFacts = field(default_factory=ModelFacts)
    """As configured."""
    found: FoundServer | None = None
    """What was found out about it, if it was found."""
    gone: bool = False
    """It was found, and its process or pod is there no more: it was ended, and is not merely silent."""


Running = Mapping[str, Poller[Any]]
"""What polls already, by the name of its source."""
Opener = Callable[[FoundServer, Running], MonitoredServer]
"""Makes the poller of a server that was found, without starting it; or keeps the one that runs."""


@dataclass(slots=True)
class _Entry:
    server: MonitoredServer
    seen_at_seconds: float


class Roster:
    """The servers as they come and go."""

    def __init__(
        self,
        *,
        configured: Sequence[MonitoredServer] = (),
        finders: Sequence[Poller[Discovery]] = (),
        open_server: Opener | None = None,
        own_addresses: Collection[str] = LOOPBACK,
        clock: Clock,
    ) -> None:
        """`own_addresses` are the hosts in URLs that mean this machine."""
        self._configured = list(configured)
        self._finders = tuple(finders)
        self._open = open_server
        self._own = frozenset(own_addresses) | LOOPBACK
        self._clock = clock
        # By the URL's host and port, in the order in which they were found.
        self._entries: dict[str, _Entry] = {}
        self._running = False
        # Another configuration is in force, and what is found was not yet looked at with it.
        self._adopted = False
        # Who looks for servers was changed: what they do not find is not gone, but no longer asked for.
        self._sifting = False
        self._readings: tuple[Discovery, ...] = ()
        self._found: dict[str, FoundServer] = {}
        self.left_out: tuple[str, ...] = ()
        """URLs of servers that were found and are too many."""
        self.servers: tuple[MonitoredServer, ...] = tuple(configured)
        """Those of the last `update`, configured ones first; replaced whole, so that readers need no lock."""

    @property
    def finders(self) -> tuple[Poller[Discovery], ...]:
        """Who looks for servers."""
        return self._finders

    def start(self) -> None:
        """Poll from now on, those that come later as well."""
        self._running = True
        for server in self.servers:
            server.poller.start()

    def adopt(
        self,
        *,
        configured: Sequence[MonitoredServer],
        finders: Sequence[Poller[Discovery]],
        open_server: Opener | None,
    ) -> None:
        """Watch these from now on, and what these find. Who kept their poller goes on as if nothing were."""
        self._adopted = True
        self._sifting = self._sifting or set(finders) != set(self._finders)
        self._configured, self._finders, self._open = list(configured), tuple(finders), open_server
        for server in configured:
            self._entries.pop(self._address(server.url), None)
        self.update()

    def update(self) -> tuple[MonitoredServer, ...]:
        """Take what the finders know now; one that fails knows what it knew."""
        now = self._clock.monotonic()
        states = [finder.state() for finder in self._finders]
        readings = tuple(state.last_success.reading for state in states if state.last_success is not None)
        # What is found bears the names of the rules by which it was: new rules wait for their own finders.
        looked = all(state.outcome is not None for state in states)
        if looked if self._adopted else readings != self._readings:
            self._readings = readings
            self._found = self._merge(readings)
            self._describe_configured()
            self._admit(now)
            self._adopted = False
        if self._sifting and not self._adopted and len(readings) == len(self._finders):
            self._sift()
        for key, entry in self._entries.items():
            if key in self._found:
                entry.seen_at_seconds = now
            if entry.server.gone == (key in self._found):
                entry.server = replace(entry.server, gone=key not in self._found)
        self._dismiss(now)
        self._watch((*self._configured, *(entry.server for entry in self._entries.values())))
        return self.servers

    # --- merging -----------------------------------------------------------------------------------

    def _merge(self, readings: Sequence[Discovery]) -> dict[str, FoundServer]:
        """By host and port: what all finders together say of each server."""
        found: dict[str, FoundServer] = {}
        for reading in readings:
            for one in reading.servers:
                key = self._key(one, found)
                found[key] = merge_found(found[key], one) if key in found else one
        return found

    def _key(self, one: FoundServer, found: dict[str, FoundServer]) -> str:
        """Where it stands already: under its address, or that of the same port of the same pod."""
        for key, other in found.items():
            if _same_pod(one, other) and urlsplit(one.url).port == urlsplit(other.url).port:
                return key
        return self._address(one.url)

    def _address(self, url: str) -> str:
        """Host and port, this machine's own names as one."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{'localhost' if host in self._own else host}:{port}"

    # --- coming and going --------------------------------------------------------------------------

    def _describe_configured(self) -> None:
        """A configured server is not found: it is known, and what was found out is added to it."""
        for position, server in enumerate(self._configured):
            one = self._found.pop(self._address(server.url), None) if server.url else None
            if one is not None:
                self._configured[position] = replace(server, found=one, on_this_node=True)

    def _admit(self, now: float) -> None:
        left_out = []
        for key, one in self._found.items():
            entry = self._entries.get(key)
            if entry is not None and not self._adopted:
                entry.server = replace(entry.server, found=one)
            elif self._open is None or (entry is None and len(self._entries) >= MAX_FOUND):
                left_out.append(one.url)
            else:
                server = self._open(one, self._pollers())
                if entry is None:
                    _tell(server, "found, and watched from now on")
                self._entries[key] = _Entry(server, now)
        self.left_out = tuple(left_out)

    def _sift(self) -> None:
        self._sifting = False
        for key in [key for key in self._entries if key not in self._found]:
            _tell(self._entries[key].server, "no longer looked for, and no longer watched")
            del self._entries[key]

    def _dismiss(self, now: float) -> None:
        for key, entry in list(self._entries.items()):
            if now - entry.seen_at_seconds > GONE_SECONDS:
                _tell(entry.server, "gone, and no longer watched")
                del self._entries[key]

    def _pollers(self) -> dict[str, Poller[Any]]:
        return {server.poller.source.name: server.poller for server in self.servers}

    def _watch(self, servers: tuple[MonitoredServer, ...]) -> None:
        """Begin and end polling, so that it is these that are watched."""
        former = {server.poller: server for server in self.servers}
        by_url = {server.url: server.poller for server in self.servers if server.url}
        now = {server.poller for server in servers}
        for server in servers:
            if server.poller not in former:
                if server.url in by_url:  # the same page, asked for in another way
                    server.poller.follow(by_url[server.url])
                if self._running:
                    server.poller.start()
        for poller in former:
            if poller not in now:
                poller.retire()
        self.servers = servers


def _tell(server: MonitoredServer, what: str) -> None:
    log.info("%s: %s", server.server, what, extra={"server": server.server})


def _same_pod(one: FoundServer, other: FoundServer) -> bool:
    uids = {found.container.uid if found.container is not None else "" for found in (one, other)}
    return len(uids) == 1 and "" not in uids


def merge_found(first: FoundServer, second: FoundServer) -> FoundServer:
    """One server that two finders found: what the first does not know the second may."""
    containers = [one.container for one in (first, second) if one.container is not None]
    named = next((container for container in containers if container.pod), None)
    return replace(
        first,
        engine=first.engine or second.engine,
        pid=first.pid if first.pid is not None else second.pid,
        gpu_uuids=first.gpu_uuids if first.gpu_uuids is not None else second.gpu_uuids,
        container=named or (containers[0] if containers else None),
        facts=merge_facts(first.facts, second.facts),
        credential=first.credential or second.credential,
    )
