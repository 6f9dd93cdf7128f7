"""``roofline-agent advise``: choosing GPUs for a model, in five stages, from the agent's own arithmetic.

The table walks through the stages; CSV and JSON hold one record a point, for whoever wants to choose by
their own rule.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import AgentError
from agent.roofline.cost import bandwidth_per_usd, split_by_phase, usd_per_million_tokens
from agent.roofline.planner import Plan, Point, plan
from agent.roofline.simplified import SimplifiedRow, cost_rows, decode_rows, differences
from agent.roofline.step import constants_for
from agent.units import GIGA, KIBI, SECONDS_PER_HOUR, render_number, render_percent, render_seconds

WIDTH = 79
CONFIG_BYTES_MAX = 1024**2
PROMPT_TOKENS = 1024

T = TypeVar("T")


# --- options ------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; every one that names something takes a list."""

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
    listed("--tensor-parallel", _count, "1", "GPUs that share each layer")
    listed("--pipeline-parallel", _count, "1", "stages of layers")
    listed("--expert-parallel", _count, "1", "ranks that divide the experts")
    listed("--batch", _count, "32", "sequences in flight, over the whole replica")
    listed("--context", _count, None, "tokens before a decoded one (default: prompt + half the output)")
    listed("--prompt-tokens", _count, None, "tokens in (default: the context if given, else 1024)")
    listed("--output-tokens", _count, "256", "tokens out")
    listed("--phase", str, "decode,prefill", "decode, prefill")
    listed(
        "--weight-dtype", str, None, "bf16, fp8, fp8_block, int8, int4, mxfp4, nvfp4 (default: the model's)"
    )
    listed("--kv-dtype", str, None, "the same of the KV cache (default: the model's, else bf16)")
    listed("--backend", str, "vllm", "whose kernels: vllm, sglang, trtllm")
    listed("--price", _price, None, "$ an hour of one GPU: one for all, or one for each --gpu")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--points", type=Path, metavar="FILE", help="a CSV of points in place of the options above"
    )
    source.add_argument(
        "--simplified",
        action="store_true",
        help="the lesson's simplified table of a 70B model, beside the exact one",
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def _list_of(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def parse(text: str) -> tuple[T, ...]:
        return tuple(kind(item.strip()) for item in text.split(",") if item.strip())

    return parse


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _price(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def run(options: argparse.Namespace) -> int:
    """Evaluate what was asked and write it; raises `AgentError` for what is not known."""
    if options.simplified:
        simplified = (*decode_rows(), *cost_rows())
        records = [_simplified_record(row) for row in simplified]
        table = _simplified_report
    else:
        listed = options.points is not None
        plans = _plans(_points_of(options.points) if listed else _points_of_options(options))
        records = [record_of(each) for each in plans]
        table = (lambda: _throughput_table(plans)) if listed else (lambda: _report(plans))
    if options.format == "json":
        sys.stdout.write(json.dumps(records, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    elif options.format == "csv":
        sys.stdout.write(_render_csv(records))
    else:
        sys.stdout.write("\n".join(table()) + "\n")
    return 0


def _points_of_options(options: argparse.Namespace) -> list[Point]:
    if not options.model or not options.gpu:
        raise AgentError("advise needs --model and --gpu, or --points FILE, or --simplified")
    prices = options.price or (None,)
    if len(prices) not in (1, len(options.gpu)):
        raise AgentError(f"{len(prices)} prices for {len(options.gpu)} GPUs: give one, or one for each")
    lengths = [
        _lengths(context, prompt, output)
        for context, prompt, output in itertools.product(
            options.context or (None,), options.prompt_tokens or (None,), options.output_tokens
        )
    ]
    choices = itertools.product(
        options.model,
        zip(options.gpu, itertools.cycle(prices), strict=False),
        options.weight_dtype or (None,),
        options.kv_dtype or (None,),
        options.backend,
        options.tensor_parallel,
        options.pipeline_parallel,
        options.expert_parallel,
        lengths,
        options.batch,
        options.phase,
    )
    return [
        Point(
            model=model,
            gpu=gpu,
            usd_per_hour=price,
            weight_dtype=weight,
            kv_dtype=kv,
            backend=backend,
            tensor_parallel=tensor,
            pipeline_parallel=pipeline,
            expert_parallel=expert,
            batch=batch,
            phase=phase,
            **length,
        )
        for model, (
            gpu,
            price,
        ), weight, kv, backend, tensor, pipeline, expert, length, batch, phase in choices
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


def _points_of(path: Path) -> list[Point]:
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
        given |= {name: _count(cells[name]) for name in _COUNTS if cells.get(name)}
        if cells.get("usd_per_hour"):
            given["usd_per_hour"] = _price(cells["usd_per_hour"])
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise AgentError(f"{place}: {error}") from error
    return Point(model=cells["model"], gpu=cells["gpu"], **given)


def _plans(points: Sequence[Point]) -> list[Plan]:
    if not points:
        raise AgentError("there is no point to evaluate")
    configs = {name: _config_of(name) for name in {point.model for point in points}}
    return [plan(point, config=configs[point.model]) for point in points]


def _config_of(model: str) -> Mapping[str, Any] | None:
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


# --- records ------------------------------------------------------------------------------------------

COLUMNS: Mapping[str, Callable[[Plan], Any]] = {
    # as asked
    "model": lambda plan: plan.point.model,
    "gpu": lambda plan: plan.point.gpu,
    "tensor_parallel": lambda plan: plan.point.tensor_parallel,
    "pipeline_parallel": lambda plan: plan.point.pipeline_parallel,
    "expert_parallel": lambda plan: plan.point.expert_parallel,
    "phase": lambda plan: plan.point.phase,
    "batch": lambda plan: plan.point.batch,
    "context": lambda plan: plan.point.context if plan.point.phase == "decode" else plan.point.prompt_length,
    "weight_dtype": lambda plan: plan.point.weight_dtype or plan.model.weight_dtype.name,
    "kv_dtype": lambda plan: plan.point.kv_dtype or plan.model.kv_dtype.name,
    "backend": lambda plan: plan.point.backend,
    # as answered
    "arithmetic_intensity_flops_per_byte": lambda plan: plan.arithmetic_intensity_flops_per_byte,
    "ridge_flops_per_byte": lambda plan: plan.ridge_flops_per_byte,
    "bottleneck": lambda plan: plan.bottleneck,
    "step_seconds_bound": lambda plan: plan.step_seconds_bound,
    "step_seconds_expected": lambda plan: plan.step_seconds_expected,
    "tokens_per_second": lambda plan: plan.tokens_per_second,
    "kv_limited_batch": lambda plan: plan.kv_limited_batch,
    "usd_per_million_tokens": lambda plan: plan.usd_per_million_tokens,
    # beside it
    "gpu_name": lambda plan: plan.spec.name,
    "gpus": lambda plan: plan.gpus,
    "gpus_needed": lambda plan: plan.gpus_needed,
    "fits": lambda plan: plan.fits,
    "ridge_batch": lambda plan: plan.ridge_batch,
    "ttft_seconds_bound": lambda plan: plan.ttft.bound,
    "ttft_seconds_expected": lambda plan: plan.ttft.expected,
    "tpot_seconds_bound": lambda plan: plan.tpot.bound,
    "tpot_seconds_expected": lambda plan: plan.tpot.expected,
    "usd_per_hour": lambda plan: plan.usd_per_hour,
    "usd_per_million_tokens_floor": lambda plan: plan.usd_per_million_tokens_floor,
    "notes": lambda plan: "; ".join(plan.notes),
}


def record_of(plan: Plan) -> dict[str, Any]:
    """One record; what cannot be said is `None`."""
    return {name: value(plan) for name, value in COLUMNS.items()}


def _simplified_record(row: SimplifiedRow) -> dict[str, Any]:
    exact = row.exact
    return {
        "gpu": row.gpu,
        "gpus": row.gpus,
        "batch": row.batch,
        "arithmetic_intensity_flops_per_byte": row.intensity_flops_per_byte,
        "ridge_flops_per_byte": row.ridge_flops_per_byte,
        "bottleneck": row.bottleneck,
        "utilization_ratio": row.utilization_ratio,
        "step_seconds_bound": row.step_seconds,
        "tokens_per_second": row.tokens_per_second,
        "usd_per_million_tokens": row.usd_per_million_tokens,
        "exact_arithmetic_intensity_flops_per_byte": exact.arithmetic_intensity_flops_per_byte,
        "exact_bottleneck": exact.bottleneck,
        "exact_step_seconds_bound": exact.step_seconds_bound,
        "exact_step_seconds_expected": exact.step_seconds_expected,
        "exact_tokens_per_second": exact.tokens_per_second,
        "exact_usd_per_million_tokens": (
            None if row.usd_per_million_tokens is None else exact.usd_per_million_tokens
        ),
        "exact_kv_limited_batch": exact.kv_limited_batch,
        "exact_fits": exact.fits,
    }


def _render_csv(records: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


# --- the report ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """The plans that differ only in phase and batch, under one number."""

    number: int
    plans: tuple[Plan, ...]

    @property
    def first(self) -> Plan:
        return self.plans[0]

    @property
    def batches(self) -> Iterator[Plan]:
        """One plan a batch: what both phases take is in either."""
        return iter({each.point.batch: each for each in self.plans}.values())

    @property
    def largest(self) -> Plan:
        """That of the largest batch."""
        return max(self.plans, key=lambda each: each.point.batch)


def _cases(plans: Sequence[Plan]) -> list[_Case]:
    found: dict[Point, list[Plan]] = {}
    for each in plans:
        alike = replace(each.point, phase="decode", batch=1)
        found.setdefault(alike, []).append(each)
    return [_Case(number=n, plans=tuple(group)) for n, group in enumerate(found.values(), start=1)]


def _report(plans: Sequence[Plan]) -> Iterator[str]:
    cases = _cases(plans)
    for case in cases:
        yield from _wrapped(f"{case.number:>2}  ", _described(case.first))
    for title, section in (
        ("1 Characterize: one request", _characterize),
        ("2 Memory: what fits", _memory),
        ("3 Throughput: each phase against the roof", lambda cases: _throughput_table(plans)),
        ("  How the model is split (decode)", _splits),
        ("4 Cost: every GPU of the replica is paid", _costs),
        ("5 Validate", _validate),
    ):
        lines = list(section(cases))
        if lines:
            yield from ("", title, "─" * WIDTH, *lines)
    notes = dict.fromkeys(f"{case.number}: {note}" for case in cases for p in case.plans for note in p.notes)
    if notes:
        yield from ("", "Notes", "─" * WIDTH)
        for note in notes:
            yield from _wrapped("  ", note)


def _described(plan: Plan) -> str:
    point = plan.point
    splits = (
        (point.tensor_parallel, "tensor"),
        (point.pipeline_parallel, "pipeline"),
        (point.expert_parallel, "expert"),
    )
    parallel = "".join(f", {name} parallel {count}" for count, name in splits if count > 1)
    return (
        f"{point.model} on {plan.gpus} × {plan.spec.name}{parallel}; weights "
        f"{(plan.point.weight_dtype or plan.model.weight_dtype.name)}, KV {plan.model.kv_dtype.name}, "
        f"{point.backend}; context {point.context}"
    )


def _characterize(cases: Sequence[_Case]) -> Iterator[str]:
    """A time line a batch: the first token, then one after another."""
    columns = 34
    for case in cases:
        for each in case.batches:
            point, first = each.point, each.ttft.expected
            decode = point.output_tokens * each.tpot.expected
            filled = min(max(round(columns * first / (first + decode)), 1), columns - 1)
            yield (
                f"{case.number:>2}  batch {point.batch:<4} |{'P' * filled}{'d' * (columns - filled)}| "
                f"{render_seconds(first + decode):>7} a request"
            )
            yield (
                f"      {point.prompt_length} tokens in: first token after {render_seconds(first)} "
                f"(roof {render_seconds(each.ttft.bound)});"
            )
            yield (
                f"      {point.output_tokens} out: {render_seconds(each.tpot.expected)} a token "
                f"(roof {render_seconds(each.tpot.bound)})"
            )


def _memory(cases: Sequence[_Case]) -> Iterator[str]:
    yield " #  weights   a GPU  KV/token  sequences that fit  asked  GPUs needed"
    for case in cases:
        each = case.largest
        weights, sold = each.weight_bytes / GIGA, each.spec.memory_gigabytes
        kibibytes = each.model.kv_bytes_per_token / KIBI
        needed = "?" if each.gpus_needed is None else f"{each.gpus_needed} of {each.gpus}"
        yield (
            f"{case.number:>2}{weights:>6.0f} GB{weights / each.gpus:>5.0f}/{sold:<3}"
            f"{kibibytes:>6.0f} KiB{each.kv_limited_batch:>20}{each.point.batch:>7}"
            f"  {needed}{'' if each.fits else ': does not fit'}"
        )


def _throughput_table(plans: Sequence[Plan]) -> Iterator[str]:
    numbers = {id(each): case.number for case in _cases(plans) for each in case.plans}
    yield " # phase   batch FLOP/B ridge bottleneck           roof expected  tokens/s  $/M"
    for each in plans:
        usd = each.usd_per_million_tokens
        yield (
            f"{numbers[id(each)]:>2}{' ' if each.fits else '!'}{each.point.phase:<7}{each.point.batch:>6}"
            f"{render_number(each.arithmetic_intensity_flops_per_byte):>7}{each.ridge_flops_per_byte:>6.0f} "
            f"{each.bottleneck:<17}{render_seconds(each.step_seconds_bound):>8} "
            f"{render_seconds(each.step_seconds_expected):>8}{each.tokens_per_second:>10.0f}"
            f"{'–' if usd is None else render_number(usd):>6}"
        )
    if not all(each.fits for each in plans):
        yield "  ! does not fit in memory: what it would do if it did"


def _splits(cases: Sequence[_Case]) -> Iterator[str]:
    """The same GPUs used in other ways: what the link is worth."""
    over_pcie = constants_for("L40S").all_reduce
    for case in cases:
        largest = case.largest
        if largest.gpus == 1 or largest.point.expert_parallel > largest.point.tensor_parallel:
            continue
        config = _config_of(largest.point.model)
        point = replace(
            largest.point,
            phase="decode",
            tensor_parallel=largest.gpus,
            pipeline_parallel=1,
            expert_parallel=1,
        )
        ways = [("tensor parallel over PCIe", plan(point, config=config, all_reduce=over_pcie))]
        if largest.spec.nvlink_bytes_per_second:
            ways.insert(0, ("tensor parallel over NVLink", plan(point, config=config)))
        staged = replace(point, tensor_parallel=1, pipeline_parallel=largest.gpus)
        ways.append(("pipeline parallel", plan(staged, config=config)))
        for name, each in ways:
            yield (
                f"{case.number:>2}  batch {point.batch:<4} {name:<28}"
                f"{render_seconds(each.tpot.expected):>9} a token {each.tokens_per_second:>9.0f} tokens/s"
            )


def _costs(cases: Sequence[_Case]) -> Iterator[str]:
    yield " # batch    $/h  decode  at the roof  1000 requests  of it prefill  GB/s for $1"
    yield "            all     $/M          $/M              $                  /h  bought"
    for case in cases:
        for each in case.batches:
            spec, price = each.spec, each.usd_per_hour
            if price is None:
                yield f"{case.number:>2} no price of {spec.name} is known: give --price"
                break
            decode = replace(each.point, phase="decode")
            rate = decode.batch / each.tpot.expected
            usd, floor = (
                usd_per_million_tokens(gpus=each.gpus, usd_per_hour=price, tokens_per_second=tokens)
                for tokens in (rate, decode.batch / each.tpot.bound)
            )
            prefill_seconds = each.ttft.expected
            decode_seconds = decode.output_tokens / rate
            request = split_by_phase(
                each.gpus * price / SECONDS_PER_HOUR * (prefill_seconds + decode_seconds),
                prefill_seconds=prefill_seconds,
                decode_seconds=decode_seconds,
            )
            bought = (
                "–"
                if spec.list_price_usd is None
                else render_number(_gigabytes_per_usd(spec.dram_bytes_per_second, spec.list_price_usd))
            )
            prefill_share = render_percent(request.prefill_usd / request.total_usd)
            yield (
                f"{case.number:>2}{decode.batch:>6}{each.gpus * price:>7.2f}{usd:>8.2f}{floor:>13.2f}"
                f"{1000 * request.total_usd:>15.3f}{prefill_share:>15}"
                f"{_gigabytes_per_usd(spec.dram_bytes_per_second, price):>6.0f}{bought:>7}"
            )
    defaults = {
        f"{case.first.spec.name} ${case.first.usd_per_hour} ({case.first.spec.price_origin})"
        for case in cases
        if case.first.point.usd_per_hour is None and case.first.usd_per_hour is not None
    }
    if defaults:
        yield from _wrapped("   ", f"Typical prices, not yours: {', '.join(sorted(defaults))}. Set --price.")


def _gigabytes_per_usd(dram_bytes_per_second: float, usd: float) -> float:
    return bandwidth_per_usd(dram_bytes_per_second=dram_bytes_per_second, usd=usd) / GIGA


def _validate(cases: Sequence[_Case]) -> Iterator[str]:
    """What the arithmetic leaves open, and how to close it."""
    for line in (
        "These are the GPU's own seconds. The host's are not in them: measured servers take a few per cent "
        "more on one GPU, a fifth and more on eight.",
        "Before you buy: rent one replica, send your own mix of prompts at the rate you expect, and look at "
        "p50 and p99 of the time to first token and of the time per output token separately.",
        "While it runs, `roofline-agent once` shows what bounds the GPU. One kernel closely: "
        "`ncu --section SpeedOfLight` – memory throughput near 100 % and SM throughput far below is a "
        "memory-bound kernel.",
    ):
        yield from _wrapped(" · ", line)


def _simplified_report() -> Iterator[str]:
    yield "A 70B model in 16 bit: the lesson's simplified arithmetic | the exact model"
    yield ""
    yield "Decode on one GPU at the roof                  | exact, context 2048"
    yield "GPU   batch  FLOP/B  bound   of peak  tokens/s | FLOP/B  at the roof  expected"
    for row in decode_rows():
        exact = row.exact
        yield (
            f"{row.gpu:<5}{row.batch:>6}{row.intensity_flops_per_byte:>8.1f}  "
            f"{row.bottleneck.removesuffix('_bandwidth'):<6}{row.utilization_ratio * 100:>7.2f} %"
            f"{row.tokens_per_second:>10.1f} |{exact.arithmetic_intensity_flops_per_byte:>7.1f}"
            f"{row.batch / exact.step_seconds_bound:>13.1f}{exact.tokens_per_second:>10.1f}"
        )
    yield ""
    yield "Cost at batch 32, 0.7 of the bandwidth, all paid | exact, context 2048"
    yield "GPUs    $/h each      step  tokens/s  $/M tokens | expected tokens/s   $/M"
    for row in cost_rows():
        exact = row.exact
        yield (
            f"{row.gpu}×{row.gpus}{exact.usd_per_hour:>10.2f}{render_seconds(row.step_seconds):>10}"
            f"{row.tokens_per_second:>10.0f}{row.usd_per_million_tokens:>12.2f} |"
            f"{render_seconds(exact.step_seconds_expected):>9}{exact.tokens_per_second:>9.0f}"
            f"{exact.usd_per_million_tokens:>6.2f}{'' if exact.fits else ' !'}"
        )
    yield "! does not fit in memory: what it would do if it did (so every decode row)"
    yield ""
    yield "Why they differ"
    for reason in differences():
        yield from _wrapped(" · ", reason)


def _wrapped(indent: str, text: str) -> list[str]:
    """Lines of the report's width; a percent sign stays with its number."""
    lines = textwrap.wrap(
        text.replace(" %", "\u00a0%"),
        width=WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in lines]
