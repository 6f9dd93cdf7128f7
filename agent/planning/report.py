"""The five stages of choosing a GPU, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.planning.cases import Case, alike, cases_of, described
from agent.planning.live_report import live_costs, live_latencies, live_mixes
from agent.planning.sizing import Forecast
from agent.planning.text import WIDTH, cell, seconds_text, wrapped
from agent.roofline.cost import bandwidth_per_usd, split_by_phase, usd_per_million_tokens
from agent.roofline.planner import Plan, SplitError
from agent.roofline.step import AllReduce, constants_for
from agent.units import GIGA, KIBI, SECONDS_PER_HOUR, render_number, render_percent


def report(plans: Sequence[Plan], forecasts: Sequence[Forecast] = ()) -> Iterator[str]:
    """All stages; `forecasts` are those that the plans came from, if they came from live traffic."""
    cases = cases_of(plans)
    for case in cases:
        yield from wrapped(f"{case.number:>2}  ", described(case.first))
    numbers = {alike(case.first.point): case.number for case in cases}
    stages: tuple[tuple[str, Iterable[str]], ...] = (
        ("1 Characterize: the traffic now", live_mixes(forecasts)),
        ("1 Characterize: one request" if not forecasts else "  One request", _characterize(cases)),
        ("2 Memory: what fits", _memory(cases)),
        ("3 Throughput: each phase against the roof", throughput(plans)),
        ("  How the model is split (decode)", _splits(cases)),
        ("4 Cost: every GPU of the replica is paid", _costs(cases)),
        (
            "  The traffic now, and where it is planned",
            live_costs(forecasts, lambda point: numbers[alike(point)]),
        ),
        ("5 Validate: prediction of the GPU's seconds against live ones", live_latencies(forecasts)),
        ("5 Validate" if not forecasts else "  What it leaves open", _validate()),
        ("Notes", _notes(cases)),
    )
    for title, section in stages:
        lines = list(section)
        if lines:
            yield from ("", title, "─" * WIDTH, *lines)


def _notes(cases: Sequence[Case]) -> Iterator[str]:
    for note in dict.fromkeys(
        f"{case.number}: {note}" for case in cases for each in case.plans for note in each.notes
    ):
        yield from wrapped("  ", note)


def _characterize(cases: Sequence[Case]) -> Iterator[str]:
    """A time line a batch: the first token, then one after another."""
    columns = 34
    for case in cases:
        for each in case.batches:
            point, first = each.point, each.ttft.expected
            decode = point.output_tokens * each.tpot.expected
            filled = min(max(round(columns * first / (first + decode)), 1), columns - 1)
            yield (
                f"{case.number:>2}  batch {point.batch:<4} |{'P' * filled}{'d' * (columns - filled)}| "
                f"{seconds_text(first + decode):>7} a request"
            )
            yield (
                f"      {point.prompt_length} tokens in: first token after {seconds_text(first)} "
                f"(roof {seconds_text(each.ttft.bound)});"
            )
            yield (
                f"      {point.output_tokens} out: {seconds_text(each.tpot.expected)} a token "
                f"(roof {seconds_text(each.tpot.bound)})"
            )


def _memory(cases: Sequence[Case]) -> Iterator[str]:
    yield " #  weights   a GPU  KV/token  sequences fit  asked  GPUs needed"
    for case in cases:
        each = case.largest
        weights, sold = each.weight_bytes / GIGA, each.spec.memory_gigabytes
        kibibytes = each.model.kv_bytes_per_token / KIBI
        needed = "?" if each.gpus_needed is None else f"{cell(each.gpus_needed, 6).lstrip()} of {each.gpus}"
        yield (
            f"{case.number:>2}{cell(weights, 6)} GB{cell(weights / each.gpus, 5)}/{sold:<3}"
            f"{cell(kibibytes, 6)} KiB{cell(each.kv_limited_batch, 15)}{cell(each.point.batch, 7)}"
            f"  {needed}{'' if each.fits else ': too few'}"
        )


def throughput(plans: Sequence[Plan]) -> Iterator[str]:
    """A line a point."""
    numbers = {id(each): case.number for case in cases_of(plans) for each in case.plans}
    yield " # phase   batch FLOP/B ridge bottleneck           roof expected tokens/s   $/M"
    for each in plans:
        usd = each.usd_per_million_tokens
        yield (
            f"{numbers[id(each)]:>2}{' ' if each.fits else '!'}{each.point.phase:<7}"
            f"{cell(each.point.batch, 6)}"
            f"{cell(each.arithmetic_intensity_flops_per_byte, 7, None)}{cell(each.ridge_flops_per_byte, 6)} "
            f"{each.bottleneck:<17}{seconds_text(each.step_seconds_bound):>8} "
            f"{seconds_text(each.step_seconds_expected):>8}{cell(each.tokens_per_second, 9)}"
            f"{'–'.rjust(7) if usd is None else cell(usd, 7, None)}"
        )
    if not all(each.fits for each in plans):
        yield "  ! does not fit in memory: what it would do if it did"


def _splits(cases: Sequence[Case]) -> Iterator[str]:
    """The same GPUs used in other ways: what the link is worth."""
    over_pcie = constants_for("L40S").all_reduce
    for case in cases:
        largest = case.largest
        if largest.gpus == 1 or largest.point.expert_parallel > largest.point.tensor_parallel:
            continue
        whole = {
            "phase": "decode",
            "tensor_parallel": largest.gpus,
            "pipeline_parallel": 1,
            "expert_parallel": 1,
        }
        staged = {**whole, "tensor_parallel": 1, "pipeline_parallel": largest.gpus}
        ways: list[tuple[str, Mapping[str, Any], Mapping[int, AllReduce] | None]] = [
            ("tensor parallel over NVLink", whole, None),
            ("tensor parallel over PCIe", whole, over_pcie),
            ("pipeline parallel", staged, None),
        ]
        for name, split, link in ways if largest.spec.nvlink_bytes_per_second else ways[1:]:
            try:
                each = largest.vary(all_reduce=link, **split)
            except SplitError:
                continue
            yield (
                f"{case.number:>2}  batch{cell(largest.point.batch, 6)}  {name:<28}"
                f"{seconds_text(each.tpot.expected):>8} a token{cell(each.tokens_per_second, 10)} tokens/s"
            )


def _costs(cases: Sequence[Case]) -> Iterator[str]:
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
                f"{case.number:>2}{cell(decode.batch, 6)}{cell(each.gpus * price, 7, 2)}{cell(usd, 8, 2)}"
                f"{cell(floor, 13, 2)}{cell(1000 * request.total_usd, 15, 3)}{prefill_share:>15}"
                f"{cell(_gigabytes_per_usd(spec.dram_bytes_per_second, price), 6)}{bought:>7}"
            )
    defaults = {
        f"{case.first.spec.name} ${case.first.usd_per_hour} ({case.first.spec.price_origin})"
        for case in cases
        if case.first.point.usd_per_hour is None and case.first.usd_per_hour is not None
    }
    if defaults:
        yield from wrapped("   ", f"Typical prices, not yours: {', '.join(sorted(defaults))}. Set --price.")


def _gigabytes_per_usd(dram_bytes_per_second: float, usd: float) -> float:
    return bandwidth_per_usd(dram_bytes_per_second=dram_bytes_per_second, usd=usd) / GIGA


def _validate() -> Iterator[str]:
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
        yield from wrapped(" · ", line)
