"""What is concluded of GPUs over time: divided ones, shared evidence, and what a GPU itself counts."""

from __future__ import annotations

from collections import defaultdict

import pytest

from agent.assessment import Assessment, GpuAssessment
from agent.node import GONE_SECONDS
from tests.machines import MACHINES, Machine, Watch, of, series_of

PRICE = 'prices: [{gpu: "NVIDIA H100 80GB HBM3", usd_per_hour: 8}]\n'
DIVIDED = MACHINES["MIG beside a whole GPU"]
BOARD = "GPU-00000000-0000-0000-0000-000000000001"

# Of the board alone, or of each instance alone; clocks and roofs are no amounts.
SUMMED = (
    "gpu_memory_total_bytes",
    "gpu_memory_used_bytes",
    "gpu_dram_bytes_total",
    "gpu_flops_total",
    "gpu_observed_seconds_total",
    "gpu_bottleneck_seconds_total",
    "gpu_evidence_seconds_total",
    "gpu_peak_dram_bytes_per_second",
    "gpu_processes",
    "gpu_energy_joules_total",
    "gpu_power_watts",
    "gpu_pcie_receive_bytes_total",
    "gpu_clock_limited_seconds_total",
    "gpu_ecc_errors_total",
    "gpu_xid_errors_total",
)


def the(assessment: Assessment, uuid: str) -> GpuAssessment:
    (gpu,) = (gpu for gpu in assessment.gpus if gpu.uuid == uuid)
    return gpu


# --- MIG -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", SUMMED)
def test_no_amount_is_told_of_a_board_and_of_its_instances(watch: Watch, metric: str) -> None:
    series = series_of(watch(DIVIDED).beat(5))
    tellers = defaultdict(set)
    for name, labels in series:
        tellers[name].add(labels[1])
    instances = {uuid for uuid in tellers[metric] if uuid.startswith("MIG-")}
    assert tellers[metric], "it is told"
    assert not (BOARD in tellers[metric] and instances)


def test_instances_are_known_by_their_uuid_and_lead_to_their_gpu(watch: Watch) -> None:
    series = series_of(watch(DIVIDED).beat(5))
    infos = {labels[1]: labels for name, labels in series if name == "gpu_info"}
    assert {labels[8] for uuid, labels in infos.items() if uuid.startswith("MIG-")} == {BOARD}
    assert infos[BOARD][8] == ""
    assert {labels[3] for labels in infos.values()} == {"H100-SXM5-80GB"}
    instances = [f"MIG-victim-{place}" for place in range(3)]
    assert {uuid: labels[0] for uuid, labels in infos.items()} == {
        "GPU-00000000-0000-0000-0000-000000000000": "0",
        **dict.fromkeys([BOARD, *instances], "1"),
    }


def test_an_instance_has_the_roofs_of_its_slices_and_its_own_class(watch: Watch) -> None:
    watched = watch(DIVIDED)
    watched.stand_in.set({"gpu1.gi7.gpm.10": 2, "gpu1.gi7.gpm.5": 91, "gpu1.mig0.gi": 7})
    assessment = watched.beat(20)
    computing, waiting = the(assessment, "MIG-victim-0"), the(assessment, "MIG-victim-1")
    assert computing.verdict.bottleneck == "compute"
    assert waiting.verdict.bottleneck == "memory_bandwidth"
    whole = the(assessment, "GPU-00000000-0000-0000-0000-000000000000").peak_roof("bf16")
    roof = waiting.peak_roof("bf16")
    assert whole is not None
    assert roof is not None
    assert roof.dram_bytes_per_second == whole.dram_bytes_per_second / 8
    assert roof.flops_per_second == pytest.approx(whole.flops_per_second * 16 / 132)


def test_the_price_of_a_divided_gpu_is_dealt_out_whole(watch: Watch) -> None:
    assessment = watch(DIVIDED, configuration=PRICE).beat(61)
    paid = {gpu.uuid: gpu.totals.cost_usd for gpu in assessment.gpus}
    minute = 8 / 60
    assert paid["GPU-00000000-0000-0000-0000-000000000000"] == pytest.approx(minute)
    assert paid["MIG-victim-0"] == pytest.approx(minute / 8)
    assert paid[BOARD] == pytest.approx(minute * 5 / 8)  # three eighths are in use
    assert sum(paid.values()) == pytest.approx(2 * minute)
    assert the(assessment, BOARD).totals.unattributed_cost_usd == pytest.approx(minute * 5 / 8)


def test_instances_that_were_taken_apart_are_forgotten_and_new_ones_found(watch: Watch) -> None:
    watched = watch(DIVIDED)
    watched.beat(5)
    watched.stand_in.set({"gpu1.mig0.uuid": "MIG-anew"})
    assessment = watched.beat(2)
    assert {gpu.uuid for gpu in assessment.gpus if gpu.uuid.startswith("MIG-")} == {
        "MIG-anew",
        "MIG-victim-1",
        "MIG-victim-2",
    }
    assert "MIG-victim-0" in watched.tracks
    watched.beat(int(GONE_SECONDS) + 2)
    assert "MIG-victim-0" not in watched.tracks
    assert "MIG-victim-1" in watched.tracks


def test_instances_of_a_lost_gpu_keep_their_counters(watch: Watch) -> None:
    watched = watch(DIVIDED)
    before = the(watched.beat(10), "MIG-victim-0").totals.observed_seconds
    watched.stand_in.set({"gpu1.return": 15})
    watched.beat(int(GONE_SECONDS) + 60)
    watched.stand_in.set({"gpu1.return": None})
    after = the(watched.beat(40), "MIG-victim-0").totals
    assert after.observed_seconds > before
    assert after.unobserved_seconds > GONE_SECONDS


