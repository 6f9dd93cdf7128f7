"""Every scenario, from the simulated GPUs and pages to the agent's page, against what really happened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from agent import __version__
from agent.accounts import QUANTITIES
from agent.advice.doubts import AGREEMENT
from agent.assessment import Assessment, EngineAssessment, EngineKey, GpuAssessment
from agent.clock import ManualClock
from agent.exposition.collector import Renderer, render_float
from agent.exposition.server import ExpositionServer
from agent.metrics import TABLE
from agent.readings import Histogram
from agent.roofline.kv_cache import Limiter
from agent.simulate.engine import WorkDone
from agent.simulate.scenario import Engine, Scenario
from agent.simulate.scenarios import SCENARIOS
from agent.sources.base import STALE_INTERVALS
from tests.browser import find_browser
from tests.conftest import Golden
from tests.promtool import promtool
from tests.simulated import DEFAULTS, Page, Watched, samples_of, watch_scenario

GOLDEN = Path(__file__).parent / "golden"

WINDOW_SECONDS = int(DEFAULTS.window_seconds)
SETTLED_SECONDS = WINDOW_SECONDS + int(2 * DEFAULTS.engines_interval_seconds)
"""The first window, and the patience with which a class comes into force."""
MOSTLY = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """When the agent must not say what bounds a GPU, and the words of its reason."""

    gpu: int = 0
    start_seconds: int = 0
    end_seconds: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What the agent must say of a scenario, beyond what the truth says."""

    seconds: int = 300
    page_at_seconds: int = 90
    """Of the page that is kept as golden."""
    limiter: Limiter = "traffic"
    throttle: str | None = None
    agrees: bool = False
    """Whether all its engines decode, each alone on its GPUs: there the model is held to the counters."""
    agreement_ratio: float | None = None
    """Modelled ÷ measured bytes, where the configuration names another model than is served."""
    unknown: Unknown | None = None


