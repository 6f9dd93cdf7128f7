"""The web configuration file while the agent runs: looked at again, taken over whole, never fallen open.

It and what it names are compared with what was loaded at most once a second, and only when somebody asks
for a page. A file that has become invalid, or that asks for less than it did, closes every page but the
health ones until it is mended: an old password that still worked would be one that was thought revoked.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock import Clock
from agent.errors import ConfigurationError
from agent.exposition.access import Access
from agent.exposition.authentication import Authenticator
from agent.exposition.rate_limit import TokenBucket
from agent.exposition.tls import Tls, load_tls, named_files

if TYPE_CHECKING:
    from agent.exposition.web_config import WebConfiguration

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
MAX_FILE_BYTES = 1 << 20


class WebFile:
    """What the file now says."""

    def __init__(
        self,
        path: Path,
        *,
        load: Callable[[Path], WebConfiguration],
        clock: Clock,
        release: Callable[[float | None], str] | None = None,
    ) -> None:
        """Reads it. Raises `ConfigurationError` with every problem; later ones are logged."""
        self._path, self._load, self._clock, self._release = path, load, clock, release
        self._looking = threading.Lock()  # one at a time; who comes meanwhile takes what is known
        self._looked_seconds = clock.monotonic()
        self._configuration: WebConfiguration | None = None
        self._digest = b""
        self._access = Access()
        self._problem: str | None = None
        self._take_over()

    def access(self) -> Access:
        """Who may come in now. Never raises."""
        now = self._clock.monotonic()
        if now - self._looked_seconds >= LOOK_SECONDS and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looked_seconds = now
                self._looking.release()
        return self._access

    def _look(self) -> None:
        if not self._access.closed and self._digest == self._digest_now():
            return
        try:
            self._take_over()
        except ConfigurationError as error:
            self._access = replace(self._access, closed=True)
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("http: all pages but the health ones are closed until this is mended: %s", error)
            return
        log.info("http: %s is taken over", self._path)
        self._problem = None

    def _take_over(self) -> None:
        """Make what the file says hold."""
        before = self._configuration
        digest = self._digest_now()  # first: what changes meanwhile is seen next time
        configuration = self._load(self._path)
        section = configuration.tls
        tls = load_tls(section, self._path) if section is not None else None
        self._refuse_less(configuration, tls)
        self._configuration = configuration
        # What it names may be other files than before.
        self._digest = digest if before is not None and section == before.tls else self._digest_now()
        self._access = Access(
            authenticator=self._authenticator(configuration, before),
            release=self._release,
            headers=configuration.headers,
            limiter=self._limiter(configuration, before),
            tls=tls,
        )

    def _refuse_less(self, configuration: WebConfiguration, tls: Tls | None) -> None:
        """A file that is half written asks for nothing. To let go of what guards takes a restart."""
        held = self._access
        certificate = held.tls is not None and held.tls.asks_for_certificate
        gone = [
            key
            for key, was, is_now in (
                ("basic_auth_users", held.authenticator is not None, bool(configuration.users)),
                ("tls_server_config", held.tls is not None, tls is not None),
                (
                    "tls_server_config.client_auth_type: RequireAndVerifyClientCert",
                    certificate,
                    tls is None or tls.asks_for_certificate,
                ),
            )
            if was and not is_now
        ]
        if gone:
            raise ConfigurationError(
                str(self._path), tuple(f"{key}: is gone; to do without it, restart the agent" for key in gone)
            )

    def _authenticator(
        self, configuration: WebConfiguration, before: WebConfiguration | None
    ) -> Authenticator | None:
        if before is not None and configuration.users == before.users:
            return self._access.authenticator  # with the passwords that it knows
        return Authenticator(configuration.users) if configuration.users else None

    def _limiter(
        self, configuration: WebConfiguration, before: WebConfiguration | None
    ) -> TokenBucket | None:
        limit = configuration.limit
        if before is not None and limit == before.limit:
            return self._access.limiter
        if limit is None:
            return None
        return TokenBucket(interval_seconds=limit.interval_seconds, burst=limit.burst, clock=self._clock)

    def _digest_now(self) -> bytes:
        section = self._configuration.tls if self._configuration is not None else None
        named = named_files(section, self._path) if section is not None else ()
        return _digest((self._path, *named))


def _digest(paths: Iterable[Path]) -> bytes:
    """Of what is in them. Not of their times: a volume of Kubernetes swaps links, and clocks are coarse."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES)
        except OSError as error:
            content = repr(error.errno).encode()
        digest.update(b"%d:" % len(content) + content)
    return digest.digest()
