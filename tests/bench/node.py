"""The node that is watched: GPUs of the stand-in NVML, and engines over HTTP in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
NVLINKS = 18
"""Of an H100 SXM."""


def gpu_settings(count: int, *, pid: int) -> dict[str, object]:
    """What the stand-in is told: so many H100, all their NVLinks, and on each a process of this number.

    One process stands for all engines: who asks `/proc` about it asks about something that is there.
    """
    links = {f"field.{field}.{link}": 41_000_000 for field in (138, 139) for link in range(NVLINKS)}
    return {"gpus": count, "processes": f"{pid}:60000000000", "field.91": NVLINKS, **links}


class Engines:
    """So many simulated engines, spread over so many GPUs, until the block ends."""

    def __init__(self, *, count: int, gpus: int, by_hand: bool = False) -> None:
        """`by_hand`: their clock stands still until `advance`."""
        command = [sys.executable, "-m", "tests.bench.engines", f"--engines={count}", f"--gpus={gpus}"]
        self._process = subprocess.Popen(
            command + ["--by-hand"] * by_hand,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        self.configurations: list[dict[str, object]] = json.loads(self._answer())
        """What the agent's configuration lists under `engines`."""
        return self

    @property
    def urls(self) -> list[str]:
        """Of their pages."""
        return [str(one["url"]) for one in self.configurations]

    def advance(self, seconds: float) -> None:
        """Move their clock on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the simulated engines have ended")
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()
