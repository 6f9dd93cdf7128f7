"""GPM without privileges: the profiling counters as a user without a name and without capabilities.

The agent's container runs so. `python -m tests.gpu.nonroot UUID` drops what it has, then opens NVML:
the devices, the library and the counters are all asked as that user.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.clock import SystemClock
from agent.errors import AgentError
from agent.sources.nvml import NvmlSource
from tests.gpu.driver import ROOT
from tests.gpu.watch import LostError, gpu_of

NOBODY = 65534
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class NonRoot:
    """What such a user sees."""

    uid: int
    capabilities: str | None
    """The effective ones, as the kernel prints them; all zeros is none."""
    reads_gpm: bool | None
    """`None` when it could not be tried."""
    problem: str | None
    """Why it does not, or could not be tried."""


def try_as_nobody(uuid: str) -> NonRoot:
    """In a process of its own: who has dropped root does not get it back."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.gpu.nonroot", uuid], cwd=ROOT, capture_output=True, text=True
    )
    if answer.returncode != 0:
        why = (answer.stderr.strip().splitlines() or ["without a word"])[-1]
        return NonRoot(uid=os.getuid(), capabilities=None, reads_gpm=None, problem=why)
    return NonRoot(**json.loads(answer.stdout))


def _drop() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _effective_capabilities() -> str | None:
    found = re.search(r"^CapEff:\s+(\S+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found[1] if found else None


def _read(uuid: str) -> tuple[bool, str | None]:
    source = NvmlSource(clock=SystemClock(), gpm=True)
    try:
        source.read()  # a value needs two samples
        time.sleep(PAUSE_SECONDS)
        reading = gpu_of(source.read(), uuid)
    except (AgentError, LostError) as error:
        return False, str(error)
    finally:
        source.close()
    return reading.activity is not None, reading.activity_problem


def main(uuid: str) -> None:
    try:
        _drop()
    except OSError as error:
        found = NonRoot(
            uid=os.getuid(),
            capabilities=_effective_capabilities(),
            reads_gpm=None,
            problem=f"root cannot be dropped here: {error}",
        )
    else:
        reads, problem = _read(uuid)
        found = NonRoot(
            uid=os.getuid(), capabilities=_effective_capabilities(), reads_gpm=reads, problem=problem
        )
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(sys.argv[1])
