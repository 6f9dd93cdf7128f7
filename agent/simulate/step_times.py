"""How long the kernels of one engine step take, interpolated from measured data.

The data (`measured_steps.csv`, its origin is cited there) holds a few points; between them:

* decode GEMM, communication and elementwise: piecewise linear in the batch;
* decode attention: piecewise linear in the *total* context of the batch, which is what the measured
  rows turn out to follow (8 × 4096 tokens take what 32 × 1024 take, within 4 %; in the mixture, whose
  attention is mostly latency, within 14 %);
* prefill: piecewise linear in the tokens of the chunk, from nothing at no tokens; attention, which is
  quadratic, by the difference between the chunk's end and its beginning;
* what gemm and attention of a decode take beyond the reading of their bytes, where those are given, is
  latency: piecewise linear as the kernels it is taken from. While they read, they do as the DRAM ratio
  of their signature says. A prefill is not divided so: all its gemm counts as computing;
* beyond the last point: along the last segment. Below the first: its value.

A step that prefills and decodes takes the sum of both.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from statistics import fmean

from agent.simulate.activity import SIGNATURES, Kind
from agent.simulate.parts import Part

Point = tuple[float, float]


class Curve:
    """Piecewise linear through the points given; values measured twice are averaged."""

    __slots__ = ("_segments", "_starts")

    def __init__(self, points: Iterable[Point]) -> None:
        measured: defaultdict[float, list[float]] = defaultdict(list)
        for x, y in points:
            measured[x].append(y)
        knots = [(x, fmean(ys)) for x, ys in sorted(measured.items())]
        rising = [(x, y, (next_y - y) / (next_x - x)) for (x, y), (next_x, next_y) in pairwise(knots)]
        self._segments = [(*knots[0], 0.0), *rising]
        self._starts = [x for x, _, _ in rising]

    def __call__(self, x: float) -> float:
        """The value at x."""
        start, value, slope = self._segments[bisect_right(self._starts, x)]
        return value + slope * (x - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds in kernels, for one model on a number of GPUs that work in step."""

    decode_gemm: Curve
    decode_attention: Curve
    decode_comm: Curve
    decode_elementwise: Curve
    decode_gemm_latency: Curve
    decode_attention_latency: Curve
    prefill_gemm: Curve
    prefill_attention: Curve
    prefill_comm: Curve
    prefill_elementwise: Curve

    def decode(self, tokens: int, context_tokens: int) -> list[float]:
        """So many tokens, of sequences that hold so many between them.

        One for each sequence, or with speculation several, which share the reading of their cache.
        """
        return [
            self.decode_gemm(tokens),
            self.decode_attention(context_tokens),
            0.0,
            0.0,
            self.decode_comm(tokens),
            self.decode_elementwise(tokens),
            self.decode_gemm_latency(tokens) + self.decode_attention_latency(context_tokens),
        ]

    def prefill(self, chunks: Iterable[tuple[int, int]], *, alone: bool) -> list[float]:
        """Prompt chunks, as (tokens before the chunk, tokens at its end); `alone`: no decode beside them.

        A few tokens alone still need one pass over the weights. What that pass takes beyond the
        chunk's own time waits for memory, as a decode GEMM does, and is booked as one.
        """
        tokens, attention = 0, 0.0
        for begin, end in chunks:
            tokens += end - begin
            attention += self.prefill_attention(end) - self.prefill_attention(begin)
        gemm = self.prefill_gemm(tokens)
        return [
            max(self.decode_gemm(1) - gemm, 0.0) if alone else 0.0,
            0.0,
            gemm,
            attention,
            self.prefill_comm(tokens),
            self.prefill_elementwise(tokens),
            0.0,
        ]


_READ_BYTES = (
    ("gemm", "weight_mbytes", Kind.DECODE_GEMM),
    ("attention", "kv_mbytes", Kind.DECODE_ATTENTION),
)
"""Kernels whose bytes may be given, in which column, and the kind of time in which they are read."""


def _seconds(row: dict[str, str], part: Part) -> dict[str, float]:
    """The times of a row by kind, those of gemm and attention without their latency."""
    seconds = {kind: float(row[f"{kind}_ms"]) / 1000 for kind in ("gemm", "attention", "comm", "elementwise")}
    for kernels, column, kind in _READ_BYTES:
        taken = reading = seconds[kernels]
        if row[column]:
            rate = SIGNATURES[kind].dram * part.dram_bytes_per_second
            reading = min(float(row[column]) * 1e6 / rate, taken)
        seconds[kernels], seconds[f"{kernels}_latency"] = reading, taken - reading
    return seconds


@cache
def load_step_times(part: Part, model: str, tensor_parallel: int) -> StepTimes:
    """The times of this model on so many of these; raises `ValueError` where nothing was measured."""
    text = files("agent.simulate").joinpath("measured_steps.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    wanted = (part.measured_name, model, str(tensor_parallel))
    rows = [
        (row, _seconds(row, part))
        for row in csv.DictReader(lines)
        if (row["part"], row["model"], row["tensor_parallel"]) == wanted
    ]
    if not rows:
        raise ValueError(f"no step of {model} on {tensor_parallel} × {part.name} was measured")

    def by_batch(kind: str) -> Curve:
        return Curve((int(row["batch"]), seconds[kind]) for row, seconds in rows if row["phase"] == "decode")

    def by_context(kind: str) -> Curve:
        return Curve(
            (int(row["batch"]) * int(row["context_tokens"]), seconds[kind])
            for row, seconds in rows
            if row["phase"] == "decode"
        )

    def prefill(kind: str) -> Curve:
        measured = (
            (int(row["prompt_tokens"]), seconds[kind]) for row, seconds in rows if row["phase"] == "prefill"
        )
        return Curve([(0, 0.0), *measured])

    return StepTimes(
        decode_gemm=by_batch("gemm"),
        decode_attention=by_context("attention"),
        decode_comm=by_batch("comm"),
        decode_elementwise=by_batch("elementwise"),
        decode_gemm_latency=by_batch("gemm_latency"),
        decode_attention_latency=by_context("attention_latency"),
        prefill_gemm=prefill("gemm"),
        prefill_attention=prefill("attention"),
        prefill_comm=prefill("comm"),
        prefill_elementwise=prefill("elementwise"),
    )
