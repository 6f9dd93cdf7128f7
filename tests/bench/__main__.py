"""What the agent costs: `make bench`, and docs/overhead.md for what came of it.

Each figure stands beside a peer's of the same run, as a ratio, so that the machine's speed drops out; and
beside what was promised of it. How disturbed a run was shows by a loop that always does the same: CPU time
too is longer while others use the core's sibling and its caches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from datetime import date
from pathlib import Path

from tests.bench.beats import cpu_ms
from tests.bench.floor import floor
from tests.bench.growth import BESIDE, growth
from tests.bench.node import ROOT
from tests.bench.pages import pages
from tests.bench.peers import side_by_side
from tests.bench.table import Table
from tests.nvml_standin import compile_library

PAGE = ROOT / "docs" / "overhead.md"
BEGIN, END = "<!-- make bench BENCH=--page writes from here -->", "<!-- to here -->"


def with_figures(page: str, run: str, tables: str) -> str:
    """The page with other figures between its two marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{PAGE.name} lacks a mark: {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{run}\n\n{tables}\n{END}{after}"


def told(run: dict[str, object]) -> str:
    """Where and how disturbed it was, as a sentence."""
    return (
        f"Of {date.today():%-d %B %Y}, Python {run['python']}, {run['cores']} cores. Load before the run: "
        f"{run['load_before']:.1f}. CPU time of a loop that always does the same: "
        f"{run['loop_ms_before']:.1f} ms before, {run['loop_ms_after']:.1f} ms after."
    )


def loop_ms() -> float:
    """CPU time of a loop in Python, the median of some seconds."""
    return statistics.median(cpu_ms(lambda: sum(number % 7 for number in range(400_000))) for _ in range(50))


def main() -> None:
    """Print all sections; the exit status does not judge."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=45, help="to watch each process at rest; best a multiple of 15"
    )
    parser.add_argument(
        "--growth-seconds", type=int, default=30, help="of its own time, for each size of node"
    )
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/overhead.md")
    options = parser.parse_args()
    table = Table()
    run: dict[str, object] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "loop_ms_before": loop_ms(),
    }
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        scratch = Path(directory)
        library = compile_library(scratch)
        pages(table)
        side_by_side(table, library, scratch, seconds=options.seconds)
        sizes = growth(table, library, seconds=options.growth_seconds)
        floor(table, sizes[BESIDE, BESIDE])
    run["loop_ms_after"] = loop_ms()
    print("\n" + ", ".join(f"{what}: {value}" for what, value in run.items()))
    missed = list(table.missed)
    print(f"{len(missed)} promises missed" + "".join(f"\n  {one.what}: {one.promised}" for one in missed))
    if options.json is not None:
        options.json.write_text(json.dumps({"run": run, "sections": table.document()}, indent=2) + "\n")
    if options.page:
        PAGE.write_text(with_figures(PAGE.read_text(), told(run), table.markdown()))


if __name__ == "__main__":
    main()
