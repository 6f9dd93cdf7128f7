"""Certificates for the length of a test: an authority, and what it vouches for."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.rig.programs import tool


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: Path
    key: Path

    @property
    def files(self) -> tuple[str, str]:
        """As requests takes them."""
        return str(self.certificate), str(self.key)


class Authority:
    """Vouches for whom it is asked to."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory, self._name = directory, name
        self.pair = self._make(name, "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign")

    @property
    def certificate(self) -> Path:
        """By which others know it."""
        return self.pair.certificate

    def vouch(self, name: str, names: str = "DNS:localhost,IP:127.0.0.1", *, key: str = "ec") -> Pair:
        """A certificate for these alternative names, good for servers and clients."""
        usage = "extendedKeyUsage=serverAuth,clientAuth"
        return self._make(name, f"subjectAltName={names}", usage, by=self.pair, key=key)

    def _make(self, name: str, *extensions: str, by: Pair | None = None, key: str = "ec") -> Pair:
        made = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if key == "ec" else []
        signed = ["-CA", str(by.certificate), "-CAkey", str(by.key)] if by is not None else []
        subprocess.run(
            [
                *(tool("openssl", "openssl"), "req", "-x509", "-newkey", key, *curve, "-nodes", "-days", "2"),
                *("-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(made.certificate), *signed),
                *(word for extension in extensions for word in ("-addext", extension)),
            ],
            check=True,
            capture_output=True,
        )
        return made
