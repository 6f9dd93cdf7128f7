"""A dcgm-exporter's page: names, units and blanks of two generations, whose line it is, how old it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import ManualClock
from agent.errors import SourceError
from agent.readings import DIVIDED, Activity, DcgmGpu, DcgmReading, GpuReading
from agent.sources.base import Source
from agent.sources.dcgm import (
    ACTIVITY_FIELDS,
    FIELDS,
    GPU_FIELDS,
    MAX_PARTS,
    NO_PROFILING,
    DcgmSource,
)
from tests.sources.dcgm_pages import (
    FACTS,
    NEW,
    NEW_GPU,
    OLD,
    OTHER_UUID,
    UUID,
    Family,
    Gpu,
    old,
    page,
    silent,
)


class PageServer(ThreadingHTTPServer):
    """Serves `text` at every path."""

    text = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/metrics"


class Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        body = self.server.text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with PageServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def reading_of(server: PageServer, text: str) -> DcgmReading:
    """What a source that sees only this page makes of it."""
    server.text = text
    source = DcgmSource(server.url, clock=ManualClock(), interval_seconds=10)
    try:
        return source.read()
    finally:
        source.close()


def only_gpu(reading: DcgmReading) -> DcgmGpu:
    (gpu,) = reading.gpus
    return gpu


def value_of(gpu: DcgmGpu, attribute: str) -> float | None:
    """One number of the GPU, whether it stands under its activity or its values."""
    if attribute in {field.attribute for field in ACTIVITY_FIELDS}:
        found: float | None = getattr(gpu.activity, attribute, None)
        return found
    return gpu.values.get(attribute)


# --- names and units -----------------------------------------------------------------------------


def test_the_table_fills_the_contract_with_one_name_for_one_field() -> None:
    assert {field.attribute for field in ACTIVITY_FIELDS} <= {f.name for f in fields(Activity)}
    assert {field.attribute for field in GPU_FIELDS} <= {f.name for f in fields(GpuReading)}
    assert [field.attribute for field in FIELDS] == list(FACTS)
    names = [name for field in FIELDS for name in field.names]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("attribute", FACTS)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(page(OLD), id="an old page"),
        pytest.param(page(silent(OLD)), id="an old page without HELP"),
        pytest.param(page(silent(OLD), Gpu(version="")), id="a page that says no version, without HELP"),
        pytest.param(page(NEW, NEW_GPU), id="a new page"),
        pytest.param(page(NEW), id="new names on an old page"),
        pytest.param(page(OLD, NEW_GPU), id="old names on a new page"),
    ],
)
def test_every_field_is_read_in_base_units(server: PageServer, text: str, attribute: str) -> None:
    reading = reading_of(server, text)
    assert value_of(only_gpu(reading), attribute) == pytest.approx(FACTS[attribute].value, rel=1e-12)
    assert reading.malformed_lines == 0


CHANGED_UNIT = {
    "kernel_time_ratio", "memory_time_ratio", "energy_joules", "sm_clock_hertz", "memory_clock_hertz",
    "memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes", "memory_total_bytes",
}  # fmt: skip


@pytest.mark.parametrize("attribute", FACTS)
def test_an_old_name_alone_tells_no_unit_on_a_new_page_if_the_unit_changed(
    server: PageServer, attribute: str
) -> None:
    reading = reading_of(server, page(silent(OLD), NEW_GPU))
    expected = None if attribute in CHANGED_UNIT else pytest.approx(FACTS[attribute].value)
    assert value_of(only_gpu(reading), attribute) == expected
    assert reading.malformed_lines == len(CHANGED_UNIT)


@pytest.mark.parametrize(
    ("attribute", "help_text", "number", "value"),
    [
        ("kernel_time_ratio", "GPU utilization (in %).", "94", 0.94),
        ("kernel_time_ratio", "GPU utilization, 0-100", "94", 0.94),
        ("kernel_time_ratio", "GPU Utilization Ratio", "0.94", 0.94),
        ("kernel_time_ratio", "GPU utilization, 0.0-1.0", "0.94", 0.94),
        ("memory_used_bytes", "Framebuffer memory used (in MB).", "2", 2097152.0),
        ("memory_used_bytes", "Framebuffer memory used in bytes.", "2097152", 2097152.0),
        ("energy_joules", "Total energy consumption, in millijoules", "5500", 5.5),
        ("energy_joules", "Total energy consumption (in J).", "5.5", 5.5),
        ("sm_clock_hertz", "SM clock frequency (in MHz).", "1410", 1.41e9),
        ("sm_clock_hertz", "SM clock frequency (in Hz).", "1410000000", 1.41e9),
    ],
)
@pytest.mark.parametrize("gpu", [pytest.param(Gpu(), id="old page"), pytest.param(NEW_GPU, id="new page")])
def test_help_decides_the_unit_of_an_old_name(
    server: PageServer, gpu: Gpu, attribute: str, help_text: str, number: str, value: float
) -> None:
    family = FACTS[attribute].old._replace(number=number, help=help_text)
    reading = reading_of(server, page([family], gpu))
    assert value_of(only_gpu(reading), attribute) == pytest.approx(value)


@pytest.mark.parametrize(
    ("help_text", "number", "value"),
    [
        pytest.param("GPU utilization (in %).", "94", 0.94, id="0-100, and HELP says so"),
        pytest.param("GPU utilization ratio.", "0.940000", 0.94, id="0-1, and HELP says so"),
        pytest.param("GPU utilization ratio.", "87", None, id="HELP says ratio, the number does not"),
        pytest.param("GPU utilization.", "94", None, id="HELP names no unit"),
        pytest.param("GPU utilization.", "1", None, id="HELP names no unit, and it may be either"),
        pytest.param("GPU utilization ratio (in %).", "1", None, id="HELP names two"),
        pytest.param("", "1", None, id="no HELP"),
    ],
)
@pytest.mark.parametrize("gpu", [pytest.param(Gpu(), id="old page"), pytest.param(NEW_GPU, id="new page")])
def test_a_name_that_stood_for_two_units_is_read_only_where_help_tells_which(
    server: PageServer, gpu: Gpu, help_text: str, number: str, value: float | None
) -> None:
    family = Family("DCGM_FI_DEV_GPU_UTIL_RATIO", number, help_text)
    reading = reading_of(server, page([family], gpu))
    assert value_of(only_gpu(reading), "kernel_time_ratio") == (
        None if value is None else pytest.approx(value)
    )
    assert reading.malformed_lines == (1 if value is None else 0)


def test_help_does_not_overrule_a_name_that_carries_its_unit(server: PageServer) -> None:
    family = FACTS["memory_used_bytes"].new._replace(help="Framebuffer memory used (in MiB).")
    reading = reading_of(server, page([family], NEW_GPU))
    assert only_gpu(reading).values == {"memory_used_bytes": FACTS["memory_used_bytes"].value}


def test_only_the_familys_own_help_line_decides(server: PageServer) -> None:
    text = "# HELP DCGM_FI_DEV_SM_CLOCK_X in Hz\n# HELP X # HELP DCGM_FI_DEV_SM_CLOCK in Hz\n"
    text += page(silent(old(sm_clock_hertz="1410")), Gpu(pod="# HELP DCGM_FI_DEV_SM_CLOCK in Hz"))
    assert only_gpu(reading_of(server, text)).values == {"sm_clock_hertz": 1.41e9}


def test_the_newest_name_that_can_be_read_counts(server: PageServer) -> None:
    both = (FACTS["power_watts"].old, FACTS["power_watts"].new._replace(number="99"))
    assert only_gpu(reading_of(server, page(both))).values == {"power_watts": 99.0}
    unreadable = (*old(kernel_time_ratio="94"), Family("DCGM_FI_DEV_GPU_UTIL_RATIO", "0.5"))
    assert only_gpu(reading_of(server, page(unreadable))).values == {"kernel_time_ratio": pytest.approx(0.94)}


# --- what to believe -----------------------------------------------------------------------------

BLANKS = ("9223372036854775792", "9223372036854775794", "140737488355328.000000", "140737488355331.000000")


@pytest.mark.parametrize("number", [*BLANKS, "-1", "NaN", "+Inf", "1e29"])
@pytest.mark.parametrize("generation", ["old", "new"])
@pytest.mark.parametrize("attribute", FACTS)
def test_a_blank_is_no_value_in_any_field(
    server: PageServer, attribute: str, generation: str, number: str
) -> None:
    others = {"old": OLD, "new": NEW}[generation]
    blank = tuple(
        family._replace(number=number) if name == attribute else family
        for name, family in zip(FACTS, others, strict=True)
    )
    reading = reading_of(server, page(blank))
    gpu = only_gpu(reading)
    assert {name for name in FACTS if value_of(gpu, name) is None} == {attribute}
    # What is no number at all is missing, not malformed.
    assert reading.malformed_lines == (0 if number in ("NaN", "+Inf") else 1)


@pytest.mark.parametrize(
    "attribute",
    [
        "dram_ratio",
        "kernel_time_ratio",
        "memory_used_bytes",
        "power_watts",
        "temperature_celsius",
        "sm_clock_hertz",
    ],
)
def test_a_blank_of_32_bits_is_no_value_where_it_cannot_be_one(server: PageServer, attribute: str) -> None:
    reading = reading_of(server, page(old(**{attribute: "2147483632"})))
    assert value_of(only_gpu(reading), attribute) is None
    assert reading.malformed_lines == 1


@pytest.mark.parametrize(
    ("family", "value"),
    [
        pytest.param(Family("DCGM_FI_DEV_FB_USED_BYTES", "2147483632"), 2147483632.0, id="2 GiB in bytes"),
        pytest.param(Family("DCGM_FI_DEV_FB_CAPACITY_BYTES", "309237645312"), 309237645312.0, id="288 GiB"),
        pytest.param(
            Family("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "94608000000000"),
            94608e6,
            id="1 kW for three years in mJ",
        ),
        pytest.param(
            Family("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "2147483632"), 2147483.632, id="2 MJ in mJ"
        ),
        pytest.param(Family("DCGM_FI_DEV_MEMORY_CLOCK_HERTZ", "14001000000"), 14.001e9, id="14 GHz"),
        pytest.param(Family("DCGM_FI_DEV_POWER_USAGE", "1400.000000"), 1400.0, id="1.4 kW"),
        pytest.param(Family("DCGM_FI_DEV_FB_USED", "0"), 0.0, id="a measured zero"),
    ],
)
def test_large_and_honest_numbers_are_believed(server: PageServer, family: Family, value: float) -> None:
    reading = reading_of(server, page([family]))
    assert list(only_gpu(reading).values.values()) == [pytest.approx(value)]
    assert reading.malformed_lines == 0


@pytest.mark.parametrize(
    ("number", "ratio"),
    [
        ("0.000000", 0.0),
        ("1.000000", 1.0),
        ("1.019000", 1.0),
        ("1.021000", None),
        ("87", None),
        ("-0.01", None),
    ],
)
def test_a_ratio_a_little_above_one_is_one_and_a_larger_is_refused(
    server: PageServer, number: str, ratio: float | None
) -> None:
    reading = reading_of(server, page(old(dram_ratio=number, tensor_ratio="0.5")))
    assert only_gpu(reading).activity == Activity(
        evidence="dcgm", seconds=30.0, dram_ratio=ratio, tensor_ratio=0.5
    )
    assert reading.malformed_lines == (1 if ratio is None else 0)


def test_zero_degrees_are_a_sensor_that_is_not_there(server: PageServer) -> None:
    reading = reading_of(server, page(old(memory_temperature_celsius="0", temperature_celsius="24")))
    assert only_gpu(reading).values == {"temperature_celsius": 24.0}
    assert reading.malformed_lines == 0


# --- whose line it is ----------------------------------------------------------------------------


def test_labels_say_which_gpu_it_is(server: PageServer) -> None:
    text = page(old(power_watts="50"), Gpu(), Gpu(index=1, uuid=OTHER_UUID, model="NVIDIA L40S"))
    first, second = reading_of(server, text).gpus
    assert (first.index, first.uuid, first.name, first.gpu_instance_id) == (
        0,
        UUID,
        "NVIDIA A100-SXM4-40GB",
        None,
    )
    assert (second.index, second.uuid, second.name) == (1, OTHER_UUID, "NVIDIA L40S")


@pytest.mark.parametrize(
    "gpu",
    [
        pytest.param(Gpu(uuid_label="uuid"), id="the old namespace"),
        pytest.param(Gpu(host='hostname="node-7"'), id="hostname in small letters"),
        pytest.param(Gpu(host="", version=""), id="neither host nor version"),
        pytest.param(Gpu(pod="qwen-0"), id="a pod"),
        pytest.param(replace(NEW_GPU, pod="qwen-0"), id="a new page with a pod"),
    ],
)
def test_other_labels_change_nothing(server: PageServer, gpu: Gpu) -> None:
    families = (FACTS["power_watts"].old, FACTS["dram_ratio"].old)
    assert reading_of(server, page(families, gpu)) == reading_of(server, page(families))


def test_a_line_that_does_not_say_whose_it_is_is_passed_over_and_counted(server: PageServer) -> None:
    nameless = (Gpu(uuid=""), Gpu(instance="?"), Gpu(instance="9" * 5000))
    text = page(old(power_watts="50"), *nameless) + page(old(dram_ratio="0.5"), Gpu(uuid=OTHER_UUID))
    reading = reading_of(server, text)
    assert [gpu.uuid for gpu in reading.gpus] == [OTHER_UUID]
    assert reading.malformed_lines == 3


def test_texts_of_the_page_become_safe_labels(server: PageServer) -> None:
    gpu = only_gpu(reading_of(server, page(OLD, Gpu(model="m" * 200, uuid=r"GPU\n1"))))
    assert (gpu.name, gpu.uuid) == ("m" * 127 + "…", r"GPU\n1")


def test_a_gpu_without_model_and_number_is_read_all_the_same(server: PageServer) -> None:
    gpu = only_gpu(reading_of(server, f'DCGM_FI_DEV_SM_CLOCK{{gpu="x",UUID="{UUID}"}} 139\n'))
    assert (gpu.index, gpu.name, gpu.values) == (None, None, {"sm_clock_hertz": 139e6})


def test_a_gpu_shared_in_time_counts_once_however_many_pods_it_has(server: PageServer) -> None:
    families = old(kernel_time_ratio="60", memory_used_bytes="1000", dram_ratio="0.4")
    pods = [Gpu(pod=f"qwen-{number}") for number in range(4)]
    assert reading_of(server, page(families, *pods)) == reading_of(server, page(families))


INSTANCE = old(dram_ratio="0.5", memory_used_bytes="1000")
BOARD = old(
    power_watts="52.636",
    energy_joules="1000",
    temperature_celsius="40",
    sm_clock_hertz="1410",
    memory_clock_hertz="1215",
)
OF_BOARD = {
    "power_watts": 52.636,
    "energy_joules": 1.0,
    "temperature_celsius": 40.0,
    "sm_clock_hertz": 1.41e9,
    "memory_clock_hertz": 1.215e9,
}


def test_mig_instances_stand_apart_under_their_parents_uuid(server: PageServer) -> None:
    busy, idle = Gpu(instance="3"), Gpu(instance="4")
    text = page(INSTANCE, busy) + page(old(dram_ratio="0.1", memory_used_bytes="20"), idle)
    gpus = {gpu.gpu_instance_id: gpu for gpu in reading_of(server, text).gpus}
    assert set(gpus) == {3, 4}
    assert {gpu.uuid for gpu in gpus.values()} == {UUID}
    assert {number: value_of(gpu, "dram_ratio") for number, gpu in gpus.items()} == {3: 0.5, 4: 0.1}
    assert {number: gpu.values["memory_used_bytes"] / 2**20 for number, gpu in gpus.items()} == {
        3: 1000,
        4: 20,
    }


@pytest.mark.parametrize(
    "parents",
    [
        pytest.param((), id="the page has only lines of instances"),
        pytest.param((Gpu(),), id="the page has lines of the parent too"),
    ],
)
def test_what_mig_instances_repeat_of_their_board_is_the_boards(
    server: PageServer, parents: tuple[Gpu, ...]
) -> None:
    instances = (Gpu(instance="3"), Gpu(instance="4"))
    text = page(BOARD, *parents, *instances) + page(INSTANCE, *instances)
    gpus = {gpu.gpu_instance_id: gpu for gpu in reading_of(server, text).gpus}
    assert set(gpus) == {None, 3, 4}
    assert gpus[None].values == pytest.approx(OF_BOARD)
    assert (gpus[None].activity, gpus[None].activity_problem) == (None, DIVIDED)
    assert set(gpus[3].values) == set(gpus[4].values) == {"memory_used_bytes"}


def test_the_zero_that_mig_instances_show_for_kernel_time_is_no_measurement(server: PageServer) -> None:
    text = page(old(kernel_time_ratio="0", memory_time_ratio="0", dram_ratio="0.5"), Gpu(instance="3"))
    reading = reading_of(server, text)
    assert (only_gpu(reading).gpu_instance_id, only_gpu(reading).values) == (3, {})
    assert reading.malformed_lines == 0


def test_a_mig_instance_without_profiling_says_so(server: PageServer) -> None:
    text = page(old(memory_used_bytes="20"), Gpu(instance="3"))
    assert only_gpu(reading_of(server, text)).activity_problem == NO_PROFILING


def test_too_many_gpus_on_one_page_are_refused(server: PageServer) -> None:
    lines = page(old(power_watts="50"), *(Gpu(index=n, uuid=f"GPU-{n}") for n in range(MAX_PARTS + 1)))
    with pytest.raises(SourceError, match="more than 256 GPUs") as raised:
        reading_of(server, lines)
    assert raised.value.reason == "too_large"
    fewer = "".join(lines.splitlines(keepends=True)[:-1])
    assert len(reading_of(server, fewer).gpus) == MAX_PARTS


# --- pages as they are found ---------------------------------------------------------------------


def test_a_t4_of_an_old_exporter_whose_profiling_lines_name_no_gpu(server: PageServer) -> None:
    gpu = Gpu(model="Tesla T4", version='DCGM_FI_DRIVER_VERSION="460.106.00",DCGM_FI_PROCESS_NAME="/x"')
    text = page(old(sm_clock_hertz="585", memory_free_bytes="15109", energy_joules="128996013"), gpu)
    text += (
        "# HELP DCGM_FI_PROF_DRAM_ACTIVE\n# TYPE DCGM_FI_PROF_DRAM_ACTIVE gauge\nDCGM_FI_PROF_DRAM_ACTIVE 0\n"
    )
    reading = reading_of(server, text)
    assert only_gpu(reading) == DcgmGpu(
        uuid=UUID,
        index=0,
        name="Tesla T4",
        activity_problem=NO_PROFILING,
        values={
            "sm_clock_hertz": 585e6,
            "memory_free_bytes": 15109 * 2**20,
            "energy_joules": 128996.013,
        },
    )
    assert reading.malformed_lines == 1


def test_a_t4_and_an_l4_with_default_profiling_lack_only_the_sm_ratio(server: PageServer) -> None:
    families = old(
        dram_ratio="0.000001", tensor_ratio="0.000000", graphics_ratio="0.25", memory_temperature_celsius="0"
    )
    gpus = (Gpu(model="Tesla T4"), Gpu(index=1, uuid=OTHER_UUID, model="NVIDIA L4"))
    expected = Activity(evidence="dcgm", seconds=30.0, dram_ratio=1e-6, tensor_ratio=0.0, graphics_ratio=0.25)
    for gpu in reading_of(server, page(families, *gpus)).gpus:
        assert (gpu.activity, gpu.activity_problem, gpu.values) == (expected, None, {})


def test_two_l40s_without_help_and_with_only_two_of_the_ratios(server: PageServer) -> None:
    families = silent(old(sm_clock_hertz="210", graphics_ratio="0.5", tensor_ratio="0.125"))
    gpus = (Gpu(model="NVIDIA L40S"), Gpu(index=1, uuid=OTHER_UUID, model="NVIDIA L40S"))
    reading = reading_of(server, page(families, *gpus))
    assert [gpu.uuid for gpu in reading.gpus] == [UUID, OTHER_UUID]
    for gpu in reading.gpus:
        assert gpu.activity == Activity(evidence="dcgm", seconds=30.0, tensor_ratio=0.125, graphics_ratio=0.5)
        assert gpu.values == {"sm_clock_hertz": 210e6}


def test_a_virtual_gpu_has_no_profiling_and_says_what_to_do(server: PageServer) -> None:
    gpu = Gpu(model="GRID A100-40C")
    text = page(old(kernel_time_ratio="0", memory_used_bytes="0", memory_temperature_celsius="0"), gpu)
    found = only_gpu(reading_of(server, text))
    assert (found.activity, found.values) == (None, {"kernel_time_ratio": 0.0, "memory_used_bytes": 0.0})
    assert found.activity_problem == (
        "its dcgm-exporter shows no profiling fields (DCGM_FI_PROF_…); they come with its second collection, "
        "and take root and CAP_SYS_ADMIN there"
    )


def test_one_gpu_without_profiling_does_not_take_it_from_the_others(server: PageServer) -> None:
    text = page(old(power_watts="50"), Gpu(), Gpu(uuid=OTHER_UUID)) + page(old(dram_ratio="0.5"))
    activities = {gpu.uuid: gpu.activity is not None for gpu in reading_of(server, text).gpus}
    assert activities == {UUID: True, OTHER_UUID: False}


def test_a_bad_line_loses_only_itself(server: PageServer) -> None:
    good = page(old(power_watts="50", dram_ratio="0.5"))
    bad = 'DCGM_FI_DEV_FB_USED{gpu="0",...,modelName="NVIDIA L40S",...} 0\n'
    reading, expected = reading_of(server, bad + good + bad), reading_of(server, good)
    assert reading == replace(expected, malformed_lines=2)


# --- what is no reading --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("vllm:num_requests_running 1\n", "malformed", id="another exporter's page"),
        pytest.param("<!doctype html>\n", "malformed", id="no page of metrics"),
        pytest.param("", "empty", id="nothing"),
        pytest.param('DCGM_FI_DEV_SM_CLOCK{gpu="0",...} 1\n', "malformed", id="nothing but bad lines"),
    ],
)
def test_what_is_not_a_dcgm_exporters_page_fails_in_words(server: PageServer, text: str, reason: str) -> None:
    with pytest.raises(SourceError, match=r"^dcgm at http://127") as raised:
        reading_of(server, text)
    assert raised.value.reason == reason


def test_failures_are_known_beforehand_and_hide_credentials(server: PageServer) -> None:
    source: Source[DcgmReading] = DcgmSource(
        "http://me:s3cret@127.0.0.1:1/metrics?key=s3cret", clock=ManualClock(), interval_seconds=10
    )
    with pytest.raises(SourceError, match=r"^dcgm at http://127\.0\.0\.1:1/metrics\?…: refused") as raised:
        source.read()
    source.close()
    assert source.name == "dcgm"
    assert {raised.value.reason, "malformed", "too_large", "frozen"} <= set(source.failure_reasons)


@given(st.one_of(st.text(), st.lists(st.sampled_from(page(NEW, NEW_GPU).split('"'))).map('"'.join)))
def test_any_text_is_a_reading_or_a_source_error(server: PageServer, text: str) -> None:
    with suppress(SourceError):
        reading_of(server, text)


SPLINTERS = st.sampled_from(
    ["\n", '"', "\\", "{", "}", ",", " ", "=", "-", "1e9", "NaN", "GPU_I_ID", "UUID", "9" * 19]
)
MIXED_PAGE = page((*OLD[:8], *NEW[8:]), Gpu(), Gpu(instance="3"), Gpu(uuid=OTHER_UUID))


@given(
    st.lists(st.tuples(st.integers(0, len(MIXED_PAGE)), st.integers(0, 9), SPLINTERS), min_size=1, max_size=8)
)
def test_a_damaged_page_gives_no_impossible_reading(
    server: PageServer, damages: list[tuple[int, int, str]]
) -> None:
    text = MIXED_PAGE
    for position, length, splinter in damages:
        text = text[:position] + splinter + text[position + length :]
    reading = reading_of(server, text)
    assert len({(gpu.uuid, gpu.gpu_instance_id) for gpu in reading.gpus}) == len(reading.gpus)
    for gpu in reading.gpus:
        assert (gpu.activity is None) == (gpu.activity_problem is not None)
        for attribute in FACTS:
            value = value_of(gpu, attribute)
            assert value is None or 0 <= value <= (1 if attribute.endswith("_ratio") else 1e14)


# --- how old it is -------------------------------------------------------------------------------


class Exporter:
    """An exporter that collects every so often, with a source that polls it; time is brought along."""

    def __init__(
        self, server: PageServer, *, collect_seconds: float, poll_seconds: float, energy: bool = True
    ) -> None:
        self.server = server
        self.collect_seconds = collect_seconds
        self.poll_seconds = poll_seconds
        self.energy = energy
        self.hangs_since: float | None = None
        self.clock = ManualClock()
        self.source = DcgmSource(server.url, clock=self.clock, interval_seconds=poll_seconds)

    def poll(self, times: int = 1) -> DcgmReading:
        """The last of so many readings, each after one poll interval."""
        for _ in range(times):
            self.clock.advance(self.poll_seconds)
            now = self.clock.monotonic() if self.hangs_since is None else self.hangs_since
            collected = int(now // self.collect_seconds)
            number = {"energy_joules" if self.energy else "temperature_celsius": str(30 + collected)}
            self.server.text = page(old(dram_ratio="0.5", **number))
            reading = self.source.read()
        return reading


def test_age_is_the_time_since_the_values_were_first_seen(server: PageServer) -> None:
    exporter = Exporter(server, collect_seconds=30, poll_seconds=10)
    ages = [exporter.poll().age_seconds for _ in range(7)]  # at 10, 20, 30, …
    assert ages == [0, 10, 0, 10, 20, 0, 10]
    exporter.source.close()


@pytest.mark.parametrize(
    ("collect_seconds", "poll_seconds", "observed_seconds"),
    [
        pytest.param(30, 10, 30, id="polled three times as often"),
        pytest.param(30, 20, 30, id="polled at times that do not fit"),
        pytest.param(10, 2, 10, id="an exporter faster than by default"),
        pytest.param(60, 10, 60, id="a slower one"),
        pytest.param(1, 10, 10, id="one faster than it is polled"),
        pytest.param(30, 60, 60, id="one polled less often than it collects"),
    ],
)
def test_collect_interval_is_observed_and_is_the_activitys_span(
    server: PageServer, collect_seconds: float, poll_seconds: float, observed_seconds: float
) -> None:
    exporter = Exporter(server, collect_seconds=collect_seconds, poll_seconds=poll_seconds)
    reading = exporter.poll(times=60)
    activity = only_gpu(reading).activity
    assert activity is not None
    assert reading.collect_seconds == activity.seconds == pytest.approx(observed_seconds)
    exporter.source.close()


def test_the_default_interval_is_assumed_until_two_changes_were_seen(server: PageServer) -> None:
    exporter = Exporter(server, collect_seconds=20, poll_seconds=10)
    observed = [exporter.poll().collect_seconds for _ in range(4)]  # it changes at 20 and 40
    assert observed == [30, 30, 30, 20]
    exporter.source.close()


def test_no_interval_shorter_than_the_polls_is_assumed(server: PageServer) -> None:
    exporter = Exporter(server, collect_seconds=30, poll_seconds=45)
    assert exporter.poll().collect_seconds == 45
    exporter.source.close()


def test_one_long_pause_does_not_change_the_interval(server: PageServer) -> None:
    exporter = Exporter(server, collect_seconds=30, poll_seconds=10)
    exporter.poll(times=12)
    exporter.clock.advance(10_000)
    assert exporter.poll(times=3).collect_seconds == 30
    exporter.source.close()


def test_a_frozen_exporter_fails_with_advice_until_it_moves_again(server: PageServer) -> None:
    exporter = Exporter(server, collect_seconds=30, poll_seconds=5)
    exporter.poll(times=24)  # until 120
    exporter.hangs_since = 120
    assert exporter.poll(times=18).age_seconds == 90
    for age_seconds in (95, 100):
        with pytest.raises(SourceError) as raised:
            exporter.poll()
        assert raised.value.reason == "frozen"
        assert str(raised.value) == (
            f"dcgm at {server.url}: its values have not changed for {age_seconds} s "
            "though it collects every 30 s; restart the dcgm-exporter"
        )
    exporter.hangs_since = None
    assert exporter.poll().age_seconds == 0
    exporter.source.close()


def test_a_fast_exporter_may_pause_as_long_as_another(server: PageServer) -> None:
    exporter = Exporter(server, collect_seconds=5, poll_seconds=5)
    exporter.poll(times=24)
    exporter.hangs_since = 120
    reading = exporter.poll(times=18)
    assert (reading.collect_seconds, reading.age_seconds) == (5, 90)
    exporter.source.close()


def test_a_frozen_exporter_is_known_even_while_its_pods_come_and_go(server: PageServer) -> None:
    clock = ManualClock()
    source = DcgmSource(server.url, clock=clock, interval_seconds=10)
    for number in range(10):
        server.text = page(OLD, Gpu(pod=f"qwen-{number}"))
        source.read()
        clock.advance(10)
    server.text = page(OLD, Gpu(pod="qwen-10"))
    with pytest.raises(SourceError, match="have not changed for 100 s"):
        source.read()
    source.close()


@pytest.mark.parametrize("collect_seconds", [60, 300])
def test_a_slow_exporter_is_not_taken_for_a_frozen_one_once_it_is_known(
    server: PageServer, collect_seconds: float
) -> None:
    exporter = Exporter(server, collect_seconds=collect_seconds, poll_seconds=10)
    for _ in range(int(2 * collect_seconds / 10)):
        with suppress(SourceError):  # it cannot be known before its second change
            exporter.poll()
    assert exporter.poll(times=100).collect_seconds == collect_seconds
    exporter.source.close()


def test_an_idle_page_without_an_energy_counter_only_grows_old(server: PageServer) -> None:
    exporter = Exporter(server, collect_seconds=1e9, poll_seconds=10, energy=False)
    assert exporter.poll(times=101).age_seconds == 1000
    exporter.source.close()
