"""The command: `python -m tests.soak` breaks things for hours of the agent's time, and tells of it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.nvml_standin import compile_library
from tests.soak import node, nvml, process
from tests.soak.promises import Held, slope_per_hour

WARM_UP = 0.2
"""Of a run: until then caches fill."""
SIMULATED_SECONDS = 9000.0
"""For which the simulated node itself grows: it keeps the truth of two hours."""
GROWTH_MEBIBYTES = 4.0
"""From the end of warm-up to the end, more is a leak; so are more threads or files than these."""
MORE_THREADS = 6
MORE_FILES = 10


def settled(held: Sequence[Held]) -> str:
    """What a process held after warm-up and at the end, in words; `AssertionError` if that is no plateau."""
    after = held[int(len(held) * WARM_UP) :]
    if len(after) < 4:
        return "too short to tell whether it grows"
    part = max(len(after) // 4, 1)
    early, late = after[:part], after[-part:]
    grown = (sum(one.mebibytes for one in late) - sum(one.mebibytes for one in early)) / part
    slope = slope_per_hour([(one.at_seconds, one.mebibytes) for one in after])
    threads = [one.threads for one in after]
    files = [one.files for one in after]
    words = (
        f"{after[0].mebibytes:.1f} MiB after warm-up, {after[-1].mebibytes:.1f} at the end ({grown:+.2f} "
        f"between the first and the last quarter, {slope:+.3f} an hour of its time); {min(threads)} to "
        f"{max(threads)} threads, {min(files)} to {max(files)} files"
    )
    assert grown < GROWTH_MEBIBYTES, words
    assert threads[-1] <= min(threads) + MORE_THREADS, words
    assert files[-1] <= min(files) + MORE_FILES, words
    return words


def _progress(text: str) -> None:
    sys.stderr.write(f"\r{text:<110}")
    sys.stderr.flush()


def soak_node(ticks: int, *, seed: int, minutes: float | None) -> None:
    """The simulated node, in virtual time."""
    started = time.monotonic()
    end = started + minutes * 60 if minutes is not None else float("inf")

    def report(run: node.NodeSoak, held: list[Held]) -> None:
        _progress(
            f"node: {run.ticks} of {ticks} ticks, {sum(run.happened.values())} faults and reloads, "
            f"{held[-1].mebibytes:.1f} MiB, {time.monotonic() - started:.0f} s"
        )

    run, held = node.soak(ticks, seed=seed, until=lambda: time.monotonic() > end, report=report)
    hours = run.clock.monotonic() / 3600
    words = settled([one for one in held if one.at_seconds > SIMULATED_SECONDS])
    print(
        f"\nnode: {run.ticks} ticks, {hours:.1f} hours of its time, in {time.monotonic() - started:.0f} s; "
        f"{run.ledger.pages} pages and as many assessments kept every promise.\n"
        f"  {words}; {run.log.lines} lines in the log, no traceback."
    )
    for what, count in sorted(run.happened.items()):
        print(f"  {count:6} × {what}")
    for what, seconds in sorted(run.down_seconds.items()):
        print(f"  {seconds:6} ticks in which nothing was said of {what}, which did not answer")


def soak_nvml(ticks: int, *, seed: int) -> None:
    """The driver alone, call by call, in virtual time."""
    held: list[Held] = []
    started = time.monotonic()
    logging.disable()  # it would tell of each fault

    def report(run: nvml.Soak) -> None:
        held.append(Held.by_us(float(run.ticks)))
        _progress(
            f"nvml: {run.ticks} of {ticks} ticks, {run.faults} faults, {held[-1].mebibytes:.1f} MiB, "
            f"{time.monotonic() - started:.0f} s"
        )

    with tempfile.TemporaryDirectory() as directory:
        run = nvml.soak(ticks, seed=seed, directory=Path(directory), report=report)
    logging.disable(logging.NOTSET)
    print(
        f"\nnvml: {run.ticks} ticks: {run.faults} faults, {run.lost_gpus} times a GPU lost, "
        f"{run.broken_sessions} ticks without a session, {run.gaps} gaps, {run.xids} XIDs, {run.remade} "
        f"instances remade; time was conserved and counters rose at each.\n  {settled(held)}"
    )


def soak_process(minutes: float, *, seed: int, vllm: Path | None) -> None:
    """The real process, in real time."""
    started = time.monotonic()

    def report(name: str, run: process.ProcessSoak) -> None:
        _progress(
            f"process: {time.monotonic() - started:.0f} of {minutes * 60:.0f} s, "
            f"{run.held[-1].mebibytes:.1f} MiB, well again after {name}"
        )

    with tempfile.TemporaryDirectory(prefix="soak") as directory:
        place = Path(directory)
        library = compile_library(place)
        process.with_nobody_to_log_to(place, library)
        if vllm is None:
            outcome = process.soak(minutes * 60, seed=seed, directory=place, library=library, report=report)
        else:
            os.environ["VLLM_DIR"] = str(vllm.absolute())
            from tests.soak.vllm import under_load  # it looks there at once

            with under_load() as server:
                outcome = process.soak(
                    minutes * 60, seed=seed, directory=place, library=library, extra=server, report=report
                )
    print(
        f"\nprocess: {outcome.seconds:.0f} s, {outcome.scrapes} scrapes by {process.SCRAPERS} at once, "
        f"{outcome.missed} not to be had while that was excused, the slowest of the others in "
        f"{outcome.slowest_seconds:.2f} s.\n  {settled(outcome.held)}; {outcome.log_lines} lines in the log, "
        "no traceback."
    )
    for what, count in sorted(outcome.happened.items()):
        print(f"  {count:6} × {what}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--ticks", type=int, default=100_000, help="of each soak in virtual time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="end the node's soak, and the process's, after so many")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--node", action="store_true", help="only the node, in virtual time")
    only.add_argument("--nvml", action="store_true", help="only the driver, in virtual time")
    only.add_argument("--process", action="store_true", help="only the real process (5 minutes)")
    parser.add_argument("--vllm", type=Path, metavar="DIR", help="a real vLLM beside it, installed there")
    options = parser.parse_args()
    everything = not (options.node or options.nvml or options.process)
    if everything or options.nvml:
        soak_nvml(options.ticks, seed=options.seed)
    if everything or options.node:
        soak_node(options.ticks, seed=options.seed, minutes=options.minutes)
    if everything or options.process:
        soak_process(options.minutes or 5.0, seed=options.seed, vllm=options.vllm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
