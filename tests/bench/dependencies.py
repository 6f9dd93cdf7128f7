"""What each library costs to have: memory and time of importing it alone, in a process of its own.

`python -m tests.bench.dependencies`, with the interpreter of an installation that has nothing else. What a
library brings along counts as its own, so that the rows do not add up.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

IMPORTS = {
    "nothing": "pass",
    "nvidia-ml-py": "import pynvml",
    "pyyaml": "import yaml",
    "prometheus-client": "import prometheus_client",
    "bcrypt": "import bcrypt",
    "h2": "import h2.connection",
    "urllib3": "import urllib3",
    "requests": "import requests",
    "jinja2": "import jinja2",
    "cheroot": "import cheroot.wsgi",
    "pydantic": "import pydantic; pydantic.BaseModel",
    "matplotlib": "import io; from matplotlib.figure import Figure; "
    "figure = Figure(); figure.subplots().set_title('x'); figure.savefig(io.StringIO(), format='svg')",
    "rich": "import rich.console, rich.table, rich.text",
    "the agent": "import agent.daemon",
}
_MEASURE = """
import time
begin = time.perf_counter()
{statement}
seconds = time.perf_counter() - begin
with open("/proc/self/status") as status:
    (line,) = [line for line in status if line.startswith("VmRSS")]
print(seconds * 1000, int(line.split()[1]) / 1024)
"""


def measure(statement: str, times: int = 7) -> tuple[float, float]:
    """Milliseconds and MiB: medians of so many processes, the first of which only fills caches."""
    command = [sys.executable, "-c", _MEASURE.format(statement=statement)]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(times + 1)
    ]
    milliseconds, mebibytes = zip(*(map(float, run) for run in runs[1:]), strict=True)
    return statistics.median(milliseconds), statistics.median(mebibytes)


def main() -> None:
    """Print the table."""
    _, base = measure(IMPORTS["nothing"])
    print(f"the interpreter alone: {base:.1f} MiB")
    for name, statement in IMPORTS.items():
        if name != "nothing":
            milliseconds, mebibytes = measure(statement)
            print(f"| `{name}` | {mebibytes - base:.1f} MiB | {milliseconds:.0f} ms |")


if __name__ == "__main__":
    main()
