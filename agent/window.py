"""The sliding window: from single readings to what happened between them.

Two histories, one a GPU and one an engine. The engine's also keeps **our own counters**: they start at
0 when the agent does, take each increase of the engine's, and never fall, whatever the engine does.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from agent.ladder import RATIOS, Measured
from agent.readings import (
    COUNTER_NAMES,
    HISTOGRAM_NAMES,
    EngineCounters,
    EngineReading,
    Evidence,
    GpuReading,
    Histogram,
)

# --- engines -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTotals:
    """What one engine has done since the agent first saw it."""

    counters: Mapping[str, float] = field(default_factory=dict)
    """By the names of `EngineCounters`; a counter the engine lacks is not in it."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    """By the names in `HISTOGRAM_NAMES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWindow:
    """What one engine did between two of its pages."""

    seconds: float
    increments: EngineCounters
    """Increases over the window; `None` where the engine has no such counter."""
    running_mean: float | None
    """Of the samples, idle ones included."""
    running_ratio: float | None
    """Share of the samples in which anything ran."""
    waiting_mean: float | None
    held_tokens_mean: float | None
    """KV-cache tokens that one running request held, over the samples in which any ran."""
    kv_points: tuple[tuple[float, float], ...]
    """(seconds, used ratio) of each sample."""
    prompt_dispersion: float
    """E[n²] ÷ E[n]² of the prompts' computed lengths; 1 where it is not known."""
    seconds_since_step: float
    """Since the engine was last seen to make a step."""
    seconds_stuck: float
    """Of them, those in which it had requests in hand all the time; 0 when it has none now."""
    requests_in_hand: float = 0.0
    """Now: running, waiting, or in flight in the server in front of it."""
    last_step_seconds_mean: float | None = None
    """Of the steps that the samples happened to show, over the samples in which anything ran."""
    tokens_at_end: bool = False
    """Its counters of generated tokens move only when a request ends."""


@dataclass(frozen=True, slots=True)
class _Page:
    at_seconds: float
    reading: EngineReading
    known: EngineReading
    """The reading, with what is missing on this page as it was last known: the base of differences."""
    totals: EngineTotals


class EngineHistory:
    """The last pages of one engine, and its totals since it was first seen."""

    def __init__(self, *, keep_seconds: float, gap_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._gap_seconds = gap_seconds
        # The page that is awaited may still come at the pace that held when the last one did.
        self._awaited_seconds = gap_seconds
        self._pages: deque[_Page] = deque()
        self._before_last: _Page | None = None
        self._last: _Page | None = None
        self._stepped_at_seconds = 0.0
        self._at_work_since_seconds: float | None = None
        self._window: EngineWindow | None = None

    def adopt(self, *, keep_seconds: float, gap_seconds: float) -> None:
        """Another window, and another pace of pages, from the next one on."""
        self._keep_seconds = keep_seconds
        self._gap_seconds = gap_seconds

    @property
    def totals(self) -> EngineTotals:
        """Since the first page."""
        return self._last.totals if self._last is not None else EngineTotals()

    @property
    def latest(self) -> EngineReading | None:
        """The last reading, however old."""
        return self._last.reading if self._last is not None else None

    def add(self, at_seconds: float, reading: EngineReading) -> bool:
        """Take a page; a page already taken changes nothing and gives `False`."""
        last = self._last
        if last is None:
            page = _Page(at_seconds, reading, reading, _first_totals(reading))
            self._stepped_at_seconds = at_seconds
        elif at_seconds <= last.at_seconds:
            return False
        else:
            restarted = _restarted(last.known, reading)
            page = _advance(last, reading, restarted=restarted, at_seconds=at_seconds)
            if restarted or at_seconds - last.at_seconds > max(self._gap_seconds, self._awaited_seconds):
                self._pages.clear()
            if restarted or _progress(page.known) != _progress(last.known):
                self._stepped_at_seconds = at_seconds
        if not _requests_in_hand(reading):
            self._at_work_since_seconds = None
        elif self._at_work_since_seconds is None:
            self._at_work_since_seconds = at_seconds
        self._before_last, self._last = last, page
        self._awaited_seconds = self._gap_seconds
        self._pages.append(page)
        while len(self._pages) > 2 and self._pages[1].at_seconds <= at_seconds - self._keep_seconds:
            self._pages.popleft()
        self._window = self._between(tuple(self._pages))
        return True

    def window(self) -> EngineWindow | None:
        """Over the pages kept; `None` with fewer than two."""
        return self._window

    def last_interval(self) -> EngineWindow | None:
        """Between the last two pages, a gap or a restart between them or not; so nothing is left out."""
        if self._before_last is None or self._last is None:
            return None
        return self._between((self._before_last, self._last))

    @property
    def is_continuous(self) -> bool:
        """Whether the last page follows the one before without a gap or a restart."""
        return len(self._pages) > 1

    def _between(self, pages: Sequence[_Page]) -> EngineWindow | None:
        if len(pages) < 2:
            return None
        base, *rest = pages
        last = rest[-1]
        increments = {
            name: total - base.totals.counters[name]
            for name, total in last.totals.counters.items()
            if name in base.totals.counters
        }
        readings = [page.reading for page in rest]
        running = [r.requests_running for r in readings if r.requests_running is not None]
        waiting = [r.requests_waiting for r in readings if r.requests_waiting is not None]
        return EngineWindow(
            seconds=last.at_seconds - base.at_seconds,
            increments=EngineCounters(**increments),
            running_mean=_mean(running),
            running_ratio=_mean([float(value > 0) for value in running]),
            waiting_mean=_mean(waiting),
            held_tokens_mean=_held_tokens([page.reading for page in pages]),
            kv_points=tuple(
                (page.at_seconds, page.reading.kv_used_ratio)
                for page in rest
                if page.reading.kv_used_ratio is not None
            ),
            prompt_dispersion=_dispersion(
                base.totals.histograms.get("computed_prompt_lengths"),
                last.totals.histograms.get("computed_prompt_lengths"),
            ),
            seconds_since_step=last.at_seconds - self._stepped_at_seconds,
            seconds_stuck=self._seconds_stuck(last.at_seconds),
            requests_in_hand=_requests_in_hand(last.reading),
            last_step_seconds_mean=_mean(
                [r.last_step_seconds for r in readings if r.last_step_seconds and r.requests_running]
            ),
            tokens_at_end=last.reading.tokens_at_end,
        )

    def _seconds_stuck(self, now_seconds: float) -> float:
        if self._at_work_since_seconds is None:
            return 0.0
        return now_seconds - max(self._stepped_at_seconds, self._at_work_since_seconds)


def _requests_in_hand(reading: EngineReading) -> float:
    """Whatever says it: a hung engine shows none running, and its server in front may still have some."""
    in_engine = (reading.requests_running or 0.0) + (reading.requests_waiting or 0.0)
    return max(in_engine, reading.requests_in_flight or 0.0)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _progress(reading: EngineReading) -> tuple[float | None, ...]:
    """Whatever moves while an engine makes steps: of some only gauges do before a request has ended."""
    counted = tuple(getattr(reading.counters, name) for name in PROGRESS)
    return (*counted, reading.last_step_seconds, reading.kv_used_ratio)


PROGRESS = (
    "steps",
    "decode_steps",
    "prefill_steps",
    "sequence_steps",
    "generation_tokens",
    "prefill_tokens",
    "requests_finished",
)


def _restarted(before: EngineReading, after: EngineReading) -> bool:
    """Whether the engine's process is another one: its start time changed, or its counters fell.

    In a process that goes on, as its start time shows, no counter falls. Where some do and others do not,
    the page lacks some of its lines, and sums lack a part.
    """
    started, starts = before.start_time_seconds, after.start_time_seconds
    # Some pages print the time with few digits: only a second's difference is another process.
    if started is not None and starts is not None and abs(starts - started) > 1.0:
        return True
    fell = [
        new < old
        for name in COUNTER_NAMES
        if (old := getattr(before.counters, name)) and (new := getattr(after.counters, name)) is not None
    ]
    return any(fell) and (started is None or all(fell))


def _first_totals(reading: EngineReading) -> EngineTotals:
    histograms = {
        name: replace(histogram, cumulative=(0.0,) * len(histogram.bounds), sum=0.0)
        for name in HISTOGRAM_NAMES
        if (histogram := getattr(reading, name)) is not None
    }
    counters = {name: 0.0 for name in COUNTER_NAMES if getattr(reading.counters, name) is not None}
    return EngineTotals(counters=counters, histograms=histograms)


def _advance(last: _Page, reading: EngineReading, *, restarted: bool, at_seconds: float) -> _Page:
    """The page after `last`: a restarted engine has done all that it shows since its start.

    What is missing on one page is not lost: its next difference is formed from where it was last known.
    What fell in a process that goes on is missing.
    """
    counters = dict(last.totals.counters)
    known_counters: dict[str, float | None] = {}
    for name in COUNTER_NAMES:
        old, new = getattr(last.known.counters, name), getattr(reading.counters, name)
        if new is not None and old is not None and new < old and not restarted:
            new = None
        if new is not None:
            base = 0.0 if restarted else new if old is None else old
            counters[name] = counters.get(name, 0.0) + (new - base)
        known_counters[name] = old if new is None and not restarted else new
    histograms = dict(last.totals.histograms)
    known_histograms: dict[str, Any] = {}
    for name in HISTOGRAM_NAMES:
        before: Histogram | None = None if restarted else getattr(last.known, name)
        now: Histogram | None = getattr(reading, name)
        known_histograms[name] = before
        if now is not None:
            histograms[name], known_histograms[name] = _add_increase(histograms.get(name), before, now)
    known = replace(
        reading,
        counters=EngineCounters(**known_counters),
        start_time_seconds=(
            last.known.start_time_seconds
            if reading.start_time_seconds is None and not restarted
            else reading.start_time_seconds
        ),
        **known_histograms,
    )
    return _Page(at_seconds, reading, known, EngineTotals(counters=counters, histograms=histograms))


MAX_BUCKETS = 200
"""That are kept of one histogram, whatever pages have shown: no engine has half of them."""


def _add_increase(
    total: Histogram | None, before: Histogram | None, now: Histogram
) -> tuple[Histogram, Histogram]:
    """`total` + (`now` − `before`), and from where to go on; after a restart there may be other bounds.

    Where nothing was restarted, a page without some of the buckets, or with fewer events, lacks lines.
    """
    if total is None:
        return now, now
    # A bucket that was shown once stays, so that none falls.
    bounds = tuple(sorted({*total.bounds, *now.bounds}))
    if len(bounds) > MAX_BUCKETS:
        bounds = now.bounds
    if before is None:
        return _sum(_at(total, bounds), _at(now, bounds)), now
    if not set(before.bounds) <= set(now.bounds):
        return total, before
    increase = _sum(_at(now, before.bounds), before, sign=-1)
    # A bucket that is new has had no events of its own so far.
    risen = _sum(_at(total, bounds), _at(increase, bounds))
    if increase.sum < 0 or min(increase.cumulative) < 0 or any(a > b for a, b in pairwise(risen.cumulative)):
        return total, before
    return risen, now


def _sum(one: Histogram, other: Histogram, *, sign: int = 1) -> Histogram:
    """Of two with the same bounds."""
    return Histogram(
        bounds=one.bounds,
        cumulative=tuple(a + sign * b for a, b in zip(one.cumulative, other.cumulative, strict=True)),
        sum=one.sum + sign * other.sum,
    )


def _at(histogram: Histogram, bounds: tuple[float, ...]) -> Histogram:
    """The histogram at these bounds: at one that it lacks, what is known to be at most so much."""
    if histogram.bounds == bounds:
        return histogram
    places = (bisect_right(histogram.bounds, bound) for bound in bounds)
    counts = tuple(histogram.cumulative[place - 1] if place else 0.0 for place in places)
    return Histogram(bounds=bounds, cumulative=counts, sum=histogram.sum)


def _held_tokens(readings: list[EngineReading]) -> float | None:
    """Tokens in the KV cache a running request, without the half block that each wastes at its end."""
    held = running = 0.0
    for reading in readings:
        tokens = reading.kv_held_tokens
        if tokens is None and reading.kv_used_ratio and reading.kv_capacity_tokens:
            tokens = reading.kv_used_ratio * reading.kv_capacity_tokens
        if reading.requests_running and tokens:
            held += tokens
            running += reading.requests_running
    if running == 0:
        return None
    block = next((r.kv_block_tokens for r in readings if r.kv_block_tokens), 1)
    return max(held / running - (block - 1) / 2, 1.0)


def _dispersion(before: Histogram | None, after: Histogram | None) -> float:
    """E[n²] ÷ E[n]², lengths taken as even within each bucket; never below 1."""
    if before is None or after is None or before.bounds != after.bounds:
        return 1.0
    count = first = second = below = 0.0
    lower = 0.0
    for bound, old, new in zip(after.bounds, before.cumulative, after.cumulative, strict=True):
        inside, below = new - old - below, new - old
        upper = bound if math.isfinite(bound) else lower
        count += inside
        first += inside * (lower + upper) / 2
        second += inside * (lower**2 + lower * upper + upper**2) / 3
        lower = upper
    return max(second * count / first**2, 1.0) if first > 0 else 1.0


# --- GPUs ----------------------------------------------------------------------------------------


COARSE_RATIO = 0.5
"""A measurement that is a mean over more than this part of the window cannot tell its ends apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWindow:
    """Means of one GPU over the window; `None` where nothing was measured."""

    seconds: float
    evidence_by_ratio: Mapping[str, Evidence] = field(default_factory=dict)
    """Of each ratio that was measured; what is not in it was not."""
    dram_ratio: float | None = None
    tensor_ratio: float | None = None
    sm_ratio: float | None = None
    graphics_ratio: float | None = None
    kernel_time_ratio: float | None = None
    sm_clock_hertz: float | None = None
    coarse: bool = False
    """Its ratios are means over about as long as the window itself, or longer, and so lag behind it."""

    @property
    def evidence(self) -> Evidence:
        """Of all its ratios together."""
        kinds = set(self.evidence_by_ratio.values())
        if len(kinds) > 1:
            return "mixed"
        return kinds.pop() if kinds else "none"


@dataclass(frozen=True, slots=True)
class _Sample:
    at_seconds: float
    reading: GpuReading
    measured: Mapping[str, Measured]


class GpuHistory:
    """The last readings of one GPU."""

    def __init__(self, *, keep_seconds: float) -> None:
        self.keep_seconds = keep_seconds
        """The window's length; another one holds from the next reading on."""
        self._samples: deque[_Sample] = deque()
        self._window: GpuWindow | None = None

    def add(self, at_seconds: float, reading: GpuReading, measured: Mapping[str, Measured]) -> bool:
        """Take a reading; one already taken changes nothing and gives `False`."""
        if self._samples and at_seconds <= self._samples[-1].at_seconds:
            return False
        self._samples.append(_Sample(at_seconds, reading, measured))
        while self._samples[0].at_seconds <= at_seconds - self.keep_seconds:
            self._samples.popleft()
        self._window = self._mean()
        return True

    def forget(self) -> None:
        """Drop what was seen: what follows is another time."""
        self._samples.clear()
        self._window = None

    def window(self) -> GpuWindow | None:
        """Over the readings kept; `None` without any."""
        return self._window

    def _mean(self) -> GpuWindow:
        ratios: dict[str, float] = {}
        evidence: dict[str, Evidence] = {}
        coarse = False
        for name in RATIOS:
            given = [one for sample in self._samples if (one := sample.measured.get(name)) is not None]
            if not given:
                continue
            # Numbers of two kinds have no mean: when the rung changes, the newer one counts alone.
            latest = given[-1]
            kind = latest.evidence
            total = seconds = 0.0
            for one in given:  # for each GPU and ratio at each tick: one loop is half of two generators
                if one.evidence == kind:
                    total += one.ratio * one.seconds
                    seconds += one.seconds
            ratios[name], evidence[name] = total / seconds, kind
            coarse = coarse or latest.seconds > COARSE_RATIO * self.keep_seconds
        readings = [sample.reading for sample in self._samples]
        return GpuWindow(
            seconds=self._samples[-1].at_seconds - self._samples[0].at_seconds,
            evidence_by_ratio=evidence,
            **ratios,
            kernel_time_ratio=_mean(
                [r.kernel_time_ratio for r in readings if r.kernel_time_ratio is not None]
            ),
            sm_clock_hertz=_mean([r.sm_clock_hertz for r in readings if r.sm_clock_hertz is not None]),
            coarse=coarse,
        )