# --- evidence --------------------------------------------------------------------------------------


def test_profiling_that_reads_zero_while_kernels_run_is_counted_and_not_believed(watch: Watch) -> None:
    watched = watch(Machine(gpus=1, settings={f"gpm.{metric}": 0 for metric in (1, 2, 5, 10)}))
    gpu = watched.beat(21).gpus[0]
    assert gpu.verdict.bottleneck == "unknown"
    assert "contradicts itself" in gpu.verdict.reason
    totals = gpu.totals
    assert totals.contradicted_seconds == totals.observed_seconds == 20
    assert totals.dram_bytes["gpm"] == 0
    assert totals.evidence_seconds[("dram_active", "none")] == totals.observed_seconds


def test_a_roof_that_power_holds_down_is_said(watch: Watch) -> None:
    watched = watch(Machine(gpus=1, settings={"sm_clock_mhz": 1500, "clock_event_reasons": 0x4}))
    gpu = watched.beat(40).gpus[0]
    assert gpu.throttle == "the compute roof is 18 % lower: power cap"
    assert series_of(watched.beat())[("gpu_roof_flops_per_second", ("0", gpu.uuid, "bf16"))] == pytest.approx(
        989.4e12 * 1500 / 1830, rel=0.01
    )


def test_a_memory_roof_that_heat_holds_down_is_said(watch: Watch) -> None:
    watched = watch(
        Machine(
            gpus=1, settings={"memory_clock_mhz": 1310, "sm_clock_mhz": 1830, "clock_event_reasons": 0x20}
        )
    )
    assert watched.beat(40).gpus[0].throttle == "the memory roof is 50 % lower: heat"


# --- what a GPU counts -----------------------------------------------------------------------------


def test_bytes_over_links_are_ours_from_the_first_reading_on(watch: Watch) -> None:
    watched = watch(Machine(gpus=1))
    watched.stand_in.set({"field.197": 5_000_000})
    assert watched.beat(3).gpus[0].totals.link_bytes["pcie_transmit_bytes"] == 0
    watched.stand_in.set({"field.197": 7_500_000})
    assert watched.beat(3).gpus[0].totals.link_bytes["pcie_transmit_bytes"] == 2_500_000
    watched.stand_in.set({"field.197": 300})  # it began anew
    assert watched.beat(3).gpus[0].totals.link_bytes["pcie_transmit_bytes"] == 2_500_300


def test_what_a_lost_gpu_counted_meanwhile_is_no_spike(watch: Watch) -> None:
    watched = watch(Machine(gpus=1))
    watched.stand_in.set({"field.197": 1000})
    watched.beat(3)
    watched.stand_in.set({"return": None, "gpu0.return": 15})
    watched.beat(3)
    watched.stand_in.set({"gpu0.return": None, "field.197": 9_000_000_000})
    totals = watched.beat(40).gpus[0].totals
    assert totals.link_bytes["pcie_transmit_bytes"] == 0


def test_time_in_which_clocks_are_held_back_is_the_drivers_own_count(watch: Watch) -> None:
    watched = watch(Machine(gpus=1, settings={"field.74": 7_000_000_000, "clock_event_reasons": 0}))
    watched.beat(3)
    watched.stand_in.set({"field.74": 7_250_000_000})
    limited = watched.beat(3).gpus[0].totals.clock_limited_seconds
    assert limited["sw_power_cap"] == pytest.approx(0.25)


def test_without_a_count_it_is_the_time_in_which_the_reason_held(watch: Watch) -> None:
    watched = watch(Machine(gpus=1, settings={"clock_event_reasons": 0x40}))
    limited = watched.beat(11).gpus[0].totals.clock_limited_seconds
    assert limited["hw_thermal"] == 10
    assert limited["hw_power_brake"] == 0
    assert "idle" not in limited


def test_a_lost_gpu_still_says_why(watch: Watch) -> None:
    watched = watch(Machine(gpus=2))
    uuid = watched.machine.victim_uuid
    watched.beat(2)
    watched.stand_in.set({"xids": "1:gpu1:79", "gpu1.return": 15})
    watched.hear()
    series = series_of(watched.beat(2))
    assert series[("gpu_up", ("1", uuid))] == 0
    assert series[("gpu_xid_errors_total", ("1", uuid, "79"))] == 1
    assert series[("gpu_xid_errors_total", ("1", uuid, "48"))] == 0
    assert ("gpu_last_xid_timestamp_seconds", ("1", uuid)) in series
    assert not [one for one in of(series, uuid) if one[0] == "gpu_power_watts"]


@pytest.mark.parametrize("machine", ["8 GPUs", "7 MIG instances"])
def test_a_lost_gpu_keeps_the_labels_that_describe_it(watch: Watch, machine: str) -> None:
    watched = watch(MACHINES[machine])
    before = watched.beat(3)
    watched.stand_in.set({f"{watched.machine.victim}.return": 15})
    after = watched.beat(3)
    assert sum(not gpu.up for gpu in after.gpus) == 1

    def infos(assessment: Assessment) -> set[object]:
        return {series for series in series_of(assessment) if series[0] == "gpu_info"}

    assert infos(after) == infos(before)
    assert {gpu.number for gpu in after.gpus} == {gpu.number for gpu in before.gpus}
