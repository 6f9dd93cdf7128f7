from __future__ import annotations

from random import Random

import pytest

from agent.readings import GpuLost, GpuReading
from agent.simulate.activity import CAUSES
from agent.simulate.scenarios import SCENARIOS
from tests.simulate.conftest import NodeFactory

TRUE_CLASSES: dict[str, list[tuple[int, float, float, str]]] = {
    # of each scenario: GPU, start, end, class
    "node": [
        (0, 20, 50, "memory_bandwidth"),
        (1, 20, 50, "memory_bandwidth"),
        (2, 20, 50, "compute"),
        (3, 20, 50, "host"),
        *((gpu, 20, 50, "memory_bandwidth") for gpu in (4, 5, 6, 7)),
    ],
    "idle": [(0, 0, 30, "idle")],
    "memory-bound-decode": [(0, 20, 50, "memory_bandwidth")],
    "single-user": [(0, 20, 50, "memory_bandwidth")],
    "compute-bound-prefill": [(0, 20, 50, "compute")],
    "sparse-prefill": [(0, 20, 50, "compute")],
    "mixed": [(0, 20, 50, "memory_bandwidth")],
    "interference": [(0, 20, 50, "compute")],
    "host-bound": [(0, 20, 50, "host")],
    "speculative-decoding": [(0, 20, 50, "memory_bandwidth"), (1, 20, 50, "memory_bandwidth")],
    "interconnect": [(gpu, 20, 50, "interconnect") for gpu in range(8)],
    "kernel-latency": [(gpu, 20, 50, "kernel_latency") for gpu in range(8)],
    "kv-nearly-full": [(0, 20, 50, "memory_bandwidth")],
    "kv-filling": [(0, 20, 50, "memory_bandwidth")],
    "preempting": [(0, 20, 50, "memory_bandwidth")],
    "max-num-seqs": [(0, 20, 50, "memory_bandwidth")],
    "overloaded": [(0, 20, 50, "memory_bandwidth")],
    "traffic-fell": [(0, 20, 60, "memory_bandwidth"), (0, 70, 100, "memory_bandwidth")],
    "throttled": [(0, 20, 50, "compute")],
    "overheated": [(0, 20, 50, "compute")],
    "hung-engine": [(0, 20, 60, "memory_bandwidth"), (0, 60, 100, "unknown")],
    "shared-gpu": [(0, 20, 50, "memory_bandwidth")],
    "data-parallel": [(0, 20, 50, "memory_bandwidth"), (1, 20, 50, "memory_bandwidth")],
    "contradicting-evidence": [(0, 20, 50, "unknown")],
    "wrong-model": [(0, 20, 50, "memory_bandwidth")],
    "measured-by-dcgm": [(0, 20, 50, "memory_bandwidth"), (1, 20, 50, "host"), (2, 0, 50, "idle")],
    "dcgm-down": [(0, 20, 60, "memory_bandwidth"), (0, 60, 100, "memory_bandwidth")],
    "driver-down": [(0, 20, 60, "memory_bandwidth"), (0, 60, 100, "memory_bandwidth")],
    "failing-memory": [(gpu, 20, 100, "memory_bandwidth") for gpu in (0, 1)],
    "gpu-lost": [
        (0, 130, 230, "memory_bandwidth"),
        (1, 20, 120, "memory_bandwidth"),
        (1, 120, 240, "unknown"),
        (1, 240, 260, "memory_bandwidth"),
    ],
    "engine-down": [
        (0, 20, 120, "memory_bandwidth"),
        (0, 120, 240, "idle"),
        (0, 240, 260, "memory_bandwidth"),
    ],
}


def test_every_class_has_a_scenario() -> None:
    assert {cause for story in TRUE_CLASSES.values() for *_, cause in story} == set(CAUSES)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_tells_its_story(make_node: NodeFactory, scenario: str) -> None:
    node, clock = make_node(scenario)
    story = TRUE_CLASSES[scenario]
    clock.advance(max(end for _, _, end, _ in story))
    assert [
        (gpu, start, end, node.truth.bottleneck(gpu, start, end)) for gpu, start, end, _ in story
    ] == story


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_time_is_conserved(make_node: NodeFactory, scenario: str) -> None:
    node, clock = make_node(scenario)
    random, now = Random(scenario), 0.0
    for _ in range(15):
        step = random.uniform(0.01, 20)
        clock.advance(step)
        now += step
        start = random.uniform(0, now)
        for gpu in range(len(SCENARIOS[scenario].gpus)):
            seconds = node.truth.seconds(gpu, start, now)
            assert sum(seconds.values()) == pytest.approx(now - start, abs=1e-6)
            assert min(seconds.values()) >= -1e-9


