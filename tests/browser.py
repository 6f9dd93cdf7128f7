"""A real Chromium, without a screen."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Browser:
    binary: str
    profile: Path

    def open(self, url: str, *, width: int, height: int = 1000) -> tuple[list[str], tuple[int, int]]:
        """What the console says of a page, and the size of the picture taken of it."""
        picture = self.profile / "page.png"
        done = subprocess.run(
            [
                self.binary,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--hide-scrollbars", "--enable-logging=stderr", "--v=0"),
                f"--user-data-dir={self.profile}",
                f"--screenshot={picture}",
                f"--window-size={width},{height}",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        return console, struct.unpack(">II", picture.read_bytes()[16:24])


def find_browser(profile: Path) -> Browser:
    """The Chromium of this machine, with a profile of its own; without one the test fails and says so."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        where = "in this CI image" if os.environ.get("CI") == "true" else "on this machine"
        pytest.fail(
            f"chromium is not installed {where}; the package is `chromium` (apt-get install chromium)"
        )
    return Browser(binary, profile)
