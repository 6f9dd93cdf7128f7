"""HTTP Basic authentication against bcrypt hashes, affordable at every scrape.

bcrypt is slow on purpose, and a scrape may cost a millisecond. So the last right password of each user is
remembered, as a digest under a key that only this process has. Wrong ones are never remembered; they cost
bcrypt's time again, but only two at once, so that the other workers go on answering those who are known.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping

from agent.errors import AgentError

MAX_CHECKS = 2
"""At once, of the server's four workers. Whoever comes then is told to come again: waiting takes a worker."""

BCRYPT_BYTES = 72
"""What bcrypt reads of a password. htpasswd and the exporter-toolkit cut there without a word."""


class BusyError(AgentError):
    """Too many credentials that are not known yet are being checked."""


class Authenticator:
    """Tells whose credentials a request carries."""

    def __init__(
        self, users: Mapping[str, str], *, check: Callable[[bytes, bytes], bool] | None = None
    ) -> None:
        """`users` gives the hash of each; `check` says whether a password fits a hash (default: bcrypt)."""
        if check is None:
            import bcrypt  # here, since who has no users need not hold it in memory

            check = bcrypt.checkpw
        self._check = check
        self._hashes = {name: hashed.encode() for name, hashed in users.items()}
        self._dearest = max(_cost(hashed) for hashed in self._hashes.values())
        self._key = secrets.token_bytes(32)
        # By user, so it cannot outgrow them; a digest is replaced whole: no lock needed.
        self._known: dict[str, bytes] = {}
        self._checks = threading.BoundedSemaphore(MAX_CHECKS)

    def user_of(self, authorization: str | None) -> str | None:
        """The user whose name and password this header holds, or `None`.

        Raises `BusyError` when that would take bcrypt, and it has enough to do.
        """
        credentials = _parse_basic(authorization or "")
        if credentials is None:
            return None
        user, password = credentials
        digest = hmac.digest(self._key, user.encode() + b"\0" + password, "sha256")
        if hmac.compare_digest(self._known.get(user, b""), digest):
            return user
        if not self._checks.acquire(blocking=False):
            raise BusyError("other credentials are being checked")
        try:
            if not self._fits(user, password):
                return None
        finally:
            self._checks.release()
        self._known[user] = digest
        return user

    def _fits(self, user: str, password: bytes) -> bool:
        """A refusal takes as long whoever is named, so that the time does not tell who exists."""
        hashed = self._hashes.get(user)
        if hashed is None:
            self._check(password, _decoy(self._dearest))
            return False
        if self._check(password, hashed):
            return True
        # Each cost takes twice as long as the one before: this one and those up to the dearest are its equal.
        for cost in range(_cost(hashed), self._dearest):
            self._check(password, _decoy(cost))
        return False


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _decoy(cost: int) -> bytes:
    """No password gives it."""
    return b"$2b$%02d$" % cost + b"." * 53


def _parse_basic(authorization: str) -> tuple[str, bytes] | None:
    """User and password as bcrypt sees it (RFC 7617, in UTF-8); `None` for anything else."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
        user = name.decode()
    except ValueError:
        return None
    # The RFC allows no control characters, and with NULs in them many passwords would fit one hash.
    if not colon or any(byte < 0x20 or byte == 0x7F for byte in password):
        return None
    return user, password[:BCRYPT_BYTES]
