"""A real Chromium, without a screen."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

Scheme = Literal["light", "dark"]
SCHEMES: Mapping[Scheme, int] = {"dark": 0, "light": 1}
"""As Chromium numbers them."""


@dataclass(frozen=True)
class Browser:
    binary: str
    profile: Path

    def open(
        self, url: str, *, width: int, height: int = 1000, prefers: Scheme = "light"
    ) -> tuple[list[str], tuple[int, int]]:
        """What the console says of a page, and the size of the picture taken of it."""
        done = self._run(
            "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={SCHEMES[prefers]}",
            f"--screenshot={self.picture}",
            f"--window-size={width},{height}",
            url,
        )
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        return console, struct.unpack(">II", self.picture.read_bytes()[16:24])

    @property
    def picture(self) -> Path:
        """Where the last picture is."""
        return self.profile / "page.png"

    def print(self, url: str, *, prefers: Scheme = "light") -> Path:
        """The page on paper, as PDF."""
        paper = self.profile / "page.pdf"
        self._run(
            "--no-pdf-header-footer",
            f"--blink-settings=preferredColorScheme={SCHEMES[prefers]}",
            f"--print-to-pdf={paper}",
            url,
        )
        return paper

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                self.binary,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--enable-logging=stderr", "--v=0"),
                f"--user-data-dir={self.profile}",
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )


def find_browser(profile: Path) -> Browser:
    """The Chromium of this machine, with a profile of its own; without one the test fails and says so."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        where = "in this CI image" if os.environ.get("CI") == "true" else "on this machine"
        pytest.fail(
            f"chromium is not installed {where}; the package is `chromium` (apt-get install chromium)"
        )
    return Browser(binary, profile)
