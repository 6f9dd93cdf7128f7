"""Lock, image, unit and compose file: what can be known of them without a container engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_configuration
from tests.promtool import promtool

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
UNIT = ROOT / "deploy" / "systemd" / "roofline-agent.service"
LOCKS = ("requirements.lock", "requirements-report.lock", "requirements-build.lock")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    """The version of each library of a lock."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonical(library): version for library, version in found}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_a_hash_for_each_library_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"://|index-url|find-links", text)


def test_the_lock_has_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [re.split(r"[>=<~!\[; ]", one)[0] for one in project["project"]["dependencies"]]
    assert {canonical(one) for one in asked} <= locked("requirements.lock").keys()
    (builder,) = project["build-system"]["requires"]
    assert re.split(r"[>=<]", builder)[0] in locked("requirements-build.lock")


def test_the_reviews_lock_has_what_its_extra_asks_for_and_the_agents_own_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        re.split(r"[>=<~!\[; ]", one)[0] for one in project["project"]["optional-dependencies"]["report"]
    ]
    own, agents = locked("requirements-report.lock"), locked("requirements.lock")
    assert {canonical(one) for one in asked} <= own.keys()
    assert {name for name in own.keys() & agents.keys() if own[name] != agents[name]} == set()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-report.lock"])
def test_no_library_comes_along_that_is_not_explained(name: str) -> None:
    said = (ROOT / "docs" / "dependencies.md").read_text()
    assert [library for library in locked(name) if f"`{library}`" not in said] == []


def stages() -> dict[str, tuple[str, str]]:
    """Of the Dockerfile: what each stage begins from, and its lines."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return {
        name: (base, lines) for base, name, lines in zip(found[::3], found[1::3], found[2::3], strict=True)
    }


def all_of(stage: str) -> str:
    """Its lines, and those of every stage from which it begins or takes files."""
    base, lines = stages()[stage]
    others = {base, *re.findall(r"--from=(\S+)", lines)} & stages().keys()
    return lines + "".join(map(all_of, sorted(others)))


def test_what_draws_the_review_is_in_its_image_and_not_in_the_agents() -> None:
    assert "requirements-report.lock" in all_of("report")
    assert "requirements-report.lock" not in all_of("image")
    assert list(stages())[-1] == "image"  # what is built where no target is named


@pytest.mark.parametrize("stage", ["image", "report"])
def test_each_image_runs_as_nobody_and_says_what_it_is_and_what_is_in_it(stage: str) -> None:
    base, lines = stages()[stage]
    assert base == "base"
    both = stages()["base"][1] + lines
    assert re.findall(r"^USER (.*)$", both, re.MULTILINE) == ["65532:65532"]
    assert re.findall(r"^ENTRYPOINT (.*)$", both, re.MULTILINE) == ['["roofline-agent"]']
    assert "/usr/share/sbom/" in lines
    assert {"title", "description", "licenses", "version", "revision", "created"} <= set(
        re.findall(r"org\.opencontainers\.image\.(\w+)=", both)
    )


def test_what_runs_needs_nothing_that_builds() -> None:
    # Into another interpreter pip installs with that interpreter, which has no setuptools.
    commands = re.split(r"&&|\n", all_of("image") + all_of("report"))
    into_another = [one for one in commands if "pip --python" in one]
    assert len(into_another) >= 3
    assert [one for one in into_another if "--no-build-isolation" in one] == []
    assert [one for one in into_another if "--require-hashes" not in one and "--no-index" not in one] == []


def test_the_review_sees_no_gpu_and_the_agent_sees_all() -> None:
    seen = {
        stage: re.findall(r"NVIDIA_VISIBLE_DEVICES=(\w+)", stages()[stage][1])
        for stage in ("image", "report")
    }
    assert seen == {"image": ["all"], "report": ["void"]}


def test_both_images_are_made_and_named() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "image", "ENGINE=docker", "IMAGE=agent:1"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"--target (\S+) --tag (\S+)", told) == [
        ("image", "agent:1"),
        ("report", "agent:1-report"),
    ]


def test_the_daemon_loads_nothing_that_draws() -> None:
    code = """
import sys
from agent import cli
status = cli.main(["once", "--simulate", "mixed", "--seconds", "1", "--format", "prometheus"])
drawing = {"matplotlib", "numpy", "PIL", "rich", "agent.report.command"}
loaded = sorted(drawing & sys.modules.keys())
sys.exit(f"status {status}, loaded {loaded}" if status or loaded else 0)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "roofline_gpu_up" in ran.stdout


def test_the_image_copies_what_is_there_and_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == one or source.startswith(f"{one}/") for one in let_in), source


def test_the_list_of_parts_is_the_same_each_time_and_names_every_library() -> None:
    def made() -> str:
        command = [sys.executable, str(ROOT / "deploy" / "image" / "sbom.py")]
        return str(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    text = made()
    assert made() == text
    document = json.loads(text)
    assert document["metadata"]["component"]["name"] == "roofline-agent"
    installed = {canonical(one.metadata["Name"]) for one in distributions()} - {"roofline-agent"}
    assert {one["name"] for one in document["components"] if one["type"] == "library"} == installed


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    command = shutil.which("systemd-analyze")
    assert command, "systemd-analyze is missing: it is in the package systemd, which `make tools` installs"
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    ran = subprocess.run([command, "verify", unit], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


class _Loader(yaml.SafeLoader):
    """Knows Compose's tag for what replaces instead of being merged."""


def _override(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("!override", _override)


def compose(name: str) -> dict[str, Any]:
    document = yaml.load((COMPOSE / name).read_text(), Loader=_Loader)
    services: dict[str, Any] = document["services"]
    return services


def test_what_compose_mounts_is_there() -> None:
    for service in compose("compose.yaml").values():
        for mount in service["volumes"]:
            source, target, *_ = mount.split(":")
            assert target.startswith("/")
            assert not source.startswith(".") or (COMPOSE / source).exists(), source


def test_compose_runs_the_agent_unprivileged() -> None:
    agent = compose("compose.yaml")["agent"]
    assert (agent["user"], agent["read_only"], agent["cap_drop"]) == ("65532:65532", True, ["ALL"])
    assert compose("demo.yaml")["agent"]["command"][0] == "demo"


def test_the_composed_agent_and_prometheus_understand_their_files(tmp_path: Path) -> None:
    assert load_configuration(COMPOSE / "agent.yaml").web.host == "127.0.0.1"
    text = (COMPOSE / "prometheus.yml").read_text()
    here = tmp_path / "prometheus.yml"
    here.write_text(text.replace("/etc/prometheus/rules", str(ROOT / "rules" / "generated")))
    ran = promtool("check", "config", here)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 rule files found" in ran.stdout


def test_the_composed_grafana_finds_boards_and_data() -> None:
    provisioning = COMPOSE / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "roofline.yaml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2] for mount in compose("compose.yaml")["grafana"]["volumes"])
    assert mounts["../../dashboards/generated"] == provider["options"]["path"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