def test_parts_of_a_time_sum_to_the_whole(make_node: NodeFactory) -> None:
    node, clock = make_node("mixed")
    clock.advance(40)
    whole = node.truth.seconds(0, 10, 40)
    first, second = node.truth.seconds(0, 10, 23.4), node.truth.seconds(0, 23.4, 40)
    assert {cause: first[cause] + second[cause] for cause in whole} == pytest.approx(whole)


def test_the_future_cannot_be_asked_about(make_node: NodeFactory) -> None:
    node, clock = make_node("idle")
    clock.advance(10)
    with pytest.raises(ValueError, match="11 s is not between 0 and 10"):
        node.truth.seconds(0, 5, 11)


# --- what NVML says of it ------------------------------------------------------------------------


def read(make_node: NodeFactory, scenario: str, *, start: float, end: float, gpu: int = 0) -> GpuReading:
    node, clock = make_node(scenario)
    clock.advance(start)
    node.nvml.read()
    clock.advance(end - start)
    reading = node.nvml.read().gpus[gpu]
    assert isinstance(reading, GpuReading)
    return reading


SIGNS = [
    # scenario, start, end, then least and most of: DRAM, tensor, graphics, watts
    ("idle", 20, 50, (0, 0), (0, 0), (0, 0), (70, 80)),
    ("memory-bound-decode", 20, 50, (0.6, 0.9), (0.01, 0.1), (0.9, 1), (350, 450)),
    ("compute-bound-prefill", 20, 50, (0.1, 0.4), (0.5, 0.8), (0.95, 1), (550, 700)),
    ("throttled", 20, 50, (0.1, 0.4), (0.5, 0.8), (0.95, 1), (400, 450)),
    ("host-bound", 20, 50, (0.1, 0.4), (0, 0.05), (0.2, 0.5), (150, 300)),
    ("kernel-latency", 20, 50, (0.15, 0.3), (0, 0.02), (0.9, 1), (200, 350)),
    ("hung-engine", 70, 100, (0, 0), (0, 0), (1, 1), (100, 200)),
    ("contradicting-evidence", 20, 50, (0, 0), (0, 0), (0, 0), (350, 450)),
]


@pytest.mark.parametrize(("scenario", "start", "end", "dram", "tensor", "graphics", "watts"), SIGNS)
def test_the_counters_show_what_happens(
    make_node: NodeFactory,
    scenario: str,
    start: float,
    end: float,
    dram: tuple[float, float],
    tensor: tuple[float, float],
    graphics: tuple[float, float],
    watts: tuple[float, float],
) -> None:
    reading = read(make_node, scenario, start=start, end=end)
    activity = reading.activity
    assert activity is not None
    assert (activity.evidence, activity.seconds) == ("gpm", end - start)
    for value, (least, most) in (
        (activity.dram_ratio, dram),
        (activity.tensor_ratio, tensor),
        (activity.graphics_ratio, graphics),
        (reading.power_watts, watts),
    ):
        assert value is not None
        assert least - 1e-9 <= value <= most + 1e-9


def test_a_part_without_profiling_counters_says_so_and_shows_the_rest(make_node: NodeFactory) -> None:
    reading = read(make_node, "interconnect", start=20, end=50)
    assert reading.activity is None
    assert reading.activity_problem
    assert "no GPM" in reading.activity_problem
    assert reading.kernel_time_ratio == pytest.approx(1, abs=0.02)
    assert reading.power_watts is not None
    assert 100 < reading.power_watts < 200, "an L40S has half of an H100's power"


@pytest.mark.parametrize(
    ("scenario", "name", "power_limit_watts"),
    [
        ("idle", "NVIDIA H100 80GB HBM3", 700),
        ("throttled", "NVIDIA H100 80GB HBM3", 450),
        ("kernel-latency", "NVIDIA H200", 700),
        ("interconnect", "NVIDIA L40S", 350),
        ("measured-by-dcgm", "NVIDIA L40S", 350),
    ],
)
def test_a_part_goes_by_its_name_and_its_limit(
    make_node: NodeFactory, scenario: str, name: str, power_limit_watts: float
) -> None:
    reading = read(make_node, scenario, start=0, end=1)
    assert (reading.name, reading.power_limit_watts) == (name, power_limit_watts)


