"""What a GPU answers by number, in one call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.errors import SourceError
from agent.readings import RECOVERY_ACTIONS, GpuReading
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.pause import FIRST_PAUSE_SECONDS
from tests.nvml_standin import GENERATIONS, StandIn
from tests.sources.nvml.gpus import Advance, gpu_of, lost_of

ASK = "nvmlDeviceGetFieldValues"
NOT_SUPPORTED = 3
DOUBLE, UINT, ULONG, ULONG_LONG, LONG_LONG, INT, USHORT = range(7)

Say = Callable[[GpuReading], object]

NEW = "590.44.01"
"""A driver that has all fields."""


def limited(reason: str) -> Say:
    return lambda gpu: gpu.counters.clock_limited_seconds.get(reason)


SAY: dict[str, Say] = {
    "3": lambda gpu: gpu.health.ecc_corrected_errors,
    "4": lambda gpu: gpu.health.ecc_uncorrected_errors,
    "74": limited("sw_power_cap"),
    "76": limited("sync_boost"),
    "82": lambda gpu: gpu.memory_temperature_celsius,
    "83": lambda gpu: gpu.energy_joules,
    "138.all": lambda gpu: gpu.counters.nvlink_transmit_bytes,
    "139.all": lambda gpu: gpu.counters.nvlink_receive_bytes,
    "142": lambda gpu: gpu.health.remapped_rows_corrected,
    "143": lambda gpu: gpu.health.remapped_rows_uncorrected,
    "144": lambda gpu: gpu.health.row_remap_pending,
    "145": lambda gpu: gpu.health.row_remap_failed,
    "185": lambda gpu: gpu.power_watts,
    "186": lambda gpu: gpu.power_instant_watts,
    "197": lambda gpu: gpu.counters.pcie_transmit_bytes,
    "198": lambda gpu: gpu.counters.pcie_receive_bytes,
    "230": lambda gpu: gpu.health.recovery_action,
    "269": limited("sw_thermal"),
    "270": limited("hw_thermal"),
    "271": limited("hw_power_brake"),
}
"""Where each field is found in a reading."""
AGED = ("83", "185")
"""Those that an older call says too."""


def said(gpu: GpuReading) -> set[str]:
    return {field for field, say in SAY.items() if say(gpu) is not None}


@pytest.fixture(autouse=True)
def new_driver(stand_in: StandIn) -> None:
    stand_in.set({"driver_version": NEW})


# --- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "raw", "value"),
    [
        pytest.param("3", 17, 17, id="ECC errors that were corrected"),
        pytest.param("4", 5, 5, id="ECC errors that were not"),
        pytest.param("74", 2_500_000_000, 2.5, id="seconds under the power cap"),
        pytest.param("76", 1_500_000_000, 1.5, id="seconds for sync boost"),
        pytest.param("82", 88, 88, id="degrees of the memory"),
        pytest.param("83", 12_345, 12.345, id="joules"),
        pytest.param("138.all", 3, 3 * 1024, id="bytes sent over NVLink"),
        pytest.param("139.all", 5, 5 * 1024, id="bytes received over NVLink"),
        pytest.param("142", 7, 7, id="rows replaced after corrected errors"),
        pytest.param("143", 9, 9, id="rows replaced after others"),
        pytest.param("144", 1, True, id="a row waits to be replaced"),
        pytest.param("145", 1, True, id="a row could not be replaced"),
        pytest.param("185", 345_678, 345.678, id="watts, as a mean"),
        pytest.param("186", 543_210, 543.21, id="watts of this instant"),
        pytest.param("197", 11, 11, id="bytes sent over PCIe"),
        pytest.param("198", 13, 13, id="bytes received over PCIe"),
        pytest.param("230", 2, "node_reboot", id="what the driver asks for"),
        pytest.param("269", 3_500_000_000, 3.5, id="seconds for heat, in software"),
        pytest.param("270", 4_500_000_000, 4.5, id="seconds for heat, in hardware"),
        pytest.param("271", 5_500_000_000, 5.5, id="seconds for the power brake"),
    ],
)
def test_a_field_is_in_base_units(
    source: NvmlSource, stand_in: StandIn, field: str, raw: int, value: object
) -> None:
    stand_in.set({f"field.{field}": raw})
    assert SAY[field](gpu_of(source.read())) == pytest.approx(value)


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        pytest.param(DOUBLE, 0.25, 0.25, id="double"),
        pytest.param(UINT, 2**32 - 1, 2**32 - 1, id="unsigned int"),
        pytest.param(ULONG, 2**63 + 1, 2**63 + 1, id="unsigned long"),
        pytest.param(ULONG_LONG, 2**63 + 1, 2**63 + 1, id="unsigned long long"),
        pytest.param(LONG_LONG, 2**53 + 1, 2**53 + 1, id="signed long long"),
        pytest.param(INT, 2**31 - 1, 2**31 - 1, id="signed int"),
        pytest.param(USHORT, 2**16 - 1, 2**16 - 1, id="unsigned short"),
    ],
)
def test_a_value_of_each_type_is_exact(
    source: NvmlSource, stand_in: StandIn, kind: int, raw: float, value: float
) -> None:
    stand_in.set({"field.197": raw, "field.197.type": kind})
    assert gpu_of(source.read()).counters.pcie_transmit_bytes == value


def test_a_value_of_a_type_to_come_costs_only_itself(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"field.197.type": 7})
    assert said(gpu_of(source.read())) == SAY.keys() - {"197"}


@pytest.mark.parametrize(("number", "word"), list(enumerate(RECOVERY_ACTIONS)))
def test_a_recovery_action_is_a_word(source: NvmlSource, stand_in: StandIn, number: int, word: str) -> None:
    stand_in.set({"field.230": number})
    assert gpu_of(source.read()).health.recovery_action == word


def test_an_unknown_recovery_action_is_not_guessed(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"field.230": len(RECOVERY_ACTIONS)})
    assert gpu_of(source.read()).health.recovery_action is None


def test_a_memory_of_zero_degrees_has_no_sensor(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"field.82": 0})
    assert gpu_of(source.read()).memory_temperature_celsius is None


# --- how it is asked ---------------------------------------------------------------------------------


def test_a_reading_asks_once_for_all_fields(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    probing = stand_in.calls(ASK)
    for _ in range(5):
        source.read()
    assert stand_in.calls(ASK) - probing == 5


@pytest.mark.parametrize("field", SAY)
def test_a_field_that_a_gpu_lacks_costs_its_own_value(
    source: NvmlSource, stand_in: StandIn, field: str
) -> None:
    number = field.partition(".")[0]
    stand_in.set({f"field.{number}.return": NOT_SUPPORTED})
    expected = SAY.keys() - ({field} - set(AGED))
    assert said(gpu_of(source.read())) == expected


@pytest.mark.parametrize("code", [2, 3, 4, 13, 25, 26])
def test_a_field_that_is_lacking_is_not_asked_for_again_in_this_session(
    source: NvmlSource, stand_in: StandIn, code: int
) -> None:
    stand_in.set({"field.82.return": code})
    source.read()
    stand_in.set({"field.82.return": None})
    assert gpu_of(source.read()).memory_temperature_celsius is None
    source.close()
    assert gpu_of(source.read()).memory_temperature_celsius == 61


@pytest.mark.parametrize("code", [6, 10, 21, 999])
@pytest.mark.parametrize("readings_before", [0, 1], ids=["at the first reading", "later"])
def test_a_field_that_fails_for_now_comes_back(
    source: NvmlSource, stand_in: StandIn, code: int, readings_before: int
) -> None:
    for _ in range(readings_before):
        source.read()
    stand_in.set({"field.82.return": code})
    assert said(gpu_of(source.read())) == SAY.keys() - {"82"}
    stand_in.set({"field.82.return": None})
    assert said(gpu_of(source.read())) == SAY.keys()


def test_all_fields_fail_together_and_come_back(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({f"{ASK}.return": 10})
    assert said(gpu_of(source.read())) == set(AGED)
    stand_in.set({f"{ASK}.return": None})
    assert said(gpu_of(source.read())) == SAY.keys()


@pytest.mark.parametrize(
    ("code", "reason"), [(11, "interrupt"), (14, "inforom"), (15, "lost"), (16, "reset_required")]
)
def test_a_gpu_says_in_one_value_that_it_is_lost(
    source: NvmlSource, stand_in: StandIn, code: int, reason: str
) -> None:
    stand_in.set({"gpus": 2, "gpu0.field.3.return": code})
    reading = source.read()
    assert lost_of(reading, 0).reason == reason
    assert said(gpu_of(reading, 1)) == SAY.keys()


@pytest.mark.parametrize(
    ("code", "reason"), [(1, "uninitialized"), (18, "version_mismatch"), (28, "gpu_not_found")]
)
def test_a_session_ends_by_one_value(source: NvmlSource, stand_in: StandIn, code: int, reason: str) -> None:
    source.read()
    stand_in.set({"field.3.return": code})
    with pytest.raises(SourceError) as caught:
        source.read()
    assert caught.value.reason == reason
    assert stand_in.calls("nvmlShutdown") == 1


def test_a_gpu_without_any_field_is_lost_all_the_same(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set({f"field.{number}.return": NOT_SUPPORTED for number in range(300)})
    assert said(gpu_of(source.read())) == set(AGED)
    stand_in.set({"gpu0.return": 999})
    advance(1)
    assert lost_of(source.read()).reason == "unknown"


# --- generations of the driver -----------------------------------------------------------------------

SINCE = {
    525: {"3", "4", "74", "76", "82", "83", "138.all", "139.all", "142", "143", "144", "145", "185"},
    535: {"186"},
    570: {"197", "198", "230"},
    590: {"269", "270", "271"},
}
"""What each generation adds; the power has an older call behind it."""


@pytest.mark.parametrize("strict", [0, 1], ids=["spoils itself", "spoils the call"])
@pytest.mark.parametrize("driver", GENERATIONS)
def test_a_driver_gives_exactly_what_its_generation_has(
    source: NvmlSource, stand_in: StandIn, driver: int, strict: int
) -> None:
    stand_in.set({**GENERATIONS[driver].settings, "field.strict": strict})
    source.read()
    probing = stand_in.calls(ASK)
    has = set().union(*(added for since, added in SINCE.items() if since <= driver))
    assert said(gpu_of(source.read())) == has
    assert stand_in.calls(ASK) == probing + 1


@pytest.mark.parametrize("version", ["575.57.08", "580.65.06", "", "unheard of"])
def test_numbers_that_meant_power_smoothing_are_not_taken_for_lowered_clocks(
    source: NvmlSource, stand_in: StandIn, version: str
) -> None:
    stand_in.set({"driver_version": version, "clock_event_reasons": 0x20})
    gpu = gpu_of(source.read())
    assert set(gpu.counters.clock_limited_seconds) == {"sw_power_cap", "sync_boost"}
    assert gpu.clock_limit_reasons == ("sw_thermal",)


def test_a_younger_driver_is_believed_too(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"driver_version": "1000.1"})
    assert "sw_thermal" in gpu_of(source.read()).counters.clock_limited_seconds


@pytest.mark.parametrize("code", [NOT_SUPPORTED, 10])
def test_power_falls_back_to_the_older_call(source: NvmlSource, stand_in: StandIn, code: int) -> None:
    stand_in.set({"field.185.return": code, "field.186.return": code, "power_mw": 70_000})
    gpu = gpu_of(source.read())
    assert (gpu.power_watts, gpu.power_instant_watts) == (70.0, None)


def test_energy_falls_back_to_the_older_call(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"field.83.return": NOT_SUPPORTED, "energy_mj": 987_654})
    assert gpu_of(source.read()).energy_joules == pytest.approx(987.654)


@pytest.mark.parametrize(
    ("field", "call"), [("185", "nvmlDeviceGetPowerUsage"), ("83", "nvmlDeviceGetTotalEnergyConsumption")]
)
def test_the_older_call_is_not_made_beside_the_field_even_at_zero(
    source: NvmlSource, stand_in: StandIn, field: str, call: str
) -> None:
    stand_in.set({f"field.{field}": 0})
    assert SAY[field](gpu_of(source.read())) == 0
    assert stand_in.calls(call) == 0


# --- counters ----------------------------------------------------------------------------------------


def test_a_counter_of_32_bits_goes_on_over_each_wrap(source: NvmlSource, stand_in: StandIn) -> None:
    counted = []
    for raw in (2**32 - 100, 50, 2**32 - 1, 7):
        stand_in.set({"field.198": raw, "field.198.type": UINT})
        counted.append(gpu_of(source.read()).counters.pcie_receive_bytes)
    assert counted == [2**32 - 100, 2**32 + 50, 2**33 - 1, 2**33 + 7]


def test_counters_wrap_each_for_itself(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpus": 2, "field.197.type": UINT, "field.198.type": UINT})
    stand_in.set({"field.197": 100, "field.198": 100})
    source.read()
    stand_in.set({"gpu1.field.198": 40})
    first, second = (gpu_of(source.read(), place).counters for place in range(2))
    assert (first.pcie_transmit_bytes, first.pcie_receive_bytes) == (100, 100)
    assert (second.pcie_transmit_bytes, second.pcie_receive_bytes) == (100, 2**32 + 40)


def test_a_counter_of_64_bits_that_falls_is_shown_as_fallen(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"field.198": 2**32 + 5})
    source.read()
    stand_in.set({"field.198": 5})
    assert gpu_of(source.read()).counters.pcie_receive_bytes == 5


def test_after_a_pause_a_lost_gpu_counts_from_what_it_says(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set({"field.198": 1000, "field.198.type": UINT})
    source.read()
    stand_in.set({"gpu0.return": 15})
    source.read()
    stand_in.set({"gpu0.return": None, "field.198": 10})
    advance(FIRST_PAUSE_SECONDS)
    assert gpu_of(source.read()).counters.pcie_receive_bytes == 10


def test_what_is_no_counter_may_fall(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"field.82": 40, "field.186": 9_000})
    gpu = gpu_of(source.read())
    assert (gpu.memory_temperature_celsius, gpu.power_instant_watts) == (40, 9.0)


# --- NVLink ------------------------------------------------------------------------------------------

BLACKWELL = {
    "field.138.return": NOT_SUPPORTED,
    "field.139.return": NOT_SUPPORTED,
    **{f"field.202.{link}": 1000 + link for link in range(18)},
    **{f"field.204.{link}": 2000 + link for link in range(18)},
}
SENT, RECEIVED = sum(range(1000, 1018)), sum(range(2000, 2018))


def over_nvlink(source: NvmlSource) -> tuple[float | None, float | None]:
    counters = gpu_of(source.read()).counters
    return counters.nvlink_transmit_bytes, counters.nvlink_receive_bytes


def test_nvlink_is_counted_over_all_links_and_not_over_the_first(
    source: NvmlSource, stand_in: StandIn
) -> None:
    stand_in.set({"field.138.0": 1, "field.138.all": 20, "field.139.0": 2, "field.139.all": 30})
    assert over_nvlink(source) == (20 * 1024, 30 * 1024)


def test_links_that_count_each_for_itself_are_summed(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set(BLACKWELL)
    assert over_nvlink(source) == (SENT, RECEIVED)


def test_the_links_are_not_asked_one_by_one_where_their_sum_is_told(
    source: NvmlSource, stand_in: StandIn
) -> None:
    stand_in.set({f"field.{number}.{link}": 1 for number in (202, 204) for link in range(18)})
    assert over_nvlink(source) == (751_619_276_800, 644_245_094_400)


def test_links_that_are_not_there_are_not_summed(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({**BLACKWELL, "field.202.17.return": NOT_SUPPORTED, "field.204.17.return": NOT_SUPPORTED})
    assert over_nvlink(source) == (SENT - 1017, RECEIVED - 2017)


def test_links_are_summed_though_a_younger_number_spoils_the_call(
    source: NvmlSource, stand_in: StandIn
) -> None:
    stand_in.set({**BLACKWELL, "field.newest": 204, "field.strict": 1})
    assert over_nvlink(source) == (SENT, RECEIVED)


def test_a_gpu_without_links_says_nothing_of_them(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"field.138.return": NOT_SUPPORTED, "field.139.return": NOT_SUPPORTED})
    assert over_nvlink(source) == (None, None)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, 10])
def test_a_link_that_falls_silent_does_not_make_the_sum_fall(
    source: NvmlSource, stand_in: StandIn, code: int
) -> None:
    stand_in.set(BLACKWELL)
    source.read()
    stand_in.set({"field.202.3.return": code, "field.202.4": 1504})
    assert over_nvlink(source) == (SENT + 500, RECEIVED)
    stand_in.set({"field.202.3.return": None, "field.202.3": 1103})
    assert over_nvlink(source) == (SENT + 600, RECEIVED)


def test_no_sum_is_told_before_each_link_has_answered(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({**BLACKWELL, "field.202.3.return": 10})
    assert over_nvlink(source) == (None, RECEIVED)
    stand_in.set({"field.202.3.return": None})
    assert over_nvlink(source) == (SENT, RECEIVED)


def test_one_link_of_32_bits_wraps_alone(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({**BLACKWELL, "field.202.3.type": UINT})
    source.read()
    stand_in.set({"field.202.3": 3})
    assert over_nvlink(source) == (SENT - 1003 + 2**32 + 3, RECEIVED)
