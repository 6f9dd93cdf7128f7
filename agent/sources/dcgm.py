"""dcgm-exporter: what its page says of each GPU, above all the activity of those that have no GPM.

The one thing to know: the page does not say what it means. Its values carry no time, so their age is
observed here. And the unit of a field depends on the generation that wrote it: DCGM 4.7 moved to base
units and to new names, while the old names stay in use. A value whose unit is not certain is left out,
never guessed; and so is one that its unit makes impossible.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple

from agent.clock import Clock
from agent.errors import SourceError
from agent.labels import label_text
from agent.readings import DIVIDED, Activity, DcgmGpu, DcgmReading
from agent.sources.page import ADVICE, Page, PageParser, fetch_page, open_session, redacted_url

DEFAULT_COLLECT_SECONDS = 30.0
"""dcgm-exporter's own default, assumed until its values were seen to change twice."""
FROZEN_SECONDS = 90.0
FROZEN_INTERVALS = 3
"""A page that moves by nature and stood still for so long, and so many intervals, is frozen."""
ROUNDING = 1.02
"""So far above its highest a value is still taken for it."""
MAX_PARTS = 256
"""GPUs and MIG instances that one page may hold; sixteen GPUs in sevenths are fewer."""

NO_PROFILING = (
    "its dcgm-exporter shows no profiling fields (DCGM_FI_PROF_…); they come with its second collection, and "
    "take root and CAP_SYS_ADMIN there"
)


# --- the fields ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What a field measures: the unit of its old name (a new one has the base unit), and what to believe.

    DCGM has numbers that mean "no value": 2**63 - 16 and up for integers, 2**47 and up for floats.
    Newer exporters leave them out, older ones print them. `highest` lies below them in either unit, and
    above what a GPU reaches; no bound on the number as printed would do for MiB and bytes alike.
    """

    highest: float
    """In base units."""
    old_unit: float = 1.0
    """In base units."""
    old_words: str = ""
    """A pattern: how HELP names the old unit."""
    base_words: str = ""
    """A pattern: how HELP names the base unit."""
    no_sensor: float | None = None
    """What is printed for a part that is not there."""
    on_instance: Literal["its own", "the board's", "void"] = "its own"
    """What the line of a MIG instance holds."""

    def believed(self, value: float) -> float | None:
        """The value in base units, or `None` for one that no GPU has: a blank, the wrong unit, NaN."""
        return min(value, self.highest) if 0.0 <= value <= ROUNDING * self.highest else None


CYCLES = Quantity(highest=1.0)
TIME = Quantity(
    highest=1.0,
    old_unit=0.01,
    old_words=r"%|percent|\b0(\.0)?\s*(-|–|to)\s*100\b",
    base_words=r"\bratio\b|\bfraction\b|\b0(\.0)?\s*(-|–|to)\s*1(\.0)?\b",
    on_instance="void",  # always 0: DCGM does not measure it there
)
MEMORY = Quantity(
    highest=1e14,
    old_unit=2.0**20,
    old_words=r"\bMi?B\b",  # where DCGM says MB, it means MiB
    base_words=r"\bbytes?\b",
)
ENERGY = Quantity(
    highest=1.3e11,  # 1 kW for four years; 2**47 mJ are little more
    old_unit=1e-3,
    old_words=r"\bmJ\b|\bmillijoules?\b",
    base_words=r"\bJ\b|\bjoules?\b",
    on_instance="the board's",
)
POWER = Quantity(highest=1e5, on_instance="the board's")
HEAT = Quantity(highest=1e3, no_sensor=0.0, on_instance="the board's")
CLOCK = Quantity(
    highest=1e11,
    old_unit=1e6,
    old_words=r"\bMHz\b|\bmegahertz\b",
    base_words=r"\bHz\b|\bhertz\b",
    on_instance="the board's",
)


class Field(NamedTuple):
    """One number of a GPU, and what DCGM calls it behind ``DCGM_FI_``: since 4.6 or 4.7, and before."""

    attribute: str
    """Of `Activity`, or of `GpuReading`."""
    quantity: Quantity
    new_name: str
    old_name: str

    @property
    def names(self) -> tuple[str, str]:
        """As pages write them, the newest first."""
        return f"DCGM_FI_{self.new_name}", f"DCGM_FI_{self.old_name}"


ACTIVITY_FIELDS = (
    Field("dram_ratio", CYCLES, "PROF_DRAM_UTIL_RATIO", "PROF_DRAM_ACTIVE"),
    Field("tensor_ratio", CYCLES, "PROF_TENSOR_UTIL_RATIO", "PROF_PIPE_TENSOR_ACTIVE"),
    Field("sm_ratio", CYCLES, "PROF_SM_UTIL_RATIO", "PROF_SM_ACTIVE"),
    Field("graphics_ratio", CYCLES, "PROF_GR_ENGINE_UTIL_RATIO", "PROF_GR_ENGINE_ACTIVE"),
)
GPU_FIELDS = (
    Field("kernel_time_ratio", TIME, "DEV_GPU_UTIL_RATIO", "DEV_GPU_UTIL"),
    Field("memory_time_ratio", TIME, "DEV_MEMORY_UTIL_RATIO", "DEV_MEM_COPY_UTIL"),
    Field("memory_used_bytes", MEMORY, "DEV_FB_USED_BYTES", "DEV_FB_USED"),
    Field("memory_free_bytes", MEMORY, "DEV_FB_FREE_BYTES", "DEV_FB_FREE"),
    Field("memory_reserved_bytes", MEMORY, "DEV_FB_RESERVED_BYTES", "DEV_FB_RESERVED"),
    Field("memory_total_bytes", MEMORY, "DEV_FB_CAPACITY_BYTES", "DEV_FB_TOTAL"),
    Field("power_watts", POWER, "DEV_BOARD_POWER_WATTS", "DEV_POWER_USAGE"),
    Field("power_instant_watts", POWER, "DEV_BOARD_POWER_RAW_WATTS", "DEV_POWER_USAGE_INSTANT"),
    Field("power_limit_watts", POWER, "DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", "DEV_ENFORCED_POWER_LIMIT"),
    Field("energy_joules", ENERGY, "DEV_GPU_ENERGY_JOULES_TOTAL", "DEV_TOTAL_ENERGY_CONSUMPTION"),
    Field("temperature_celsius", HEAT, "DEV_GPU_TEMP_CELSIUS", "DEV_GPU_TEMP"),
    Field("memory_temperature_celsius", HEAT, "DEV_MEMORY_TEMP_CELSIUS", "DEV_MEMORY_TEMP"),
    Field("sm_clock_hertz", CLOCK, "DEV_SM_CLOCK_HERTZ", "DEV_SM_CLOCK"),
    Field("memory_clock_hertz", CLOCK, "DEV_MEMORY_CLOCK_HERTZ", "DEV_MEM_CLOCK"),
)
FIELDS = (*ACTIVITY_FIELDS, *GPU_FIELDS)
NAMES = frozenset(name for field in FIELDS for name in field.names)

REUSED_NAMES = frozenset({"DCGM_FI_DEV_GPU_UTIL_RATIO"})
"""New names that DCGM 4.6 gave to the old field, still in its old unit."""


def unit_of(field: Field, name: str, *, help_text: str, new_generation: bool) -> float | None:
    """What one of this family's numbers is in base units; `None` where that is not certain.

    The name says it where it belongs to one unit, else HELP. An old name where HELP is silent has its old
    unit, but not on a page of the new generation.
    """
    quantity = field.quantity
    if quantity.old_unit == 1.0:
        return 1.0  # It never changed. HELP is not asked: for years it called the 0–1 of PROF fields "in %".
    new, old = field.names
    if name == new and name not in REUSED_NAMES:
        return 1.0
    units = ((quantity.old_unit, quantity.old_words), (1.0, quantity.base_words))
    named = [unit for unit, words in units if re.search(words, help_text, re.IGNORECASE)]
    if len(named) == 1:
        return named[0]
    return quantity.old_unit if name == old and not new_generation else None


# --- the page ------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A GPU, or one MIG instance of it."""

    uuid: str
    gpu_instance_id: int | None


