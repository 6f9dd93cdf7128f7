"""The points that are asked for: all combinations of the options, or the rows of a file."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import AgentError
from agent.planning.options import count, price
from agent.roofline.planner import Plan, Point, plan

CONFIG_BYTES_MAX = 1024**2
PROMPT_TOKENS = 1024
BATCH = 32


def plans_of(points: Sequence[Point]) -> list[Plan]:
    """Each point's plan; a model may be the path of its ``config.json``."""
    if not points:
        raise AgentError("there is no point to evaluate")
    configs = {name: config_of(name) for name in {point.model for point in points}}
    return [plan(point, config=configs[point.model]) for point in points]


def points_of_options(options: argparse.Namespace) -> list[Point]:
    """All combinations."""
    if not options.model or not options.gpu:
        raise AgentError(
            "advise needs --model and --gpu, or --points FILE, or --traffic PROMETHEUS_URL, or --simplified"
        )
    lengths = itertools.product(
        options.context or (None,), options.prompt_tokens or (None,), options.output_tokens
    )
    return [
        Point(model=model, batch=batch, phase=phase, **setup, **length)
        for model, setup, length, batch, phase in itertools.product(
            options.model,
            setups(options),
            [_lengths(*each) for each in lengths],
            options.batch or (BATCH,),
            options.phase,
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
_COUNTS = (
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "batch",
    "context",
    "prompt_tokens",
    "output_tokens",
)
_WORDS = ("phase", "weight_dtype", "kv_dtype", "backend")


def points_of_file(path: Path) -> list[Point]:
    """The rows of a CSV file; an empty cell or a missing column takes the default."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AgentError(f"{path}: cannot be read as CSV: {error}") from error
    return [_point_of_row(row, f"{path}, line {number}") for number, row in enumerate(rows, start=2)]


def _point_of_row(row: Mapping[str, str | None], place: str) -> Point:
    cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    for name in _REQUIRED:
        if not cells.get(name):
            raise AgentError(f"{place}: {name} is missing")
    given: dict[str, Any] = {name: cells[name] for name in _WORDS if cells.get(name)}
    try:
        given |= {name: count(cells[name]) for name in _COUNTS if cells.get(name)}
        if cells.get("usd_per_hour"):
            given["usd_per_hour"] = price(cells["usd_per_hour"])
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise AgentError(f"{place}: {error}") from error
    return Point(model=cells["model"], gpu=cells["gpu"], **given)


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
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise AgentError(f"{path}: larger than any config.json")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AgentError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise AgentError(f"{path}: not a config.json: it holds no object")
    return config
