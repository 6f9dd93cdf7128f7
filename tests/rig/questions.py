"""Every query that a person is offered: in panels, variables and annotations of dashboards, and in texts.

A query is a question with its place. Grafana's variables are filled in as with "All" chosen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.rig.compression import compress_offsets
from tests.rig.programs import Database, QueryError

ANY = ".+"

Kind = Literal["instant", "range", "annotation", "label values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One query, and where it stands."""

    place: str
    expression: str
    """With its variables filled in."""
    kind: Kind
    label: str = ""
    """Of `label values`: which; the expression is the selector, or nothing."""

    def problem(self, database: Database) -> str | None:
        """Why it has no answer, if so."""
        try:
            return None if self._has_data(database) else "no data"
        except QueryError as error:
            return str(error)

    def _has_data(self, database: Database) -> bool:
        if self.kind == "label values":
            return bool(database.label_values(self.label, self.expression or None))
        # What is over by the end of the run was seen by who looked in time.
        if self.kind == "instant" and _numbers(database.at_end(self.expression)):
            return True
        return _numbers(database.over_run(self.expression))


def _numbers(series: Sequence[Mapping[str, Any]]) -> bool:
    """Any value that is one: NaN shows as nothing."""
    values = (value for one in series for value in one.get("values", [one.get("value", (0, "NaN"))]))
    return any(value[1] != "NaN" for value in values)


def unanswered(questions: Sequence[Question], database: Database) -> str:
    """Those without data, one a line."""
    lines = [
        f"{question.place}: {problem}: {' '.join(question.expression.split())[:300]}"
        for question in questions
        if (problem := question.problem(database)) is not None
    ]
    return "\n".join(lines)


# --- variables -----------------------------------------------------------------------------------


def builtin_variables(start: float, end: float) -> dict[str, str]:
    """Those that Grafana fills in by itself, for a dashboard that shows the run."""
    seconds = round(end - start)
    return {
        "__rate_interval": "15s",
        "__rate_interval_ms": "15000",
        "__interval": "5s",
        "__interval_ms": "5000",
        "__range": f"{seconds}s",
        "__range_s": f"{seconds}",
        "__range_ms": f"{seconds * 1000}",
        "__from": f"{start * 1000:.0f}",
        "__to": f"{end * 1000:.0f}",
    }


_NAME = r"(?:\$(?P<plain>[A-Za-z_]\w*)|\$\{(?P<braced>[A-Za-z_]\w*)(?::\w+)*\}|\[\[(?P<old>[A-Za-z_]\w*)\]\])"
_VARIABLE = re.compile(_NAME)
_MATCHER = re.compile(rf'(?P<operator>=|!=)\s*"{_NAME}"')


def fill_in(expression: str, variables: Mapping[str, str]) -> str:
    """The expression with every variable's value, or with whatever matches any value.

    A range that is longer than the run holds all of it, but what was a week ago must have been in it.
    """

    def value(match: re.Match[str]) -> str:
        return variables.get(match["plain"] or match["braced"] or match["old"], ANY)

    def matcher(match: re.Match[str]) -> str:
        # `="$instance"` with one value chosen; here with all of them.
        if (found := value(match)) == ANY:
            return f'=~"{ANY}"' if match["operator"] == "=" else '!=""'
        return f'{match["operator"]}"{found}"'

    # Only offsets as they are written: what a variable stands for is of the run already.
    return _VARIABLE.sub(value, _MATCHER.sub(matcher, compress_offsets(expression)))


# --- dashboards ----------------------------------------------------------------------------------


def dashboard_questions(path: Path, builtin: Mapping[str, str]) -> list[Question]:
    """All of one dashboard, as classic Grafana JSON."""
    board = json.loads(path.read_text())
    listed = board.get("templating", {}).get("list", [])
    variables = {**builtin, **_chosen(listed)}
    questions = [
        _variable_question(path.name, variable, variables)
        for variable in listed
        if variable["type"] == "query"
    ]
    for annotation in board.get("annotations", {}).get("list", []):
        if annotation.get("builtIn"):  # Grafana's own, which asks nobody
            continue
        questions.append(
            Question(
                place=f"{path.name}: annotation {annotation['name']}",
                expression=fill_in(annotation["target"]["expr"], variables),
                kind="annotation",
            )
        )
    for panel in _panels(board):
        for target in panel.get("targets") or []:
            if not target.get("expr"):
                continue
            questions.append(
                Question(
                    place=f"{path.name}: {panel.get('title') or panel['type']}, {target.get('refId', '?')}",
                    expression=fill_in(target["expr"], variables),
                    kind="instant" if target.get("instant") and not target.get("range") else "range",
                )
            )
    return questions


def _chosen(listed: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Variables whose values no database gives; the others are left to match anything."""
    chosen = {}
    for variable in listed:
        if variable["type"] in ("custom", "interval", "constant", "textbox"):
            current = variable.get("current", {}).get("value") or variable["query"].split(",")[0]
            first = current[0] if isinstance(current, list) else current
            chosen[variable["name"]] = ANY if first == "$__all" else str(first)
        elif variable.get("allValue"):
            chosen[variable["name"]] = variable["allValue"]
    return chosen


def _variable_question(name: str, variable: Mapping[str, Any], variables: Mapping[str, str]) -> Question:
    query = variable["query"]
    text = query["query"] if isinstance(query, dict) else query
    place = f"{name}: variable {variable['name']}"
    if match := re.fullmatch(
        r"\s*label_values\(\s*(?:(?P<selector>.+),)?\s*(?P<label>\w+)\s*\)\s*", text, re.S
    ):
        selector = fill_in((match["selector"] or "").strip(), variables)
        return Question(place=place, expression=selector, kind="label values", label=match["label"])
    if match := re.fullmatch(r"\s*query_result\((?P<expression>.+)\)\s*", text, re.S):
        return Question(place=place, expression=fill_in(match["expression"], variables), kind="instant")
    raise AssertionError(f"{place}: the rig cannot ask {text!r}; teach it in tests/rig/questions.py")


def _panels(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All panels, also those in rows."""
    for panel in board.get("panels", []):
        yield panel
        yield from _panels(panel)


# --- texts ---------------------------------------------------------------------------------------


def text_questions(path: Path, builtin: Mapping[str, str]) -> list[Question]:
    """The blocks of PromQL in a text; blank lines part several queries in one block."""
    blocks = re.findall(r"^```promql\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    queries = [query for block in blocks for query in re.split(r"\n\s*\n", block)]
    return [
        Question(place=f"{path.name}: query {number}", expression=fill_in(query, builtin), kind="instant")
        for number, query in enumerate(queries, start=1)
        if not all(line.strip().startswith("#") or not line.strip() for line in query.splitlines())
    ]
