"""Packages of npm that judge what we write: a folder with a `package.json` has what its lock says."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any


def _tool(name: str, package: str) -> str:
    command = shutil.which(name)
    assert command, f"{name} is missing: it is in the package {package} (Debian: apt-get install {package})"
    return command


@cache
def install_packages(folder: Path) -> Path:
    """Where the packages of that folder are; installs them when they are not what the lock says."""
    npm = _tool("npm", "npm")
    lock = folder / "package-lock.json"
    # A copy of the lock that was installed.
    installed = folder / "node_modules" / ".installed.json"
    with (folder / "package.json").open() as held:
        # Two workers may want them at once.
        fcntl.flock(held, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_text() != lock.read_text():
            ran = subprocess.run([npm, "ci"], cwd=folder, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, f"npm ci in {folder}: {ran.stdout}{ran.stderr}"
            installed.write_text(lock.read_text())
    return folder / "node_modules"


def run_script(script: Path, given: Any) -> Any:
    """What a script, with the packages of its folder, makes of a document."""
    install_packages(script.parent)
    ran = subprocess.run(
        [_tool("node", "nodejs"), script],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def run_type_checker(compiler: Path, project: Path) -> str:
    """What tsc finds wrong in a project; "" if nothing."""
    ran = subprocess.run(
        [_tool("node", "nodejs"), compiler, "--project", project, "--pretty", "false"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(ran.stdout) == bool(ran.returncode), ran.stdout + ran.stderr
    return ran.stdout
