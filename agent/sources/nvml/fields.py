"""Field values: what NVML answers by number, all of it in one call.

A driver of another generation lacks some of the numbers. Each is tried once a session, and what is not
there is not asked for again. Counters of 32 bits wrap within minutes on a busy link; they are unrolled
here, so that outside a fall always means that the GPU began anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pynvml

from agent.readings import RECOVERY_ACTIONS, GpuCounters, GpuHealth
from agent.sources.nvml.errors import LACKING, OF_THE_GPU, OF_THE_SESSION
from agent.units import KIBI, NANO

ALL_LINKS = 0xFFFFFFFF
"""As a scope: the sum over all NVLinks; 0 would be the first link alone."""
MAX_LINKS = 18
WRAP_32_BITS = 2**32


@dataclass(frozen=True, slots=True)
class Field:
    """One number of nvml.h (NVML_FI_DEV_…), and what it is here."""

    number: int
    name: str
    factor: float = 1
    """To base units."""
    scope: int = 0
    counts: bool = False
    """It only rises, and may wrap."""
    since_driver: int = 0
    """The first branch in which the number means this."""


FIELDS: tuple[Field, ...] = (
    Field(3, "ecc_corrected_errors"),  # volatile: since the driver was loaded
    Field(4, "ecc_uncorrected_errors"),
    Field(74, "clock_limited/sw_power_cap", NANO, counts=True),
    Field(76, "clock_limited/sync_boost", NANO, counts=True),
    Field(82, "memory_temperature_celsius"),
    Field(83, "energy_joules", 1e-3),
    Field(138, "nvlink_transmit_bytes", KIBI, scope=ALL_LINKS, counts=True),
    Field(139, "nvlink_receive_bytes", KIBI, scope=ALL_LINKS, counts=True),
    Field(142, "remapped_rows_corrected"),
    Field(143, "remapped_rows_uncorrected"),
    Field(144, "row_remap_pending"),
    Field(145, "row_remap_failed"),
    Field(185, "power_watts", 1e-3),  # mean over a second; Ampere and newer, but for GA100
    Field(186, "power_instant_watts", 1e-3),
    Field(197, "pcie_transmit_bytes", counts=True),
    Field(198, "pcie_receive_bytes", counts=True),
    Field(230, "recovery_action"),
    # Before 580 these three numbers were of power smoothing, and its first releases disagree.
    Field(269, "clock_limited/sw_thermal", NANO, counts=True, since_driver=590),
    Field(270, "clock_limited/hw_thermal", NANO, counts=True, since_driver=590),
    Field(271, "clock_limited/hw_power_brake", NANO, counts=True, since_driver=590),
)
NVLINK_TOTALS = ("nvlink_transmit_bytes", "nvlink_receive_bytes")
NVLINK_5: tuple[Field, ...] = tuple(
    Field(number, f"{name}/{link}", scope=link, counts=True)
    for link in range(MAX_LINKS)
    for number, name in zip((202, 204), NVLINK_TOTALS, strict=True)
)
"""In place of 138 and 139 where those are gone: the links of Blackwell count bytes, each its own."""

_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_UNSIGNED_INT = 1
# nvidia-ml-py's structures look for bytes to decode at every access, in Python; numbers need none of it.
_return_of, _type_of, _value_of = (
    vars(pynvml.c_nvmlFieldValue_t)[name].__get__ for name in ("nvmlReturn", "valueType", "value")
)
_NOT_KNOWN = (*LACKING, pynvml.NVML_ERROR_INVALID_ARGUMENT)
"""What a driver says to a number that it has never heard of."""


class FieldReader:
    """The field values of one GPU of one session."""

    def __init__(self, handle: pynvml.c_nvmlDevice_t, *, driver_version: str | None) -> None:
        self._handle = handle
        branch = (driver_version or "").partition(".")[0]
        driver = int(branch) if branch.isdecimal() else 0
        self._candidates = [field for field in FIELDS if field.since_driver <= driver]
        self._fields: list[Field] = []
        self._is_probed = False
        self._unrolled: dict[str, tuple[int, int]] = {}  # the last raw value, and what its wraps add up to
        self._links: list[str] = []  # the names of those in NVLINK_5 that are there
        self._by_link: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """What it answers now, by name, in base units."""
        if not self._is_probed:
            self._probe()
        if not self._fields:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        values = {}
        for field, value in zip(self._fields, self._ask(self._fields), strict=True):
            code, kind = _return_of(value), _type_of(value)
            if code == pynvml.NVML_SUCCESS and kind < len(_VALUE_MEMBERS):
                raw = getattr(_value_of(value), _VALUE_MEMBERS[kind])
                if field.counts and kind == _UNSIGNED_INT:
                    raw = self._unroll(field.name, raw)
                values[field.name] = raw * field.factor
            elif code in OF_THE_GPU or code in OF_THE_SESSION:
                raise pynvml.NVMLError(code)
        return values | self._over_links(values)

    def forget_lacking(self) -> None:
        """Try every number again: in another mode a GPU has others."""
        self._is_probed = False

    def _over_links(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sums of what each link counts: also what one counted that is silent now, or they would fall."""
        self._by_link |= {name: values[name] for name in self._links if name in values}
        sums = {}
        for total in NVLINK_TOTALS:
            links = [name for name in self._links if name.startswith(total)]
            if links and self._by_link.keys() >= set(links):
                sums[total] = sum(self._by_link[name] for name in links)
        return sums

    def _ask(self, fields: list[Field]) -> Iterator[pynvml.c_nvmlFieldValue_t]:
        return iter(
            pynvml.nvmlDeviceGetFieldValues(self._handle, [(field.number, field.scope) for field in fields])
        )

    def _probe(self) -> None:
        """Keep what this driver knows."""
        self._fields = self._known(self._candidates)
        told = any(field.name == "nvlink_transmit_bytes" for field in self._fields)
        links = [] if told else self._known(list(NVLINK_5))
        self._links = [field.name for field in links]
        self._fields += links
        self._is_probed = True

    def _known(self, fields: list[Field]) -> list[Field]:
        try:
            answers = list(self._ask(fields))
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_INVALID_ARGUMENT:
                raise
            # One unknown number spoils the whole call for some drivers: which is it?
            if len(fields) == 1:
                return []
            return [field for each in fields for field in self._known([each])]
        return [
            field
            for field, answer in zip(fields, answers, strict=True)
            if answer.nvmlReturn not in _NOT_KNOWN
        ]

    def _unroll(self, name: str, raw: int) -> int:
        last, wraps = self._unrolled.get(name, (raw, 0))
        if raw < last:
            wraps += WRAP_32_BITS
        self._unrolled[name] = (raw, wraps)
        return raw + wraps


