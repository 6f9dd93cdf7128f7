"""The command: `python -m tests.fuzz` tries all parsers, and keeps what breaks one."""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from random import Random
from typing import Any

from tests.fuzz.parsers import SECONDS_EACH, Check, Parser, table

ROUND = 200
"""Cases of one parser in a row, before the next one has its turn."""
MAX_MEBIBYTES = 64.0
"""By which a process may grow while it tries one parser: more is kept by somebody."""
MAX_CRASHES = 20
"""Of one parser; then it is left alone."""


@dataclass
class Tally:
    """What came of one parser."""

    cases: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    input_bytes: int = 0
    crashes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Both together."""
        self.cases += other.cases
        self.seconds += other.seconds
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.input_bytes += other.input_bytes
        self.crashes += other.crashes


def attempt(check: Check, data: bytes) -> BaseException | None:
    """What the parser raises that it should not."""
    try:
        check(data)
    except Exception as error:
        return error
    return None


def place_of(error: BaseException) -> str:
    """The same for the same bug: what was raised, and the last line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/agent/" in frame.filename] or list(frames)
    if not own:
        return type(error).__name__
    return f"{type(error).__name__} in {Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"


def smaller(parser: Parser, data: bytes, place: str, *, seconds: float = 10.0) -> bytes:
    """An input as small as can be found soon that breaks it in the same place."""
    end = time.monotonic() + seconds
    step = max(len(data) // 2, 1)
    while step and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            tried = data[:at] + data[at + step :]
            error = attempt(parser.begin(), tried)
            if error is not None and place_of(error) == place:
                data = tried
            else:
                at += step
        step //= 2
    return data


def keep(parser: Parser, data: bytes) -> Path:
    """In the corpus."""
    path = parser.directory / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def resident_mebibytes() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_round(parser: Parser, dice: Random, cases: int) -> Tally:
    """So many cases of one parser, one after the other, with all that it keeps between them."""
    tally = Tally()
    check = parser.begin()
    before = resident_mebibytes()
    begun = time.perf_counter()
    for _ in range(cases):
        data = parser.case(dice)
        since = time.process_time()
        error = attempt(check, data)
        took = time.process_time() - since
        tally.slowest_seconds = max(tally.slowest_seconds, took)
        tally.input_bytes += len(data)
        if error is None and took > SECONDS_EACH:
            error = TimeoutError(f"{took:.1f} s")
        if error is not None:
            place = place_of(error)
            if place not in tally.crashes:
                path = keep(parser, smaller(parser, data, place) if parser.shrinks else data)
                sys.stderr.write(f"\n{parser.name}: {place}: {str(error)[:200]}\n  kept as {path}\n")
            tally.crashes[place] += 1
            check = parser.begin()
    tally.cases, tally.seconds = cases, time.perf_counter() - begun
    if resident_mebibytes() - before > MAX_MEBIBYTES:
        tally.crashes[f"grew by {resident_mebibytes() - before:.0f} MiB"] += 1
    return tally


def run_shard(shard: int, rows: Sequence[str], *, cases: int, seed: int, end: float, results: Any) -> None:
    """All parsers in turn, until each has had its cases or time is up."""
    logging.disable()  # it would tell of each page
    parsers = [parser for parser in table() if parser.name in rows]
    dice = Random(f"{seed}/{shard}")
    unit = cases / sum(parser.weight for parser in parsers)
    left = {parser.name: math.ceil(unit * parser.weight) for parser in parsers}
    crashed: Counter[str] = Counter()
    while any(left.values()) and time.time() < end:
        for parser in parsers:
            number = min(math.ceil(ROUND * parser.weight), left[parser.name])
            if number == 0 or time.time() > end:
                continue
            tally = run_round(parser, dice, number)
            left[parser.name] -= number
            crashed[parser.name] += tally.crashes.total()
            if crashed[parser.name] > MAX_CRASHES:
                left[parser.name] = 0
            results.put((parser.name, tally))
    results.put(None)


def run(cases: int, *, seconds: float, jobs: int, seed: int, rows: Sequence[str] = ()) -> Mapping[str, Tally]:
    """All parsers together so many cases, over so many processes."""
    names = [parser.name for parser in table() if not rows or parser.name in rows]
    each = -(-cases // jobs)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    end = time.time() + seconds
    shards = [
        context.Process(
            target=run_shard,
            args=(shard, names),
            kwargs={"cases": each, "seed": seed, "end": end, "results": results},
            daemon=True,
        )
        for shard in range(jobs)
    ]
    for one in shards:
        one.start()
    tallies = {name: Tally() for name in names}
    ended, begun, shown = 0, time.monotonic(), 0.0
    while ended < jobs:
        try:
            result = results.get(timeout=60)
        except Empty:
            if not any(one.is_alive() for one in shards):
                raise RuntimeError("a shard ended without a word: was it killed?") from None
            continue
        if result is None:
            ended += 1
            continue
        tallies[result[0]].add(result[1])
        if time.monotonic() > shown + 1:
            shown = time.monotonic()
            done = sum(tally.cases for tally in tallies.values())
            crashes = sum(tally.crashes.total() for tally in tallies.values())
            sys.stderr.write(
                f"\r{done} of {cases} cases, {done / (shown - begun):.0f} a second, {crashes} crashes  "
            )
    sys.stderr.write("\n")
    return tallies


def render(tallies: Mapping[str, Tally], seconds: float) -> str:
    """A table, by parser."""
    lines = [f"{'parser':<26} {'cases':>8} {'cases/s':>9} {'bytes each':>11} {'slowest':>10} {'crashes':>8}"]
    for name, tally in tallies.items():
        rate = tally.cases / tally.seconds if tally.seconds else 0.0
        size = tally.input_bytes / tally.cases if tally.cases else 0.0
        lines.append(
            f"{name:<26} {tally.cases:>8} {rate:>9.0f} {size:>11.0f} {tally.slowest_seconds * 1000:>7.0f} ms"
            f" {tally.crashes.total():>8}"
        )
        lines += [f"    {count} × {place}" for place, count in tally.crashes.most_common()]
    cases = sum(tally.cases for tally in tallies.values())
    lines.append(f"{'all':<26} {cases:>8} {cases / seconds:>9.0f}  in {seconds:.0f} s")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="of all parsers together")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which it ends all the same")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parser", action="append", default=[], help="only these")
    options = parser.parse_args()
    begun = time.monotonic()
    tallies = run(
        options.cases, seconds=options.seconds, jobs=options.jobs, seed=options.seed, rows=options.parser
    )
    print(render(tallies, time.monotonic() - begun))
    return 1 if any(tally.crashes for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
