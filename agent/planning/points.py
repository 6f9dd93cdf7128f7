"""The points that are asked for: all combinations of the options, or the rows of a file."""

from __future__ import annotations

import argparse
import csv
import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from agent.errors import AgentError
from agent.model_files import load_config_json
from agent.planning.options import count, degree, price
from agent.roofline.planner import PHASES, Plan, Point, plan

PROMPT_TOKENS = 1024
OUTPUT_TOKENS = 256
BATCH = 32


def plans_of_options(options: argparse.Namespace) -> list[Plan]:
    """The plans of all combinations; a model may be the path of its ``config.json``."""
    points = points_of_options(options)
    configs = {name: config_of(name) for name in options.model}
    return [plan(point, config=configs[point.model]) for point in points]


def points_of_options(options: argparse.Namespace) -> list[Point]:
    """All combinations."""
    if not options.model or not options.gpu:
        raise AgentError(
            "advise needs --model and --gpu, or --points FILE, or --traffic PROMETHEUS_URL, or --simplified"
        )
    lengths = itertools.product(
        options.context or (None,),
        options.prompt_tokens or (None,),
        options.output_tokens or (OUTPUT_TOKENS,),
    )
    return [
        Point(model=model, batch=batch, phase=phase, **setup, **length)
        for model, setup, length, batch, phase in itertools.product(
            options.model,
            setups(options),
            [_lengths(*each) for each in lengths],
            options.batch or (BATCH,),
            options.phase or PHASES,
        )
    ]


def setups(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All combinations of GPU, split and dtypes, as fields of a point; what is not given is left out."""
    given = {
        "weight_dtype": options.weight_dtype,
        "kv_dtype": options.kv_dtype,
        "backend": options.backend,
        "tensor_parallel": options.tensor_parallel,
        "pipeline_parallel": options.pipeline_parallel,
        "expert_parallel": options.expert_parallel,
    }
    listed = {name: values for name, values in given.items() if values}
    for gpu, *chosen in itertools.product(_priced_gpus(options), *listed.values()):
        yield {**gpu, **dict(zip(listed, chosen, strict=True))}


def _priced_gpus(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each GPU that is named, with its price if that is given."""
    prices = options.price or (None,)
    if not options.gpu:
        return [{"usd_per_hour": each} for each in prices]
    if len(prices) not in (1, len(options.gpu)):
        raise AgentError(f"{len(prices)} prices for {len(options.gpu)} GPUs: give one, or one for each")
    return [
        {"gpu": gpu, "usd_per_hour": usd}
        for gpu, usd in zip(options.gpu, itertools.cycle(prices), strict=False)
    ]


def _lengths(context: int | None, prompt: int | None, output: int) -> dict[str, int]:
    """Tokens of a request; while it decodes, half its output is before it on average."""
    prompt = prompt or context or PROMPT_TOKENS
    return {
        "context": context or prompt + output // 2,
        "prompt_tokens": prompt,
        "output_tokens": output,
    }


# --- points from a file --------------------------------------------------------------------------------

_REQUIRED = ("model", "gpu")
COLUMNS: Mapping[str, Callable[[str], Any]] = {
    "model": str,
    "gpu": str,
    "tensor_parallel": degree,
    "pipeline_parallel": degree,
    "expert_parallel": degree,
    "phase": str.lower,
    "batch": count,
    "context": count,
    "prompt_tokens": count,
    "output_tokens": count,
    "weight_dtype": str,
    "kv_dtype": str,
    "backend": str.lower,
    "usd_per_hour": price,
}
"""Of a file of points: the fields of a `Point`, each with what reads its cell."""


def plans_of_file(path: Path) -> list[Plan]:
    """The plans of a CSV file's rows; an empty cell or a missing column takes the default.

    Raises `AgentError` with the line for whatever is wrong with a row.
    """
    read_config = cache(config_of)
    plans = []
    for line, row in _rows(path):
        try:
            point = _point_of(row)
            plans.append(plan(point, config=read_config(point.model)))
        except AgentError as error:
            raise AgentError(f"{path}, line {line}: {error}") from error
    if not plans:
        raise AgentError(f"{path}: there is no point to evaluate")
    return plans


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row's cells that are not empty, by column, with the number of the line that it ends on."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = _columns(next(reader, []), f"{path}, line {reader.line_num}")
            for cells in reader:
                if surplus := cells[len(columns) :]:
                    named = ", ".join(map(repr, surplus))
                    raise AgentError(f"{path}, line {reader.line_num}: more cells than columns: {named}")
                row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if cell.strip()}
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AgentError(f"{path}: cannot be read as CSV: {error}") from error


def _columns(header: Sequence[str], place: str) -> list[str]:
    columns = [name.strip().lower() for name in header]
    problems = [
        f"column {name!r} is not known{_nearest(name)}" for name in columns if name not in COLUMNS
    ] + [f"column {name!r} is there twice" for name, times in Counter(columns).items() if times > 1]
    if problems:
        raise AgentError(f"{place}: {'; '.join(problems)}. Known are {', '.join(COLUMNS)}")
    return columns


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, COLUMNS, n=2)
    return f", is it {' or '.join(near)}?" if near else ""


def _point_of(row: Mapping[str, str]) -> Point:
    for name in _REQUIRED:
        if name not in row:
            raise AgentError(f"{name} is missing")
    return Point(**{name: _cell(name, text) for name, text in row.items()})


def _cell(name: str, text: str) -> Any:
    try:
        return COLUMNS[name](text)
    except argparse.ArgumentTypeError as error:
        raise AgentError(f"{name} {error}") from error


# --- models from a file --------------------------------------------------------------------------------


def config_of(model: str) -> Mapping[str, Any] | None:
    """The ``config.json`` at that path, itself or in that directory; `None` when `model` is a mere name."""
    path = Path(model)
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        if model.endswith(".json"):
            raise AgentError(f"{model}: no such file")
        return None
    try:
        return load_config_json(path)
    except (OSError, ValueError) as error:
        raise AgentError(f"{path}: cannot be read as a config.json: {error}") from error