Values = dict[Part, dict[str, float]]

_HELP = re.compile(rf"^# HELP ({'|'.join(sorted(NAMES))}) (.{{0,300}})".encode(), re.MULTILINE)
# Exporter 4.9.0, the first with DCGM 4.7, puts this label on every line. A page with no version label at
# all is taken for an old one, since an exporter installed by its Helm chart had none until then.
_NEW_GENERATION = b'DCGM_FI_SYSTEM_DRIVER_VERSION="'


def _read_page(page: Page, body: bytes) -> tuple[dict[Part, DcgmGpu], Values, int]:
    """Each GPU and MIG instance, the values of each, and how many lines say nothing that can be believed."""
    helps = {name.decode(): text.decode("utf-8", "replace") for name, text in _HELP.findall(body)}
    new_generation = _NEW_GENERATION in body
    gpus: dict[Part, DcgmGpu] = {}
    values: Values = {}
    refused = 0
    for field in FIELDS:
        quantity = field.quantity
        for name in field.names:
            unit = unit_of(field, name, help_text=helps.get(name, ""), new_generation=new_generation)
            for labels, number in page.samples(name):
                part = _part_of(labels)
                if part is None:
                    refused += 1
                    continue
                if part.gpu_instance_id is not None and quantity.on_instance == "void":
                    continue
                if quantity.on_instance == "the board's":
                    part = Part(part.uuid, None)
                if part not in gpus:
                    gpus[part], values[part] = _described(part, labels), {}
                if number == quantity.no_sensor:
                    continue
                value = None if unit is None else quantity.believed(number * unit)
                if value is None:
                    refused += 1
                else:
                    # The first counts: the newest name. And of a GPU shared in time, whose lines come
                    # once for each of its pods, any; they are the same, and never to be added up.
                    values[part].setdefault(field.attribute, value)
    return gpus, values, refused