STORIES: dict[str, Story] = {
    "node": Story(),
    "idle": Story(),
    "memory-bound-decode": Story(agrees=True),
    "single-user": Story(),
    "compute-bound-prefill": Story(),
    "sparse-prefill": Story(),
    "mixed": Story(),
    "interference": Story(),
    "host-bound": Story(agrees=True),
    "speculative-decoding": Story(),
    "interconnect": Story(),
    "kernel-latency": Story(agrees=True),
    "kv-nearly-full": Story(),
    "kv-filling": Story(agrees=True),
    "preempting": Story(limiter="kv_cache"),
    "max-num-seqs": Story(limiter="max_num_seqs", agrees=True),
    "overloaded": Story(limiter="max_num_seqs", agrees=True),
    "traffic-fell": Story(page_at_seconds=150, agrees=True),
    "throttled": Story(throttle="33 % lower: power cap"),
    "overheated": Story(throttle="46 % lower: hardware slowdown, heat"),
    "hung-engine": Story(
        seconds=600,
        page_at_seconds=150,
        unknown=Unknown(start_seconds=90, end_seconds=600, reason="it may hang"),
    ),
    "shared-gpu": Story(),
    "data-parallel": Story(agrees=True),
    "contradicting-evidence": Story(unknown=Unknown(end_seconds=300, reason="evidence contradicts itself")),
    "wrong-model": Story(agreement_ratio=3.76),
    "measured-by-dcgm": Story(agrees=True),
    "dcgm-down": Story(page_at_seconds=150),
    "driver-down": Story(),
    "failing-memory": Story(agrees=True),
    "gpu-lost": Story(
        seconds=600,
        page_at_seconds=150,
        unknown=Unknown(gpu=1, start_seconds=120, end_seconds=239, reason="fallen off the bus"),
    ),
    "engine-down": Story(seconds=600, page_at_seconds=150),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A story, and how it went."""

    story: Story
    watched: Watched

    @property
    def settled(self) -> Iterator[tuple[int, Assessment]]:
        """The assessments after the first window."""
        return ((t, a) for t, a in self.watched.assessments.items() if t >= SETTLED_SECONDS)

    def is_settled(self, t: int) -> bool:
        """Whether a window has passed since the start, and since anything went away or came back."""
        changes = [
            0.0,
            *(at for o in self.watched.scenario.outages for at in (o.at_seconds, o.until_seconds)),
        ]
        return not any(at <= t < at + SETTLED_SECONDS for at in changes)

    @property
    def page(self) -> Page:
        """The one that is kept as golden."""
        return self.watched.pages[self.story.page_at_seconds]


@pytest.fixture(scope="module", params=SCENARIOS)
def told(request: pytest.FixtureRequest) -> Told:
    scenario, story = SCENARIOS[request.param], STORIES[request.param]
    pages_at = {*_silences(scenario), *(loss.gone_seconds for loss in _losses(scenario))}
    return Told(story=story, watched=watch_scenario(scenario, story.seconds, pages_at=pages_at))


def test_every_scenario_has_its_story_and_its_golden_page() -> None:
    assert STORIES.keys() == SCENARIOS.keys()
    assert {path.stem for path in GOLDEN.glob("*.prom")} == set(SCENARIOS)


# --- what bounds a GPU ---------------------------------------------------------------------------


def test_the_class_in_force_is_what_really_bounded_the_gpu(told: Told) -> None:
    for index in range(len(told.watched.scenario.gpus)):
        wrong, ticks = [], 0
        for t, assessment in told.settled:
            ticks += 1
            gpu = next((gpu for gpu in assessment.gpus if gpu.index == index), None)
            if gpu is None:  # the driver is down
                continue
            true = told.watched.truth.bottleneck(index, t - WINDOW_SECONDS, t)
            # Of a lost GPU nothing is known, though the last window still holds what it did before.
            if gpu.verdict.bottleneck != true and gpu.up:
                wrong.append((t, true, gpu.verdict.bottleneck))
        assert len(wrong) <= (1 - MOSTLY) * ticks, f"GPU {index}: {wrong}"


def test_what_cannot_be_known_is_unknown_with_the_reason_in_words(told: Told) -> None:
    unknown = told.story.unknown
    for t, assessment in told.settled:
        for gpu in assessment.gpus:
            if (
                unknown is not None
                and gpu.index == unknown.gpu
                and unknown.start_seconds <= t <= unknown.end_seconds
            ):
                assert gpu.verdict.bottleneck == "unknown", t
                assert unknown.reason in gpu.verdict.reason
            elif told.is_settled(t):
                assert gpu.verdict.bottleneck != "unknown", (t, gpu.verdict.reason)


def test_a_lower_roof_is_shown_and_told_with_its_cause(told: Told) -> None:
    throttle = told.story.throttle
    for _, assessment in told.settled:
        for gpu in assessment.gpus:
            assert (gpu.throttle is None) if throttle is None else (throttle in (gpu.throttle or ""))
    samples = told.page.samples()
    for (name, labels), roof in samples.items():
        if name == "roofline_gpu_roof_flops_per_second":
            peak = samples["roofline_gpu_peak_flops_per_second", labels]
            assert (roof < 0.7 * peak) is (throttle is not None)


def test_the_batch_is_limited_by_what_the_story_says(told: Told) -> None:
    limiters = Counter(e.limiter for _, assessment in told.settled for e in assessment.engines if e.up)
    assert limiters[told.story.limiter] >= MOSTLY * limiters.total(), limiters


def test_the_model_agrees_with_the_measured_traffic(told: Told) -> None:
    wrong = told.story.agreement_ratio
    lowest, highest = (0.85, 1.3) if told.story.agrees else AGREEMENT
    if wrong is not None:
        lowest, highest = 0.95 * wrong, 1.05 * wrong
    for t, assessment in told.settled:
        for engine in assessment.engines:
            ratio = engine.agreement_ratio
            assert ratio is not None or not (told.story.agrees or wrong), t
            assert ratio is None or lowest <= ratio <= highest, (t, ratio)


# --- what is summed up ---------------------------------------------------------------------------


def test_every_second_of_a_gpu_is_in_exactly_one_place(told: Told) -> None:
    for t, assessment in told.watched.assessments.items():
        for gpu in assessment.gpus:
            _check_seconds(gpu, elapsed=t)


def _check_seconds(gpu: GpuAssessment, *, elapsed: float) -> None:
    totals = gpu.totals
    assert sum(totals.bottleneck_seconds.values()) == pytest.approx(totals.observed_seconds, abs=1e-9)
    assert totals.observed_seconds + totals.unobserved_seconds == pytest.approx(elapsed, abs=1e-9)
    for quantity in QUANTITIES:
        seconds = sum(s for (name, _), s in totals.evidence_seconds.items() if name == quantity)
        assert seconds == pytest.approx(totals.observed_seconds, abs=1e-9), quantity


def test_the_step_of_an_engine_is_divided_without_remainder(told: Told) -> None:
    divided = 0.0
    for t, assessment in told.watched.assessments.items():
        for engine in assessment.engines:
            totals = engine.work_totals
            if totals is None:
                assert not engine.up
                continue
            phases = totals.phase_seconds
            busy = phases["prefill"] + phases["decode"]
            assert sum(totals.step_seconds.values()) == pytest.approx(busy, abs=1e-6)
            assert busy + phases["neither"] == pytest.approx(totals.observed_seconds, abs=1e-6)
            assert totals.observed_seconds <= t
            divided = max(divided, totals.observed_seconds)
    away = sum(
        min(outage.until_seconds, told.story.seconds) - outage.at_seconds
        for outage in told.watched.scenario.outages
        if outage.what in ("server_down", "gpu_lost", "driver_down")
    )
    assert divided >= told.story.seconds - away - 20, "all the time in which engine and GPU could be read"


def test_the_gpus_of_the_engines_do_their_flops_without_remainder(told: Told) -> None:
    # A GPU that falls off the bus has done work of which its engine's last page said nothing.
    lost_gpus = {loss.index for loss in _losses(told.watched.scenario) if loss.what == "gpu"}
    for assessment in told.watched.assessments.values():
        gpus = [gpu for gpu in assessment.gpus if gpu.index not in lost_gpus]
        keys = {key for gpu in gpus for key in gpu.engines}
        done = [e.work_totals for e in assessment.engines if e.key in keys and e.work_totals is not None]
        if keys:  # without them the sums of the engines are not shown
            of_gpus = sum(gpu.totals.flops["modelled"] for gpu in gpus)
            assert of_gpus == pytest.approx(sum(sum(work.flops.values()) for work in done), rel=1e-9)


def test_our_counters_rise_as_the_work_that_was_done(told: Told) -> None:
    for server, spec in enumerate(told.watched.scenario.servers):
        for rank, engine in enumerate(spec.engines):
            for assessed, done in _pages_with_work(told.watched, server, rank):
                _check_counters(assessed, done, engine)


def _pages_with_work(
    watched: Watched, server: int, rank: int
) -> Iterator[tuple[EngineAssessment, Counter[str]]]:
    """Each new page of an engine, with the work that our counters must have seen by then.

    What an engine did between its last page and its end is on no page.
    """
    key = EngineKey(server=watched.servers[server], rank=str(rank))
    done: Counter[str] = Counter()
    seen = WorkDone()
    for t, assessment in watched.assessments.items():
        now = watched.work[t][server, rank]
        if now.starts > seen.starts:  # in this very second: it has done nothing yet
            seen = now
            done["starts"] += 1
        page = next(source for source in assessment.sources if source.name == f"engine:{key.server}")
        if page.last_success is not None and page.last_success.at_seconds == t:
            done.update(asdict(now))
            done.subtract(asdict(seen))
            seen = now
            yield next(engine for engine in assessment.engines if engine.key == key), done


def _check_counters(assessed: EngineAssessment, done: Counter[str], engine: Engine) -> None:
    ours = assessed.totals.counters
    assert ours["generation_tokens"] == done["generation_tokens"]
    assert ours["preemptions"] == done["preemptions"]
    if engine.speculation:
        assert ours["draft_tokens"] == done["draft_tokens"]
        assert ours["accepted_draft_tokens"] == done["accepted_tokens"]
    longest = engine.traffic.shared_prefix_tokens + engine.traffic.prompt.high
    if "steps" not in ours:
        assert assessed.reading is not None
        assert assessed.reading.start_time_seconds is None, "only a page of several processes lacks its steps"
    elif longest <= engine.max_num_batched_tokens - engine.max_num_seqs:
        assert ours["steps"] == done["steps"]
    else:  # a step of nothing but a part of a prompt gives no output, and is not counted
        assert done["decode_steps"] <= ours["steps"] <= done["steps"]
    # A prompt is booked with its first token, and what is computed again is not booked.
    not_booked = done["prefill_tokens"] - ours["prefill_tokens"]
    if done["preemptions"]:
        assert not_booked > 0
    else:
        assert 0 <= not_booked <= longest * done["starts"]


def test_a_step_has_the_sequences_and_the_guesses_that_it_really_had(told: Told) -> None:
    """Tokens that were guessed come in the step of another: they are neither sequences nor steps."""
    speculating = {
        (server, rank): engine.speculation.tokens
        for server, spec in enumerate(told.watched.scenario.servers)
        for rank, engine in enumerate(spec.engines)
        if engine.speculation is not None
    }
    for (server, rank), guesses in speculating.items():
        key = EngineKey(server=told.watched.servers[server], rank=str(rank))
        for t, assessment in told.settled:
            engine = next(one for one in assessment.engines if one.key == key)
            if engine.window is None or engine.traffic is None or t % int(DEFAULTS.engines_interval_seconds):
                continue
            work = told.watched.work
            now, before = work[t][server, rank], work[t - int(engine.window.seconds)][server, rank]
            ours, sequences = engine.traffic.work, now.batch_sum - before.batch_sum
            assert ours.sequence_steps == sequences > 0
            assert ours.decode_steps == now.decode_steps - before.decode_steps
            assert ours.verified_tokens == sequences * (1 + guesses)


def test_no_counter_on_the_page_ever_falls(told: Told) -> None:
    before: dict[object, float] = {}
    for t, page in sorted(told.watched.pages.items()):
        for series, value in page.samples("counter", "histogram").items():
            assert value >= before.get(series, 0.0), (t, series)
            before[series] = value
    assert len(before) > 100


# --- what disappears -----------------------------------------------------------------------------

KEPT = {
    "gpu": {
        "roofline_gpu_up",
        "roofline_gpu_info",
        "roofline_gpu_observed_seconds_total",
        "roofline_gpu_unobserved_seconds_total",
        "roofline_gpu_evidence_contradicted_seconds_total",
        "roofline_gpu_xid_errors_total",
        "roofline_gpu_last_xid_timestamp_seconds",
        "roofline_gpu_bottleneck_seconds_total",
    },
    "server": {"roofline_engine_up", "roofline_engine_gone"},
}
"""What the page still says of a GPU that is lost, or a server that is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A GPU or a server that is away for a while. Times are seconds since the scenario's start."""

    what: Literal["gpu", "server"]
    index: int
    start_seconds: int
    gone_seconds: int
    """Three intervals of its source after the start."""

    def label(self, watched: Watched) -> tuple[str, str]:
        """The label, and its value, that its series bear."""
        return self.what, watched.servers[self.index] if self.what == "server" else str(self.index)


def _losses(scenario: Scenario) -> Iterator[Loss]:
    """All of them; a GPU takes its servers along."""
    for outage in scenario.outages:
        start = int(outage.at_seconds)
        servers = [outage.index] if outage.what == "server_down" else []
        if outage.what == "gpu_lost":
            gone = start + STALE_INTERVALS * int(DEFAULTS.interval_seconds)
            yield Loss(what="gpu", index=outage.index, start_seconds=start, gone_seconds=gone)
            servers = [
                index
                for index, server in enumerate(scenario.servers)
                if any(outage.index in engine.gpus for engine in server.engines)
            ]
        for index in servers:
            gone = start + STALE_INTERVALS * int(DEFAULTS.engines_interval_seconds)
            yield Loss(what="server", index=index, start_seconds=start, gone_seconds=gone)


def test_what_is_away_leaves_the_page_within_three_intervals_and_comes_back(told: Told) -> None:
    pages = told.watched.pages
    for loss in _losses(told.watched.scenario):
        label = loss.label(told.watched)
        before = pages[loss.start_seconds - 30].samples()
        during = pages[loss.gone_seconds].samples()
        assert {name for name, labels in during if label in labels} == KEPT[loss.what]
        up = f"roofline_{'gpu' if loss.what == 'gpu' else 'engine'}_up"
        assert [value for (name, labels), value in during.items() if name == up and label in labels] == [0]
        # A trend to a full cache is not always there.
        lost = {series for series in before if label in series[1] and "seconds_to_full" not in series[0]}
        assert len(lost) > 30
        assert lost <= pages[300].samples().keys()


def test_what_is_not_away_stays_on_the_page(told: Told) -> None:
    losses = list(_losses(told.watched.scenario))
    lost = {loss.label(told.watched) for loss in losses}
    for loss in losses:
        before = told.watched.pages[loss.start_seconds - 30].samples()
        during = told.watched.pages[loss.gone_seconds].samples()
        others = {
            (name, labels)
            for name, labels in before
            if name.startswith(("roofline_gpu_", "roofline_engine_"))
            and not lost & labels
            # With its engine a GPU loses evidence, and with its FLOPs its place under the roof; with its
            # trend a cache loses its time to full.
            and "evidence" not in dict(labels)
            and not name.endswith(("seconds_to_full", "roof_attained_ratio"))
        }
        assert len(others) > 30
        assert others <= during.keys()


def _silences(scenario: Scenario) -> Iterator[int]:
    """When a driver that went down has been silent for three intervals."""
    for outage in scenario.outages:
        if outage.what == "driver_down":
            yield int(outage.at_seconds) + STALE_INTERVALS * int(DEFAULTS.interval_seconds)


OF_DRIVER_AND_ENGINE = {
    "roofline_engine_model_agreement_ratio",
    "roofline_engine_weight_read_seconds",
    "roofline_engine_prefill_interference_ratio",
}


def test_a_silent_driver_takes_its_gpus_from_the_page_and_leaves_the_engines(told: Told) -> None:
    pages = told.watched.pages
    for gone in _silences(told.watched.scenario):
        before, during, after = pages[30].samples(), pages[gone].samples(), pages[300].samples()
        assert not [series for series in during if "gpu" in dict(series[1])]
        assert during["roofline_source_up", frozenset({("source", "nvml")})] == 0
        others = {series for series in before if "gpu" not in dict(series[1])}
        assert len(others) > 100
        assert {name for name, _ in others - during.keys()} <= OF_DRIVER_AND_ENGINE
        for series, value in during.items():
            if series[0] == "roofline_engine_generation_tokens_total":
                assert after[series] > value


# --- the page itself -----------------------------------------------------------------------------


def test_the_page_is_the_golden_one(told: Told, golden: Golden) -> None:
    golden(GOLDEN / f"{told.watched.scenario.name}.prom", _comparable(told.page.text, told.watched))


def _comparable(text: str, watched: Watched) -> str:
    """The page without what differs from run to run and release to release: ports, process, version."""
    for index, server in enumerate(watched.servers):
        text = text.replace(server, f"127.0.0.1:{8000 + index}")
    text = text.replace(f'version="{__version__}"', 'version="VERSION"')
    lines = (line for line in text.splitlines() if not re.match(r"(# \w+ )?process_", line))
    return "".join(f"{_ten_digits(line)}\n" for line in lines)


def _ten_digits(line: str) -> str:
    """The line with its number rounded: Python 3.12 sums more exactly than 3.11, as the last digit shows."""
    if line.startswith("#"):
        return line
    series, _, value = line.rpartition(" ")
    return f"{series} {render_float(float(f'{float(value):.10g}'))}"


def test_the_engines_of_a_gpu_share_all_of_it_and_no_more(told: Told) -> None:
    shares: dict[str, float] = {}
    for (sample, labels), value in told.page.samples().items():
        if sample == "roofline_engine_gpu_share_ratio":
            uuid = dict(labels)["uuid"]
            shares[uuid] = shares.get(uuid, 0.0) + value
    assert all(share == pytest.approx(1.0) for share in shares.values())


def test_promtool_has_nothing_to_say_about_the_page(told: Told) -> None:
    checked = promtool("check", "metrics", text=told.page.text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_both_formats_give_the_same_samples(told: Told) -> None:
    samples = samples_of(told.page.families())
    assert len(samples) > 50
    assert samples == samples_of(told.page.openmetrics_families())


def test_the_page_is_what_the_client_library_would_write(told: Told) -> None:
    registry = CollectorRegistry()
    registry.register(FromTable(told.watched.assessments[told.story.page_at_seconds]))
    theirs = Page(
        text=generate_latest(registry).decode(),
        openmetrics=generate_openmetrics(registry).decode(),  # type: ignore[no-untyped-call]  # untyped library
    )
    assert _content(told.page.families()) == _content(theirs.families())
    assert _content(told.page.openmetrics_families()) == _content(theirs.openmetrics_families())


def _content(families: Iterable[Family]) -> dict[str, object]:
    """Families in their order, each with all that a reader takes from it; samples in any order."""
    return {
        family.name: (family.type, family.documentation, family.unit, samples_of([family]))
        for family in families
    }


class FromTable(Collector):
    """The table's rows as the client library's own families."""

    def __init__(self, assessment: Assessment) -> None:
        self._assessment = assessment

    def collect(self) -> Iterator[Family]:
        """Those that have a value now."""
        for row in TABLE:
            series = [(labels, value) for labels, value in row.read(self._assessment) if value is not None]
            if not series:
                continue
            name = row.full_name.removesuffix("_info")  # a sample of an info gets it back; a gauge has none
            family = FAMILIES[row.kind](name, row.help, labels=row.labels)
            for labels, value in series:
                if isinstance(family, HistogramMetricFamily):
                    assert isinstance(value, Histogram)
                    counts = zip(map(render_float, value.bounds), value.cumulative, strict=True)
                    family.add_metric(labels, list(counts), value.sum)
                elif isinstance(family, InfoMetricFamily):
                    family.add_metric(labels, {})
                else:
                    assert not isinstance(value, Histogram)
                    family.add_metric(labels, value)
            yield family


FAMILIES: dict[
    str, type[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily | InfoMetricFamily]
] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
    "info": InfoMetricFamily,
}


def test_a_browser_shows_the_status_page_without_complaint(told: Told, tmp_path: Path) -> None:
    assessment = told.watched.assessments[told.story.page_at_seconds]
    clock = ManualClock(monotonic_seconds=assessment.at_seconds)
    server = ExpositionServer(
        host="127.0.0.1",
        port=0,
        metrics=Renderer(lambda: assessment, clock=clock),
        latest=lambda: assessment,
        configuration=dict,
        clock=clock,
    )
    server.start()
    try:
        console, _ = find_browser(tmp_path).open(f"http://127.0.0.1:{server.port}/", width=1280)
    finally:
        server.close()
    assert console == []
