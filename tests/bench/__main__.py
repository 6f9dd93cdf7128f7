"""What the agent costs: `make bench`, and docs/overhead.md for what came of it.

Each figure stands beside a peer's of the same run, as a ratio, so that the machine's speed drops out; and
beside what was promised of it. Figures of CPU time hardly mind who else uses the machine, those of elapsed
time do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

from tests.bench.floor import floor
from tests.bench.growth import BESIDE, growth
from tests.bench.pages import pages
from tests.bench.peers import side_by_side
from tests.bench.table import Table
from tests.nvml_standin import compile_library


def main() -> None:
    """Print all sections; the exit status does not judge."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=45, help="to watch each process at rest; best a multiple of 15"
    )
    parser.add_argument(
        "--growth-seconds", type=int, default=20, help="of its own time, for each size of node"
    )
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    options = parser.parse_args()
    table = Table()
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f} before the run")
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        scratch = Path(directory)
        library = compile_library(scratch)
        pages(table)
        side_by_side(table, library, scratch, seconds=options.seconds)
        sizes = growth(table, library, seconds=options.growth_seconds)
        floor(table, sizes[BESIDE, BESIDE])
    missed = list(table.missed)
    print(f"\n{len(missed)} promises missed" + "".join(f"\n  {one.what}: {one.promised}" for one in missed))
    if options.json is not None:
        run = {"python": platform.python_version(), "cores": os.cpu_count(), "load_before": load}
        options.json.write_text(json.dumps({"run": run, "sections": table.document()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
