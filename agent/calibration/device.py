"""What is measured on: a GPU that copies bytes and multiplies matrices, and says how long it took.

`torch_device` is the real one. Nothing else here knows PyTorch, so that a device whose roof is known can
stand in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from agent.calibration.timings import Timed
from agent.errors import AgentError

Traffic = Literal["copy", "triad", "read"]
"""``copy`` is b = a, ``triad`` is c = a + s × b as in STREAM, ``read`` is the sum of a."""

ARRAYS: Mapping[Traffic, int] = {"copy": 2, "triad": 3, "read": 1}
"""How many arrays each moves through DRAM, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One number format of products."""

    name: str
    bytes_per_element: int
    output_bytes: int
    roof: str | None
    """The compute dtype whose roof it is in the configuration; `None`: none is kept of it."""
    says: str


FORMATS: tuple[Format, ...] = (
    Format(name="bf16", bytes_per_element=2, output_bytes=2, roof="bf16", says="sums in fp32"),
    Format(name="fp16", bytes_per_element=2, output_bytes=2, roof="bf16", says="sums in fp32"),
    Format(name="fp8", bytes_per_element=1, output_bytes=2, roof="fp8", says="E4M3, one scale, into bf16"),
    Format(name="int8", bytes_per_element=1, output_bytes=4, roof="int8", says="into int32"),
    Format(name="tf32", bytes_per_element=4, output_bytes=4, roof=None, says="fp32 numbers, tensor cores"),
    Format(name="fp32", bytes_per_element=4, output_bytes=4, roof="fp32", says="without tensor cores"),
)
"""16 bit has one roof: fp16 fills it only on a part without bf16, as the catalogue does."""

FORMAT_NAMES = tuple(each.name for each in FORMATS)


class UnsupportedError(AgentError):
    """The device, or its library, has no such product; the message says why."""


class Device(Protocol):
    """A GPU, by what can be asked of it."""

    @property
    def name(self) -> str:
        """As NVML spells it."""

    @property
    def library(self) -> str:
        """What measures, with its version."""

    @property
    def free_bytes(self) -> int:
        """Of its memory, now."""

    @property
    def l2_bytes(self) -> int | None:
        """Of its largest cache; `None` where it does not say."""

    def traffic(self, kind: Traffic, moved_bytes: int) -> Timed:
        """A kernel that moves so many bytes in all, read and written, ready to be timed."""

    def product(self, m: int, k: int, n: int, dtype: str) -> Timed:
        """[m, k] × [k, n], ready to be timed, its second matrix each time from DRAM, not from a cache.

        Raises `UnsupportedError`.
        """


def format_of(name: str) -> Format:
    """The format of that name, one of `FORMAT_NAMES`."""
    (found,) = (each for each in FORMATS if each.name == name)
    return found
