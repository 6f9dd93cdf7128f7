"""The worker, seen from outside: start it, let it work, and count what it did between two instants."""

from __future__ import annotations

import bisect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.gpu.workloads import Workload

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0
"""For a worker to come to its end after it was told to."""


class WorkerError(Exception):
    """The worker did not do what it was started for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a worker has done, and when."""

    calls_of_a_batch: Mapping[str, int]
    points: tuple[tuple[float, int], ...]
    """(monotonic seconds, batches complete), in the order of time."""

    def calls_between(self, begin_seconds: float, end_seconds: float) -> dict[str, float]:
        """Calls of each kind, fractions included: a batch is taken as even within itself."""
        batches = self._batches_at(end_seconds) - self._batches_at(begin_seconds)
        return {name: count * batches for name, count in self.calls_of_a_batch.items()}

    def _batches_at(self, seconds: float) -> float:
        after = bisect.bisect_right(self.points, seconds, key=lambda point: point[0])
        if after == 0:
            return 0.0
        if after == len(self.points):
            return float(self.points[-1][1])
        (t0, n0), (t1, n1) = self.points[after - 1], self.points[after]
        return n0 + (n1 - n0) * (seconds - t0) / (t1 - t0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """The PyTorch that drives the GPU, and the GPU that it would use."""

    version: str
    cuda_version: str
    device_name: str
    device_uuid: str
    """Without the ``GPU-`` that NVML puts before it; empty where PyTorch does not tell."""
    free_bytes: int


def describe_torch(python: str) -> Torch | str:
    """What this interpreter has, or in words what is missing and how to get it."""
    try:
        answer = subprocess.run(
            [python, "-m", "tests.gpu.worker", "--describe"], cwd=ROOT, capture_output=True, text=True
        )
    except OSError as error:
        return f"{python} cannot be started: {error}"
    if answer.returncode != 0:
        return f"PyTorch fails under {python}: {_cause(answer.stderr)}"
    about = json.loads(answer.stdout.splitlines()[-1])
    if about["torch"] is None:
        return (
            f"PyTorch is not installed for {python} ({about['problem']}); either\n"
            f"    {python} -m pip install torch\n"
            "  or name an interpreter that has it with --python, for example that of a vLLM server"
        )
    if "device" not in about:
        built = f"built for CUDA {about['cuda']}" if about["cuda"] else "built without CUDA"
        return (
            f"PyTorch {about['torch']}, {built}, sees no CUDA device under {python}; "
            "is it a build for this driver (https://pytorch.org/get-started), and CUDA_VISIBLE_DEVICES right?"
        )
    return Torch(
        version=about["torch"],
        cuda_version=about["cuda"],
        device_name=about["device"],
        device_uuid=about["uuid"],
        free_bytes=about["free_bytes"],
    )


class Running:
    """A worker at work."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self._errors = errors
        # The first answer comes when the data is there and the calls have been timed.
        self._batch: dict[str, int] = self._answer()["batch"]

    def finish(self) -> Progress:
        """Stop it, and hear what it has done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        points = self._answer()["points"]
        return Progress(calls_of_a_batch=self._batch, points=tuple((t, n) for t, n in points))

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may print a word of their own
                return json.loads(line)
        self._process.wait(PATIENCE_SECONDS)
        self._errors.seek(0)
        raise WorkerError(f"exit status {self._process.returncode}: {_cause(self._errors.read())}")


@contextmanager
def running(workload: Workload, *, python: str = sys.executable) -> Iterator[Running]:
    """A worker that is ready and already at work; raises `WorkerError` when it does not get so far."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [python, "-m", "tests.gpu.worker", workload.name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Running(process, errors)
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _cause(errors: str) -> str:
    """The line of a traceback that names the error: CUDA's messages go on for some lines after it."""
    lines = [line for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["without a word"])[-1]
