"""Data flows one way, and the imports show it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AGENT = ROOT / "agent"

# Each layer may import the layers before it, and itself.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "agent.errors",
        "agent.clock",
        "agent.labels",
        "agent.logs",
        "agent.runbooks",
        "agent.signals",
        "agent.units",
        "agent.whole_file",
        "agent.__init__",
    ),
    ("agent.model_files", "agent.prices"),
    ("agent.readings",),
    ("agent.sources", "agent.engines", "agent.discovery"),
    ("agent.ladder", "agent.fusion"),
    ("agent.window",),
    ("agent.roofline",),
    (
        "agent.traffic",
        "agent.recovery",
        "agent.resolution",
        "agent.accounts",
        "agent.objectives",
        "agent.tiers",
    ),
    ("agent.assessment",),
    ("agent.judgement", "agent.tracks"),
    ("agent.advice",),
    ("agent.roster", "agent.placement"),
    ("agent.node",),
    ("agent.serving",),
    ("agent.sampler",),
    ("agent.metrics",),
    ("agent.exposition",),
    ("agent.simulate",),
    ("agent.config",),
    ("agent.difference", "agent.reloading"),
    ("agent.wiring",),
    ("agent.app",),
    ("agent.daemon", "agent.planning"),
    ("agent.calibration", "agent.report", "agent.terminal"),
    ("agent.cli", "agent.__main__"),
)

# The mathematics and the simulator know less than their place would allow.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "agent.roofline": (
        "agent.sources",
        "agent.engines",
        "agent.window",
        "requests",
        "pynvml",
        "time",
        "threading",
    ),
    "agent.simulate": (
        "agent.roofline",
        "agent.window",
        "agent.traffic",
        "agent.assessment",
        "agent.accounts",
        "agent.sampler",
        "agent.metrics",
        "agent.exposition",
    ),
    "agent.exposition": ("agent.sampler", "agent.config", "agent.simulate", "requests", "pynvml"),
    "agent.sampler": ("agent.engines", "agent.config", "requests", "pynvml"),
    "agent.serving": ("agent.engines", "agent.config", "requests", "pynvml"),
}

ONLY_IN: dict[str, tuple[str, ...]] = {
    "h2": ("agent.discovery.http2",),
    "matplotlib": ("agent.report.render",),
    "pynvml": ("agent.sources.nvml",),
    "requests": ("agent.sources.page", "agent.engines.source", "agent.engines.documents"),
    "torch": ("agent.calibration.torch_device",),
    "cheroot": ("agent.exposition.listener", "agent.simulate"),
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(AGENT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found.append((name, path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add("agent.__init__" if node.module == "agent" else node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            named = [each.value for each in node.args if isinstance(each, ast.Constant)]
            names.update(name for name in named if isinstance(name, str))
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer_of(name: str) -> int:
    for number, packages in enumerate(LAYERS):
        if any(within(name, package) for package in packages):
            return number
    raise AssertionError(f"{name} has no layer; add it where it belongs")


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value).rsplit("/", 1)[-1])
def test_imports_point_one_way(name: str, path: Path) -> None:
    for imported in imports(path):
        if within(imported, "agent"):
            assert layer_of(imported) <= layer_of(name), f"{name} imports {imported}, which comes after it"
    for package, banned in FORBIDDEN.items():
        if within(name, package):
            wrong = {i for i in imports(path) for ban in banned if within(i, ban)}
            assert not wrong, f"{name} must not know {wrong}"
    for library, homes in ONLY_IN.items():
        if any(within(i, library) for i in imports(path)):
            assert any(within(name, home) for home in homes), f"{library} belongs in {homes}, not in {name}"


VIEWS: dict[str, tuple[str, ...]] = {
    "agent": ("rules", "dashboards", "helm"),
    "helm": ("agent.sampler", "agent.exposition", "agent.simulate", "agent.app"),
    "rules": ("helm", "dashboards", "agent.sampler", "agent.exposition", "agent.simulate", "agent.app"),
    "dashboards": ("helm", "agent.sampler", "agent.exposition", "agent.simulate", "agent.app"),
}
"""What is made from the table, and what it must not know: the agent runs without any of it."""


@pytest.mark.parametrize("package", VIEWS)
def test_rules_and_dashboards_are_views_of_the_table(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    for path in paths:
        wrong = {name for name in imports(path) for banned in VIEWS[package] if within(name, banned)}
        assert not wrong, f"{path} must not know {wrong}"


def test_no_module_is_named_for_its_leftovers() -> None:
    stems = {path.stem for _, path in modules()}
    assert not stems & {"utils", "util", "helpers", "helper", "common", "misc", "manager", "core"}