def counters_of(values: Mapping[str, float]) -> GpuCounters:
    """The counters among the values."""
    return GpuCounters(
        pcie_receive_bytes=values.get("pcie_receive_bytes"),
        pcie_transmit_bytes=values.get("pcie_transmit_bytes"),
        nvlink_receive_bytes=values.get("nvlink_receive_bytes"),
        nvlink_transmit_bytes=values.get("nvlink_transmit_bytes"),
        clock_limited_seconds={
            name.removeprefix("clock_limited/"): seconds
            for name, seconds in values.items()
            if name.startswith("clock_limited/")
        },
    )


def health_of(values: Mapping[str, float]) -> GpuHealth:
    """What the values say of wear and faults."""

    def count(name: str) -> int | None:
        return int(values[name]) if name in values else None

    def flag(name: str) -> bool | None:
        return bool(values[name]) if name in values else None

    action = count("recovery_action")
    return GpuHealth(
        ecc_corrected_errors=count("ecc_corrected_errors"),
        ecc_uncorrected_errors=count("ecc_uncorrected_errors"),
        remapped_rows_corrected=count("remapped_rows_corrected"),
        remapped_rows_uncorrected=count("remapped_rows_uncorrected"),
        row_remap_pending=flag("row_remap_pending"),
        row_remap_failed=flag("row_remap_failed"),
        recovery_action=(
            RECOVERY_ACTIONS[action] if action is not None and action < len(RECOVERY_ACTIONS) else None
        ),
    )
