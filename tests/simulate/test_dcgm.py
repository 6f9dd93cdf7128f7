"""A simulated dcgm-exporter: its page, and what the agent makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest
import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent.accounts import QUANTITIES
from agent.advice.doubts import AGREEMENT
from agent.assessment import Assessment, GpuAssessment
from agent.clock import ManualClock
from agent.config import Configuration
from agent.daemon import simulated_configuration
from agent.readings import Evidence, GpuReading
from agent.simulate.node import DRIVER_VERSION, SimulatedNode
from agent.simulate.scenario import Outage, Scenario
from agent.simulate.scenarios import DOCUMENTS, LLAMA_8B, SCENARIOS
from agent.sources.dcgm import FROZEN_INTERVALS, FROZEN_SECONDS
from tests.simulate.conftest import NodeFactory
from tests.simulated import DEFAULTS, Watched, watch_scenario

NAME = "measured-by-dcgm"
SCENARIO = SCENARIOS[NAME]
DECODING, WAITING, EMPTY = 0, 1, 2
"""Its GPUs."""

assert SCENARIO.dcgm is not None
COLLECT_SECONDS = int(SCENARIO.dcgm.collect_seconds)
POLL_SECONDS = int(DEFAULTS.dcgm.interval_seconds)
WINDOW_SECONDS = int(DEFAULTS.window_seconds)

# --- its page ------------------------------------------------------------------------------------

ACTIVITY = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    "DCGM_FI_PROF_DRAM_ACTIVE",
}


def fetch(node: SimulatedNode) -> requests.Response:
    configuration = node.dcgm_configuration()
    assert configuration is not None
    return requests.get(str(configuration["url"]), timeout=10)


def families(node: SimulatedNode) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(fetch(node).text)}


def values(node: SimulatedNode, name: str) -> list[float]:
    """Of each GPU."""
    return [sample.value for sample in families(node)[name].samples]


def test_the_page_is_laid_out_as_an_exporter_of_the_old_names_does(make_node: NodeFactory) -> None:
    node, clock = make_node(NAME)
    node.start()
    clock.advance(COLLECT_SECONDS)
    answer = fetch(node)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    lines = answer.text.splitlines()
    at = lines.index("# TYPE DCGM_FI_PROF_DRAM_ACTIVE gauge")
    assert lines[at - 1].startswith("# HELP DCGM_FI_PROF_DRAM_ACTIVE ")
    labels = (
        'gpu="1",UUID="GPU-00000000-0000-0000-0000-000000000001",pci_bus_id="00000000:19:00.0",'
        'device="nvidia1",modelName="NVIDIA L40S",Hostname="simulated-node",'
        f'DCGM_FI_DRIVER_VERSION="{DRIVER_VERSION}"'
    )
    assert lines[at + 2].startswith(f"DCGM_FI_PROF_DRAM_ACTIVE{{{labels}}} 0.2")
    assert "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter" in answer.text
    assert {len(family.samples) for family in families(node).values()} == {3}


def test_it_shows_the_last_collection_whoever_asks_when(make_node: NodeFactory) -> None:
    node, clock = make_node(NAME)
    other, other_clock = make_node(NAME)
    node.start()
    other.start()
    pages = []
    for _ in range(9):
        clock.advance(10)
        pages.append(fetch(node).text)
    assert pages[0] == pages[1] != pages[2] == pages[3] == pages[4] != pages[5] == pages[7] != pages[8]
    other_clock.advance(85)
    assert fetch(other).text == pages[7], "nobody has looked there before"


def test_the_first_collection_has_no_activity_yet(make_node: NodeFactory) -> None:
    node, clock = make_node(NAME)
    node.start()
    assert not ACTIVITY & families(node).keys()
    assert {"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_SM_CLOCK"} <= families(node).keys()
    clock.advance(COLLECT_SECONDS)
    assert families(node).keys() >= ACTIVITY


def test_its_numbers_are_those_of_the_node_in_old_units(make_node: NodeFactory) -> None:
    node, clock = make_node(NAME)
    node.start()
    clock.advance(60)
    node.nvml.read()
    before = values(node, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION")
    clock.advance(COLLECT_SECONDS)
    read = [gpu for gpu in node.nvml.read().gpus if isinstance(gpu, GpuReading)]
    after = values(node, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION")
    watts = values(node, "DCGM_FI_DEV_POWER_USAGE")
    assert [gpu.power_watts for gpu in read] == pytest.approx(watts, rel=1e-5)
    assert [(new - old) / 1e3 / COLLECT_SECONDS for new, old in zip(after, before, strict=True)] == (
        pytest.approx(watts, rel=1e-5)
    )
    assert values(node, "DCGM_FI_DEV_SM_CLOCK") == [2520, 2520, 210]
    assert values(node, "DCGM_FI_DEV_MEM_CLOCK") == [9001, 9001, 9001]
    assert values(node, "DCGM_FI_DEV_MEMORY_TEMP") == [0, 0, 0], "GDDR6 has no sensor"
    assert values(node, "DCGM_FI_DEV_GPU_TEMP") == [gpu.temperature_celsius for gpu in read]
    for name, of_gpu in (
        ("USED", [gpu.memory_used_bytes for gpu in read]),
        ("FREE", [gpu.memory_free_bytes for gpu in read]),
        ("RESERVED", [gpu.memory_reserved_bytes for gpu in read]),
    ):
        assert values(node, f"DCGM_FI_DEV_FB_{name}") == [round((size or 0) / 2**20) for size in of_gpu]
    (busy, waiting, idle) = values(node, "DCGM_FI_PROF_DRAM_ACTIVE")
    assert busy > 0.75
    assert 0.2 < waiting < 0.4
    assert idle == 0
    true = node.truth.dram_bytes(DECODING, 60, 90)
    assert busy * 864e9 * COLLECT_SECONDS == pytest.approx(true, rel=1e-5)


def test_what_is_lost_is_not_on_the_page_and_is_not_measured_over_the_gap() -> None:
    outage = Outage(what="gpu_lost", index=WAITING, at_seconds=40, until_seconds=100)
    clock = ManualClock()
    node = SimulatedNode(replace(SCENARIO, outages=(outage,)), clock=clock)
    node.start()
    shown = []
    try:
        for _ in range(5):
            clock.advance(COLLECT_SECONDS)
            page = families(node)
            shown.append(
                [
                    {sample.labels["gpu"] for sample in page[name].samples}
                    for name in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_PROF_DRAM_ACTIVE")
                ]
            )
    finally:
        node.close()
    all_of_them, others = {"0", "1", "2"}, {"0", "2"}
    assert shown == [
        [all_of_them, all_of_them],
        [others, others],
        [others, others],
        [all_of_them, others],
        [all_of_them, all_of_them],
    ]


def test_a_frozen_exporter_goes_on_to_show_what_it_has() -> None:
    clock = ManualClock()
    node = SimulatedNode(frozen(at=70, until=130), clock=clock)
    node.start()
    try:
        pages = []
        for _ in range(5):
            clock.advance(COLLECT_SECONDS)
            pages.append(fetch(node).text)
    finally:
        node.close()
    assert pages[0] != pages[1] == pages[2] == pages[3] != pages[4]


def test_a_closed_node_gives_the_exporters_port_back(make_node: NodeFactory) -> None:
    node, _ = make_node(NAME)
    node.start()
    assert fetch(node).ok
    node.close()
    with pytest.raises(requests.ConnectionError, match="refused"):
        fetch(node)


@pytest.mark.parametrize("what", ["dcgm_frozen", "dcgm_down"])
def test_only_an_exporter_that_is_there_can_freeze_or_stop(what: Literal["dcgm_frozen", "dcgm_down"]) -> None:
    with pytest.raises(ValueError, match="no dcgm-exporter"):
        replace(SCENARIOS["idle"], outages=(Outage(what=what, at_seconds=1),))


def test_an_exporter_that_is_down_refuses_and_then_answers_again() -> None:
    clock = ManualClock()
    down = Outage(what="dcgm_down", at_seconds=60, until_seconds=90)
    node = SimulatedNode(replace(SCENARIO, outages=(down,)), clock=clock)
    node.start()
    try:
        clock.advance(59)
        before = fetch(node).text
        clock.advance(1)
        node.nvml.read()  # whoever looks lets happen what is due
        with pytest.raises(requests.ConnectionError, match="refused"):
            fetch(node)
        clock.advance(30)
        node.nvml.read()
        assert fetch(node).text != before
    finally:
        node.close()


def test_the_agent_is_pointed_to_it_and_to_no_other(make_node: NodeFactory) -> None:
    own = Configuration.model_validate(
        {"dcgm": {"url": "http://127.0.0.1:9400/metrics", "interval_seconds": 15}}
    )
    with_one, _ = make_node(NAME)
    without, _ = make_node("idle")
    with_one.start()
    without.start()
    pointed = simulated_configuration(own, with_one).dcgm
    assert {"url": pointed.url} == with_one.dcgm_configuration()
    assert pointed.interval_seconds == 15
    assert without.dcgm_configuration() is None
    assert simulated_configuration(own, without).dcgm.url == ""


# --- as evidence ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched() -> Watched:
    return watch_scenario(SCENARIO, 300)


def counted(watched: Watched, t: int, gpu: int, evidence: Evidence) -> float:
    """DRAM bytes up to then."""
    return watched.assessments[t].gpus[gpu].totals.dram_bytes[evidence]


def of_kind(gpu: GpuAssessment, quantity: str, *kinds: Evidence) -> float:
    """Seconds."""
    return sum(gpu.totals.evidence_seconds.get((quantity, kind), 0.0) for kind in kinds)


def test_the_bytes_that_are_counted_are_those_that_were_moved(watched: Watched) -> None:
    for gpu in (DECODING, WAITING):
        by_dcgm = counted(watched, 300, gpu, "dcgm")
        assert by_dcgm == pytest.approx(watched.truth.dram_bytes(gpu, COLLECT_SECONDS, 300), rel=0.05)
        # What is measured of one interval is booked in the next, and nothing of it is lost.
        earlier = watched.truth.dram_bytes(gpu, 0, 300 - COLLECT_SECONDS)
        assert counted(watched, 299, gpu, "dcgm") == pytest.approx(earlier, rel=1e-4)
        # Before, the engines' pages told; together they are all that was moved.
        modelled = counted(watched, 300, gpu, "modelled")
        assert modelled == counted(watched, COLLECT_SECONDS, gpu, "modelled") > 0
        assert modelled + by_dcgm == pytest.approx(watched.truth.dram_bytes(gpu, 0, 300), rel=0.05)
    assert counted(watched, 300, EMPTY, "dcgm") == counted(watched, 300, EMPTY, "modelled") == 0


def test_no_evidence_is_claimed_before_there_is_any(watched: Watched) -> None:
    for t, assessment in watched.assessments.items():
        for gpu in assessment.gpus:
            for quantity in QUANTITIES:
                assert of_kind(gpu, quantity, "gpm", "mixed") == 0
                assert t >= COLLECT_SECONDS or of_kind(gpu, quantity, "dcgm") == 0, (t, quantity)
            assert t >= COLLECT_SECONDS or (gpu.window is not None and gpu.window.evidence == "none")
    first = watched.assessments[COLLECT_SECONDS]
    assert [gpu.window.evidence for gpu in first.gpus if gpu.window is not None] == ["dcgm"] * 3


def test_every_observed_second_has_this_evidence_or_says_what_else(watched: Watched) -> None:
    measured = 300 - COLLECT_SECONDS + 1
    for gpu in watched.assessments[300].gpus:
        for quantity in ("dram_active", "tensor_active", "sm_active"):
            seconds = of_kind(gpu, quantity, "dcgm", "none")
            assert seconds == pytest.approx(gpu.totals.observed_seconds, abs=1e-9)
        assert of_kind(gpu, "dram_active", "dcgm") == measured
        assert of_kind(gpu, "dram_bytes", "dcgm") == measured
        assert of_kind(gpu, "sm_active", "dcgm") == 0, "an exporter does not collect it by default"
        of_engines = of_kind(gpu, "dram_bytes", "dcgm", "modelled", "none")
        assert of_engines == pytest.approx(gpu.totals.observed_seconds, abs=1e-9)
    empty = watched.assessments[300].gpus[EMPTY]
    assert of_kind(empty, "flops", "dcgm") == measured, "no engine tells of it"


def test_the_page_names_the_evidence(watched: Watched) -> None:
    samples = watched.pages[300].samples()
    evidence = {
        (labels["gpu"], labels["quantity"], labels["evidence"])
        for (name, frozen_labels), value in samples.items()
        if "evidence" in (labels := dict(frozen_labels)) and "quantity" in labels and value > 0
        if name == "roofline_gpu_evidence_seconds_total"
    }
    assert {(str(gpu), "dram_bytes", "dcgm") for gpu in range(3)} <= evidence
    assert samples["roofline_source_up", frozenset({("source", "dcgm")})] == 1


def test_the_model_agrees_with_what_dcgm_measured(watched: Watched) -> None:
    for t, assessment in watched.assessments.items():
        ratios = [engine.agreement_ratio for engine in assessment.engines]
        if t >= COLLECT_SECONDS:
            assert all(ratio is not None and AGREEMENT[0] <= ratio <= AGREEMENT[1] for ratio in ratios), t
        else:
            assert ratios == [None, None], t


# --- evidence that ends --------------------------------------------------------------------------


def frozen(*, at: float, until: float) -> Scenario:
    return replace(SCENARIO, outages=(Outage(what="dcgm_frozen", at_seconds=at, until_seconds=until),))


LAST_CHANGE = 90
SPEAKS_SECONDS = COLLECT_SECONDS + 2 * POLL_SECONDS
"""As `fusion` promises: an interval of the collector, and two of ours in which the next may be late."""
DOWN_SECONDS = int(max(FROZEN_SECONDS, FROZEN_INTERVALS * COLLECT_SECONDS)) + POLL_SECONDS
"""As `sources.dcgm` promises, seen at the next poll."""
THAWED = 420
"""The first collection after."""


@pytest.fixture(scope="module")
def freezing() -> Watched:
    return watch_scenario(frozen(at=100, until=400), 450)


def assessed(watched: Watched, *, start: int, end: int) -> Iterator[tuple[int, Assessment]]:
    return ((t, a) for t, a in watched.assessments.items() if start <= t < end)


def test_a_frozen_exporter_is_no_evidence_after_its_interval(freezing: Watched) -> None:
    ended = LAST_CHANGE + SPEAKS_SECONDS
    last = freezing.assessments[ended]
    for t, assessment in assessed(freezing, start=ended, end=THAWED):
        for gpu, before in zip(assessment.gpus, last.gpus, strict=True):
            assert gpu.totals.dram_bytes["dcgm"] == before.totals.dram_bytes["dcgm"], t
            for quantity in QUANTITIES:
                assert of_kind(gpu, quantity, "dcgm") == of_kind(before, quantity, "dcgm"), t
            else_: Literal["none", "modelled"] = "none" if gpu.index == EMPTY else "modelled"
            passed = of_kind(gpu, "dram_bytes", else_) - of_kind(before, "dram_bytes", else_)
            assert passed == pytest.approx(t - ended, abs=1e-9)


def test_what_it_said_leaves_the_window_a_window_later(freezing: Watched) -> None:
    empty_window = LAST_CHANGE + SPEAKS_SECONDS + WINDOW_SECONDS + 1
    for t, assessment in assessed(freezing, start=empty_window, end=THAWED):
        for gpu in assessment.gpus:
            assert gpu.window is not None
            assert gpu.window.evidence == "none", t
            moved = gpu.dram_bytes_per_second
            assert (moved and moved.evidence) == (None if gpu.index == EMPTY else "modelled"), t
        assert [gpu.verdict.bottleneck for gpu in assessment.gpus] == ["memory_bandwidth", "host", "unknown"]
        assert [engine.agreement_ratio for engine in assessment.engines] == [None, None]


def test_its_source_is_down_until_it_moves_again(freezing: Watched) -> None:
    down = [
        t
        for t, assessment in freezing.assessments.items()
        if not next(source for source in assessment.sources if source.name == "dcgm").up
    ]
    assert down == list(range(LAST_CHANGE + DOWN_SECONDS, THAWED))
    series = ("roofline_source_up", frozenset({("source", "dcgm")}))
    assert [freezing.pages[t].samples()[series] for t in (180, 210, 390, 420)] == [1, 0, 0, 1]
    back = freezing.assessments[THAWED + 1]
    assert [gpu.window.evidence for gpu in back.gpus if gpu.window is not None] == ["dcgm"] * 3


def test_an_exporter_that_refuses_is_down_and_its_evidence_ends() -> None:
    watched = watch_scenario(SCENARIOS["dcgm-down"], 150)
    assert [evidence_of(watched, t) for t in (59, 150)] == ["dcgm", "none"]
    for t, assessment in assessed(watched, start=60, end=151):
        source = next(source for source in assessment.sources if source.name == "dcgm")
        assert not source.up
        assert source.failures["refused"] == (t - 60) // POLL_SECONDS + 1
        assert assessment.gpus[0].verdict.bottleneck == "memory_bandwidth"
    silent = 60 + SPEAKS_SECONDS
    by_dcgm = counted(watched, silent, 0, "dcgm")
    assert by_dcgm == counted(watched, 150, 0, "dcgm") > 0
    assert counted(watched, 150, 0, "modelled") > counted(watched, silent, 0, "modelled")


def evidence_of(watched: Watched, t: int) -> Evidence:
    (gpu,) = watched.assessments[t].gpus
    assert gpu.window is not None
    return gpu.window.evidence


# --- where the model is of no use ----------------------------------------------------------------


def test_a_model_that_is_not_believed_leaves_the_word_to_the_counters() -> None:
    wrong = replace(LLAMA_8B, name="llama-3.1-70b")
    servers = tuple(
        replace(server, engines=tuple(replace(engine, model=wrong) for engine in server.engines))
        for server in SCENARIO.servers
    )
    watched = watch_scenario(replace(SCENARIO, servers=servers), 120)
    for t, assessment in assessed(watched, start=60, end=121):
        gpu = assessment.gpus[DECODING]
        assert (gpu.verdict.bottleneck, gpu.verdict.evidence) == ("memory_bandwidth", "dcgm"), t
        assert "wrong model" in gpu.verdict.reason


def test_documents_are_seen_to_be_bound_by_compute() -> None:
    (server, *_) = SCENARIO.servers
    reading = replace(server, engines=tuple(replace(one, traffic=DOCUMENTS) for one in server.engines))
    watched = watch_scenario(replace(SCENARIO, servers=(reading,)), 200)
    for t, assessment in assessed(watched, start=60, end=201):
        assert watched.truth.bottleneck(0, t - WINDOW_SECONDS, t) == "compute"
        assert assessment.gpus[0].verdict.bottleneck == "compute", t