def test_contradicting_counters_are_all_zero_under_full_kernel_time(make_node: NodeFactory) -> None:
    reading = read(make_node, "contradicting-evidence", start=20, end=50)
    assert reading.activity is not None
    assert reading.activity.sm_ratio == 0
    assert reading.kernel_time_ratio == pytest.approx(0.95, abs=0.05)


def test_a_power_cap_lowers_the_clock_and_stretches_prefill(make_node: NodeFactory) -> None:
    free = read(make_node, "compute-bound-prefill", start=0, end=60)
    capped = read(make_node, "throttled", start=0, end=60)
    assert (free.clock_limit_reasons, capped.clock_limit_reasons) == ((), ("sw_power_cap",))
    assert free.sm_clock_hertz == free.sm_clock_max_hertz == 1980e6
    assert capped.sm_clock_hertz == pytest.approx(0.62 * 1980e6)
    done = []
    for scenario in ("compute-bound-prefill", "throttled"):
        node, clock = make_node(scenario)
        clock.advance(60)
        done.append(node.truth.work(0).prefill_tokens)
    assert 0.6 < done[1] / done[0] < 0.75


def test_a_reader_who_comes_too_early_gets_the_last_sample_again(make_node: NodeFactory) -> None:
    node, clock = make_node("mixed")
    (first,) = node.nvml.read().gpus
    assert isinstance(first, GpuReading)
    assert first.activity is None
    assert first.activity_problem
    clock.advance(1)
    (second,) = node.nvml.read().gpus
    clock.advance(0.1)
    (third,) = node.nvml.read().gpus
    clock.advance(0.1)
    (fourth,) = node.nvml.read().gpus
    assert isinstance(second, GpuReading)
    assert isinstance(third, GpuReading)
    assert isinstance(fourth, GpuReading)
    assert second.activity == third.activity != fourth.activity
    assert fourth.activity is not None
    assert fourth.activity.seconds == pytest.approx(0.2)


def test_energy_is_power_over_time(make_node: NodeFactory) -> None:
    node, clock = make_node("throttled")
    clock.advance(10)
    (before,) = node.nvml.read().gpus
    clock.advance(20)
    (after,) = node.nvml.read().gpus
    assert isinstance(before, GpuReading)
    assert isinstance(after, GpuReading)
    assert before.energy_joules is not None
    assert after.energy_joules is not None
    assert after.power_watts is not None
    assert after.energy_joules - before.energy_joules == pytest.approx(20 * after.power_watts)
    assert after.power_watts <= 450


def test_memory_holds_the_model_and_its_cache_and_leaves_some(make_node: NodeFactory) -> None:
    for scenario in ("node", "interconnect", "kernel-latency", "measured-by-dcgm"):
        node, clock = make_node(scenario)
        clock.advance(1)
        for gpu in node.nvml.read().gpus:
            assert isinstance(gpu, GpuReading)
            assert gpu.memory_total_bytes is not None
            assert gpu.memory_used_bytes is not None
            assert gpu.memory_free_bytes is not None
            assert gpu.memory_used_bytes > 0.75 * gpu.memory_total_bytes or not gpu.processes
            assert gpu.memory_free_bytes > 0


def test_a_lost_gpu_costs_only_its_own_readings(make_node: NodeFactory) -> None:
    node, clock = make_node("gpu-lost")
    clock.advance(130)
    kept, lost = node.nvml.read().gpus
    assert isinstance(kept, GpuReading)
    assert isinstance(lost, GpuLost)
    assert (lost.reason, lost.index) == ("gpu_is_lost", 1)
    clock.advance(115)
    _, back = node.nvml.read().gpus
    assert isinstance(back, GpuReading)
    assert back.uuid == lost.uuid
    clock.advance(5)
    _, back = node.nvml.read().gpus
    assert isinstance(back, GpuReading)
    assert back.activity is not None
    assert back.activity.dram_ratio is not None
    assert back.activity.dram_ratio > 0.5


def test_gpus_are_told_apart(make_node: NodeFactory) -> None:
    node, clock = make_node("node")
    clock.advance(1)
    gpus = [gpu for gpu in node.nvml.read().gpus if isinstance(gpu, GpuReading)]
    assert [gpu.index for gpu in gpus] == list(range(8))
    assert len({gpu.uuid for gpu in gpus}) == len({gpu.pci_bus_id for gpu in gpus}) == 8
    assert gpus[3].uuid == "GPU-00000000-0000-0000-0000-000000000003"
