"""Grafana's own code, run in Node: its types, its transformations and its grammar of PromQL judge the boards.

The packages are installed once, exactly as `grafana/package-lock.json` has them. What they depend on and
never load here – an editor, maps, widgets – is replaced by a small package that is there anyway, in the
`overrides` of `grafana/package.json`; else they would be five times as many.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).parent / "grafana"
LOCK = PACKAGES / "package-lock.json"
INSTALLED = PACKAGES / "node_modules" / ".installed.json"
"""A copy of the lock that was installed."""


def _tool(name: str, package: str) -> str:
    command = shutil.which(name)
    assert command, f"{name} is missing: it is in the package {package} (Debian: apt-get install {package})"
    return command


@cache
def install_packages() -> Path:
    """Where Grafana's packages are; installs them when they are not what the lock says."""
    npm = _tool("npm", "npm")
    with (PACKAGES / "package.json").open() as held:
        # Two workers may want them at once.
        fcntl.flock(held, fcntl.LOCK_EX)
        if not INSTALLED.exists() or INSTALLED.read_text() != LOCK.read_text():
            installed = subprocess.run([npm, "ci"], cwd=PACKAGES, capture_output=True, text=True, check=False)
            assert installed.returncode == 0, f"npm ci in {PACKAGES}: {installed.stdout}{installed.stderr}"
            INSTALLED.write_text(LOCK.read_text())
    return PACKAGES / "node_modules"


def run_script(script: str, given: Any) -> Any:
    """What a script in `grafana/` makes of a document."""
    install_packages()
    ran = subprocess.run(
        [_tool("node", "nodejs"), PACKAGES / script],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def run_type_checker(project: Path) -> str:
    """What tsc finds wrong in a project; "" if nothing."""
    compiler = install_packages() / "typescript" / "bin" / "tsc"
    ran = subprocess.run(
        [_tool("node", "nodejs"), compiler, "--project", project, "--pretty", "false"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(ran.stdout) == bool(ran.returncode), ran.stdout + ran.stderr
    return ran.stdout