def _part_of(labels: Mapping[str, str]) -> Part | None:
    """Whose line this is; `None` if it does not say."""
    uuid = labels.get("UUID") or labels.get("uuid")  # the latter with --use-old-namespace
    instance = labels.get("GPU_I_ID")
    if not uuid or not instance:
        return Part(uuid, None) if uuid else None
    number = _integer(instance)
    return None if number is None else Part(uuid, number)


def _described(part: Part, labels: Mapping[str, str]) -> DcgmGpu:
    name = labels.get("modelName")
    return DcgmGpu(
        uuid=label_text(part.uuid),
        gpu_instance_id=part.gpu_instance_id,
        index=_integer(labels.get("gpu", "")),
        name=label_text(name) if name else None,
    )


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


# --- its age -------------------------------------------------------------------------------------


class Freshness:
    """Since when values are what they are, and how often they change: from looking again and again."""

    def __init__(self, *, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._values: Values | None = None
        self._since_seconds = 0.0
        self._changes: deque[float] = deque(maxlen=7)

    def observe(self, values: Values, now_seconds: float) -> None:
        """Look at the values once more."""
        if values == self._values:
            return
        if self._values is not None:  # When the first ones came about, nobody saw.
            self._changes.append(now_seconds)
        self._values, self._since_seconds = values, now_seconds

    def age_seconds(self, now_seconds: float) -> float:
        """Since the present values were first seen."""
        return now_seconds - self._since_seconds

    @property
    def collect_seconds(self) -> float:
        """From one change to the next: the median of the last few, so that one long pause does not count."""
        gaps = [after - before for before, after in pairwise(self._changes)]
        return max(self._poll_seconds, median(gaps) if gaps else DEFAULT_COLLECT_SECONDS)


# --- the source ----------------------------------------------------------------------------------


class DcgmSource:
    """One dcgm-exporter's page, as a `Source[DcgmReading]`, to be read each `interval_seconds`."""

    name = "dcgm"
    failure_reasons = (*ADVICE, "frozen")

    def __init__(self, url: str, *, clock: Clock, interval_seconds: float) -> None:
        self._url = url
        self._clock = clock
        self._subject = f"dcgm at {redacted_url(url)}"
        self._session = open_session()
        self._parser = PageParser(NAMES, subject=self._subject)
        self._freshness = Freshness(poll_seconds=interval_seconds)

    def read(self) -> DcgmReading:
        """Fetch the page; `SourceError` also where it is of something else, or stands still."""
        body = fetch_page(self._url, session=self._session, subject=self._subject)
        now = self._clock.monotonic()
        page = self._parser.parse(body)
        if not page.families:
            raise self._failure("malformed", "no fields of DCGM on the page; is this a dcgm-exporter?")
        gpus, values, refused = _read_page(page, body)
        if len(gpus) > MAX_PARTS:
            raise self._failure("too_large", f"more than {MAX_PARTS} GPUs on one page")
        self._freshness.observe(values, now)
        age, collect = self._freshness.age_seconds(now), self._freshness.collect_seconds
        # Only energy never rests: without it an idle GPU may well look the same for hours.
        moves = any("energy_joules" in of_part for of_part in values.values())
        if moves and age > max(FROZEN_SECONDS, FROZEN_INTERVALS * collect):
            raise self._failure(
                "frozen",
                f"its values have not changed for {age:.0f} s though it collects every {collect:.0f} s; "
                "restart the dcgm-exporter",
            )
        divided = {Part(part.uuid, None) for part in gpus if part.gpu_instance_id is not None}
        return DcgmReading(
            gpus=tuple(
                _filled(gpu, values[part], collect, DIVIDED if part in divided else NO_PROFILING)
                for part, gpu in gpus.items()
            ),
            age_seconds=age,
            collect_seconds=collect,
            malformed_lines=page.malformed_lines + refused,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def _failure(self, reason: str, message: str) -> SourceError:
        return SourceError(reason, f"{self._subject}: {message}")


def _filled(gpu: DcgmGpu, values: Mapping[str, float], seconds: float, problem: str) -> DcgmGpu:
    """The GPU with its values; `problem` is why there is no activity, should there be none."""
    ratios = {field.attribute: values.get(field.attribute) for field in ACTIVITY_FIELDS}
    measured = any(ratio is not None for ratio in ratios.values())
    return replace(
        gpu,
        activity=Activity(evidence="dcgm", seconds=seconds, **ratios) if measured else None,
        activity_problem=None if measured else problem,
        values={attribute: value for attribute, value in values.items() if attribute not in ratios},
    )
