"""Grafana's own code, run in Node: its types, its transformations and its grammar of PromQL judge the boards.

The packages are installed once, exactly as `grafana/package-lock.json` has them. What they depend on and
never load here – an editor, maps, widgets – is replaced by a small package that is there anyway, in the
`overrides` of `grafana/package.json`; else they would be five times as many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import npm_packages

PACKAGES = Path(__file__).parent / "grafana"


def install_packages() -> Path:
    """Where Grafana's packages are; installs them when they are not what the lock says."""
    return npm_packages.install_packages(PACKAGES)


def run_script(script: str, given: Any) -> Any:
    """What a script in `grafana/` makes of a document."""
    return npm_packages.run_script(PACKAGES / script, given)


def run_type_checker(project: Path) -> str:
    """What tsc finds wrong in a project; "" if nothing."""
    return npm_packages.run_type_checker(install_packages() / "typescript" / "bin" / "tsc", project)
