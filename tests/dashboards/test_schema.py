"""Each board is what the types of Grafana's own schema say, of the oldest Grafana we know and of the newest.

A board becomes TypeScript: itself, each panel by its type, and each override of a panel type's own fields,
each a literal that must have the type. Literals may not have keys that the type has not.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.dashboards.boards import Json, board, data_panels_of, panels_of
from tests.dashboards.grafana_packages import PACKAGES, install_packages, run_type_checker
from tests.dashboards.specimen import JUDGED, judged

SCHEMAS = {"11.6": "grafana-schema-11", "13.2": "@grafana/schema"}


def literal(name: str, type_name: str, value: object) -> str:
    return f"export const {name}: {type_name} = {json.dumps(value, indent=1)};\n"


def as_typescript(content: Json) -> str:
    """The board and its panels as literals of Grafana's types."""
    lines = ["import type { Board, Overridden, PanelOf, RowOf } from './plain';\n"]
    lines.append(literal("board", "Board", {**content, "panels": []}))
    for panel in panels_of(content):
        name = f"panel{panel['id']}"
        if panel["type"] == "row":
            lines.append(literal(name, "RowOf", {**panel, "panels": []}))
            continue
        lines.append(literal(name, f"PanelOf<'{panel['type']}'>", panel))
        for number, override in enumerate(panel.get("fieldConfig", {}).get("overrides", ())):
            custom = {
                one["id"].removeprefix("custom."): one["value"]
                for one in override["properties"]
                if one["id"].startswith("custom.")
            }
            lines.append(literal(f"{name}override{number}", f"Overridden<'{panel['type']}'>", custom))
    return "".join(lines)


def complaints_of(schema: Path, contents: Mapping[str, Json], directory: Path) -> Mapping[str, list[str]]:
    """By board, what is not of the schema's types."""
    (directory / "plain.ts").write_text((PACKAGES / "plain.ts").read_text())
    for name, content in contents.items():
        (directory / f"{name}.ts").write_text(as_typescript(content))
    options = {
        "strict": True,
        "noEmit": True,
        "skipLibCheck": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "types": [],
        "paths": {"@grafana/schema": [str(types_of(schema))], "@grafana/schema/*": [f"{schema}/*"]},
    }
    (directory / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["*.ts"]}))
    found: dict[str, list[str]] = defaultdict(list)
    for line in run_type_checker(directory).splitlines():
        place = re.match(r"(?:.*/)?([^/]+)\.ts\(\d+,\d+\): ", line)
        if place is not None:
            found[place[1]].append(line)
        else:
            assert line.startswith(" "), line
    return found


def types_of(schema: Path) -> Path:
    """Where a package says that its types are."""
    described = json.loads((schema / "package.json").read_text())
    return schema / str(described["types"])


def _first(content: Json, kind: str) -> Json:
    return next(panel for panel in data_panels_of(content) if panel["type"] == kind)


SPOILS: dict[str, Callable[[Json], object]] = {
    "a key that no dashboard has": lambda content: content.update(hideControls=False),
    "a time zone that is a number": lambda content: content.update(timezone=1),
    "an option that a stat has not": lambda content: _first(content, "stat")["options"].update(sparkline={}),
    "a colour mode that does not exist": lambda content: _first(content, "stat")["options"].update(
        colorMode="foreground"
    ),
    "an option that is missing": lambda content: _first(content, "timeseries")["options"].pop("legend"),
    "a draw style that does not exist": lambda content: _first(content, "timeseries")["fieldConfig"][
        "defaults"
    ]["custom"].update(drawStyle="lines"),
    "a threshold that is a word": lambda content: _first(content, "stat")["fieldConfig"]["defaults"][
        "thresholds"
    ]["steps"][0].update(value="null"),
    "a cell option that does not exist": lambda content: _first(content, "table")["fieldConfig"]["overrides"][
        0
    ].update(properties=[{"id": "custom.cellOptions", "value": {"type": "colour-text"}}]),
    "a query of the old kind": lambda content: _first(content, "stat")["targets"][0].update(intervalFactor=2),
    "a variable that hides by a word": lambda content: content["templating"]["list"][1].update(hide="no"),
}


def spoiled_boards() -> dict[str, Json]:
    """Agent health with one panel of a kind, spoiled in each of the ways."""
    spoiled = {}
    for number, spoil in enumerate(SPOILS.values()):
        content = board("agent")
        content["panels"] = list({panel["type"]: panel for panel in content["panels"]}.values())
        spoil(content)
        spoiled[f"spoiled{number}"] = content
    return spoiled


@pytest.fixture(scope="module", params=SCHEMAS)
def complaints(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, list[str]]:
    """Of all boards and of the spoiled ones: tsc takes longest to read the schema."""
    schema = install_packages() / SCHEMAS[request.param]
    return complaints_of(schema, {**judged(), **spoiled_boards()}, tmp_path_factory.mktemp("schema"))


@pytest.mark.parametrize("name", JUDGED)
def test_the_board_has_the_schemas_types(name: str, complaints: Mapping[str, list[str]]) -> None:
    assert complaints.get(name, []) == []


@pytest.mark.parametrize(("number", "spoil"), [*enumerate(SPOILS)], ids=[*SPOILS])
def test_a_board_of_other_types_is_refused(
    number: int, spoil: str, complaints: Mapping[str, list[str]]
) -> None:
    assert complaints.get(f"spoiled{number}"), f"with {spoil} it was taken"
