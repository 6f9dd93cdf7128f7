"""What the live traffic adds to the report: the mix itself, its costs, and whether predictions come true."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from agent.planning.mix import Latency
from agent.planning.sizing import BUSY_RATIO_MAX, Forecast
from agent.planning.text import cell, seconds_text, wrapped
from agent.roofline.planner import Point, StepTime
from agent.units import render_number, render_percent


def live_mixes(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """Each mix, under its letter."""
    for letter, each in _lettered(forecasts):
        mix, serving = each.mix, each.mix.serving
        stages = serving.pipeline_parallel
        yield from wrapped(
            f" {letter}  ",
            f"{serving.model} by {serving.engine} on {render_number(mix.gpus)} × "
            f"{serving.part or 'an unknown GPU'}, tensor parallel {serving.tensor_parallel or '?'}"
            f"{f', pipeline parallel {stages}' if stages > 1 else ''}; weights "
            f"{serving.weight_dtype or '?'}, KV {serving.kv_dtype or '?'}",
        )
        batch = "–" if mix.decode_batch is None else render_number(mix.decode_batch)
        yield (
            f"    {render_number(mix.requests_per_second)} requests/s of {mix.prompt_tokens:.0f} tokens in "
            f"({render_percent(mix.cached_ratio)} cached), {mix.output_tokens:.0f} out"
        )
        yield (
            f"    {mix.prefill_tokens_per_second:.0f} prompt tokens/s computed, "
            f"{mix.generation_tokens_per_second:.0f} generated"
        )
        yield f"    decode batch {batch}, as a token finds it; context {mix.context:.0f}"


def live_costs(forecasts: Sequence[Forecast], number_of: Callable[[Point], int]) -> Iterator[str]:
    """Today's GPUs and price a token, and those of each set-up."""
    if not forecasts:
        return
    yield "     #  replicas   GPUs  batch  of it prefill  a token  $/M generated"
    for letter, each in _lettered(forecasts):
        mix, today = each.mix, each.today_usd_per_million_tokens
        batch = "–" if mix.decode_batch is None else f"{mix.decode_batch:.0f}"
        yield (
            f" {letter} now{cell(mix.replicas, 10, 1)}{cell(mix.gpus, 7, 1)}{batch:>7}{'':15}"
            f"{_seconds(mix.tpot.p50):>9}{_usd(today, 15)}"
        )
        for sizing in each.sizings:
            number = number_of(sizing.plan.point)
            if sizing.replicas is None or sizing.gpus is None:
                yield f" {letter}{number:>4}  does not fit: not one sequence has room beside the weights"
                continue
            yield (
                f" {letter}{number:>4}{cell(sizing.replicas, 10)}{cell(sizing.gpus, 7)}"
                f"{cell(sizing.plan.point.batch, 7)}"
                f"{render_percent(sizing.prefill_ratio):>15}{seconds_text(sizing.tpot_seconds):>9}"
                f"{_usd(sizing.usd_per_million_tokens, 15)}"
            )
    yield from wrapped(
        "   ",
        f"Planned for the mean of the look-back at {render_percent(BUSY_RATIO_MAX)} of what the replicas can "
        "do: your peak may be higher. The planned seconds are the GPU's; the host adds to them, as below.",
    )


def live_latencies(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """What the arithmetic says of today's set-up, beside what the engines measured."""
    if not forecasts:
        return
    yield "                roof  expected   live p50      p99  p50/expected  p99/expected"
    for letter, each in _lettered(forecasts):
        if each.today is None:
            yield f" {letter}  its GPU or its decode batch is not known: nothing to compare with"
            continue
        yield _compared(f" {letter}  TTFT", each.today.ttft, each.mix.ttft)
        yield _compared("    TPOT", each.today.tpot, each.mix.tpot)
    yield from wrapped(
        "   ",
        "TTFT: one mean prompt alone; queues and longer prompts are in the live ones. TPOT: a step of the "
        "mean batch at the mean context; a p50 far above it is the host, a p99 far above it prefills in "
        "between, or preemption. Quantiles are as fine as the engine's buckets.",
    )


def _compared(name: str, predicted: StepTime, live: Latency) -> str:
    ratios = "".join(
        f"{'–'.rjust(14) if seconds is None else cell(seconds / predicted.expected, 14, None)}"
        for seconds in (live.p50, live.p99)
    )
    return (
        f"{name:<12}{seconds_text(predicted.bound):>8}{seconds_text(predicted.expected):>10}"
        f"{_seconds(live.p50):>11}{_seconds(live.p99):>9}{ratios}"
    )


def _lettered(forecasts: Sequence[Forecast]) -> Iterator[tuple[str, Forecast]]:
    """As spreadsheets name columns: A to Z, then AA."""
    for number, each in enumerate(forecasts):
        letters, rest = "", number
        while rest >= 0:
            letters, rest = chr(ord("A") + rest % 26) + letters, rest // 26 - 1
        yield letters, each


def _seconds(value: float | None) -> str:
    return "–" if value is None else seconds_text(value)


def _usd(value: float | None, width: int) -> str:
    return "–".rjust(width) if value is None else cell(value, width, None)
