"""The command's options; every one that names something takes a list."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")
"""As PromQL writes one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""

    def listed(flag: str, kind: Callable[[str], Any], default: str | None, text: str) -> None:
        parser.add_argument(
            flag,
            type=_list_of(kind),
            default=None if default is None else _list_of(kind)(default),
            metavar=flag.rsplit("-", 1)[-1].upper(),
            help=text if default is None else f"{text} (default: {default})",
        )

    listed("--model", str, None, "names of the catalogue, or paths of config.json files")
    listed("--gpu", str, None, "catalogue or NVML names: H100, A100-SXM4-40GB, 'NVIDIA L4'")
    listed("--tensor-parallel", count, None, "GPUs that share each layer (default: 1)")
    listed("--pipeline-parallel", count, "1", "stages of layers")
    listed("--expert-parallel", count, "1", "ranks that divide the experts")
    listed("--batch", count, None, "sequences in flight, over the whole replica (default: 32)")
    listed("--context", count, None, "tokens before a decoded one (default: prompt + half the output)")
    listed("--prompt-tokens", count, None, "tokens in (default: the context if given, else 1024)")
    listed("--output-tokens", count, "256", "tokens out")
    listed("--phase", str, "decode,prefill", "decode, prefill")
    listed(
        "--weight-dtype", str, None, "bf16, fp8, fp8_block, int8, int4, mxfp4, nvfp4 (default: the model's)"
    )
    listed("--kv-dtype", str, None, "the same of the KV cache (default: the model's, else bf16)")
    listed("--backend", str, None, "whose kernels: vllm, sglang, trtllm (default: vllm)")
    listed("--price", price, None, "$ an hour of one GPU: one for all, or one for each --gpu")
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
        default="1h",
        metavar="DURATION",
        help="how far --traffic looks back (default: 1h)",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw the points on their rooflines, SVG"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def _list_of(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def parse(text: str) -> tuple[T, ...]:
        return tuple(kind(item.strip()) for item in text.split(",") if item.strip())

    return parse


def count(text: str) -> int:
    """A number of things, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def price(text: str) -> float:
    """Dollars, above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _duration(text: str) -> str:
    if not DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError("must be as in PromQL: 30m, 1h, 7d")
    return text
