"""The command's options; every one that names something takes a list."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import AgentError

T = TypeVar("T")

COUNT_MAX = 10**7
DEGREE_MAX = 1024
PRICE_MIN, PRICE_MAX = 1e-4, 1e6
SINCE = "1h"
DURATION = re.compile("".join(f"([0-9]+{unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms")))
"""As PromQL writes one, the largest unit first."""

_LENGTHS = ("context", "prompt_tokens", "output_tokens")
_POINT = (
    *("model", "gpu", "tensor_parallel", "pipeline_parallel", "expert_parallel", "batch"),
    *(*_LENGTHS, "phase", "weight_dtype", "kv_dtype", "backend", "price"),
)
WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "points": (*_POINT, "since"),
    "simplified": (*_POINT, "since"),
    "traffic": _LENGTHS,
}
"""By what the points come from: the options that it leaves nothing to say."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""

    def listed(flag: str, kind: Callable[[str], Any], text: str) -> None:
        metavar = flag.rsplit("-", 1)[-1].upper()
        parser.add_argument(flag, type=_list_of(kind), metavar=metavar, help=text)

    listed("--model", str, "names of the catalogue, or paths of config.json files")
    listed("--gpu", str, "catalogue or NVML names: H100, A100-SXM4-40GB, 'NVIDIA L4'")
    listed("--tensor-parallel", degree, "GPUs that share each layer (default: 1)")
    listed("--pipeline-parallel", degree, "stages of layers (default: 1)")
    listed("--expert-parallel", degree, "ranks that divide the experts (default: 1)")
    listed("--batch", count, "sequences in flight, over the whole replica (default: 32)")
    listed("--context", count, "tokens before a decoded one (default: prompt + half the output)")
    listed("--prompt-tokens", count, "tokens in (default: the context if given, else 1024)")
    listed("--output-tokens", count, "tokens out (default: 256)")
    listed("--phase", str.lower, "decode, prefill (default: both)")
    listed("--weight-dtype", str, "bf16, fp8, fp8_block, int8, int4, mxfp4, nvfp4 (default: the model's)")
    listed("--kv-dtype", str, "the same of the KV cache (default: the model's, else bf16)")
    listed("--backend", str.lower, "whose kernels: vllm, sglang, trtllm (default: vllm)")
    listed("--price", price, "$ an hour of one GPU: one for all, or one for each --gpu")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--points", type=Path, metavar="FILE", help="a CSV of points in place of the options above"
    )
    source.add_argument(
        "--simplified",
        action="store_true",
        help="the lesson's simplified table of a 70B model, beside the exact one",
    )
    source.add_argument(
        "--traffic",
        metavar="PROMETHEUS_URL",
        help="plan for what the engines do now, by a Prometheus that scrapes this agent. Lengths are the "
        "live ones; --model chooses among the served names, as NAME or NAME=PATH of its config.json; GPUs, "
        "split and dtypes are today's unless given; --batch is the most that a replica may take",
    )
    parser.add_argument(
        "--since",
        type=_duration,
        metavar="DURATION",
        help=f"how far --traffic looks back (default: {SINCE})",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the points on their rooflines, SVG"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def refuse_without_effect(options: argparse.Namespace) -> None:
    """Raise `AgentError` for an option that is believed and would not be obeyed."""
    source = next((name for name in WITHOUT_EFFECT if getattr(options, name)), None)
    beside = ("since",) if source is None else WITHOUT_EFFECT[source]
    given = [f"--{name.replace('_', '-')}" for name in beside if getattr(options, name) is not None]
    if given:
        place = "without --traffic" if source is None else f"beside --{source}"
        raise AgentError(f"{', '.join(given)} would have no effect {place}: leave it out")


def _list_of(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def parse(text: str) -> tuple[T, ...]:
        items = tuple(kind(item.strip()) for item in text.split(",") if item.strip())
        if not items:
            raise argparse.ArgumentTypeError("names nothing")
        return items

    return parse


def count(text: str) -> int:
    """Of sequences or tokens."""
    return _whole_number(text, COUNT_MAX)


def degree(text: str) -> int:
    """Of parallelism."""
    return _whole_number(text, DEGREE_MAX)


def _whole_number(text: str, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, not {text!r}")
    return value


def price(text: str) -> float:
    """Dollars an hour."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not PRICE_MIN <= value <= PRICE_MAX:
        raise argparse.ArgumentTypeError(
            f"must be a number from {PRICE_MIN:g} to {PRICE_MAX:.0f}, not {text!r}"
        )
    return value


def _duration(text: str) -> str:
    if not DURATION.fullmatch(text) or not re.search("[1-9]", text):
        raise argparse.ArgumentTypeError(f"must be as in PromQL and above 0: 30m, 1h, 7d; not {text!r}")
    return text
