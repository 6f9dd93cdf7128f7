"""A libnvidia-ml.so.1 for machines without a GPU, so that nvidia-ml-py itself is exercised.

`libnvidia_ml.c` says what the control file understands.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SOURCE = Path(__file__).with_name("libnvidia_ml.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A branch of the driver: what its library lacks, and what its control file says."""

    missing: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


# By NVML's change log and the headers of CUDA: memory v2 came in 510 and GPM in 520, so all have them;
# the clock event reasons and fields 185 to 196 in 535, the fabric's call in 550, fields 197 and 198 in
# 555, 230 in 565, TemperatureV in 570, version 3 of the fabric in 580. Field 199 of 550 is left out.
# 575 counted the clock event fields 251 to 253, and 269 to 271 were of power smoothing; 580 swapped them.
# Assumed, since no source says it: that …RunningProcesses_v3 is in 525 (the change log names 535), and
# that an old driver answers one young field with INVALID_ARGUMENT (field.strict tries the other way).
_SINCE_535 = ("nvmlDeviceGetCurrentClocksEventReasons",)
_SINCE_550 = ("nvmlDeviceGetGpuFabricInfoV",)
_SINCE_570 = ("nvmlDeviceGetTemperatureV",)
GENERATIONS: Mapping[int, Generation] = {
    525: Generation(
        missing=_SINCE_535 + _SINCE_550 + _SINCE_570,
        settings={"driver_version": "525.147.05", "field.newest": 172},
    ),
    535: Generation(
        missing=_SINCE_550 + _SINCE_570,
        settings={"driver_version": "535.183.06", "field.newest": 196},
    ),
    550: Generation(
        missing=_SINCE_570,
        settings={"driver_version": "550.127.08", "field.newest": 196, "fabric_newest": 2},
    ),
    570: Generation(
        settings={"driver_version": "570.86.15", "field.newest": 268, "fabric_newest": 2},
    ),
    580: Generation(
        settings={"driver_version": "580.65.06", "field.newest": 273},
    ),
    590: Generation(settings={"driver_version": "590.44.01"}),
}


def compile_library(directory: Path, *, without: Sequence[str] = ()) -> Path:
    """Compile the stand-in with the system's compiler; the symbols `without` are missing from it."""
    library = directory / "libnvidia-ml.so.1"
    missing = [f"-D{symbol}=absent_{symbol}" for symbol in without]
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(["cc", *flags, *missing, "-o", library, _SOURCE, "-ldl", "-lpthread"], check=True)
    return library


class StandIn:
    """One library in a directory of its own, beside the control file that steers it."""

    def __init__(self, library: Path, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "libnvidia-ml.so.1"
        shutil.copyfile(library, self.path)
        self._control = directory / "control"
        self._settings: dict[str, object] = {}
        self._writes = 0

    def set(self, settings: Mapping[str, object]) -> None:
        """Add to what the control file says; `None` takes a key out again."""
        self._settings.update(settings)
        self._settings = {key: value for key, value in self._settings.items() if value is not None}
        self._writes += 1
        written = self._control.with_name("control.new")
        written.write_text("".join(f"{key}={value}\n" for key, value in self._settings.items()))
        # The library looks at the modification time, and the file system's is coarse.
        os.utime(written, ns=(self._writes, self._writes))
        written.rename(self._control)

    def calls(self, name: str, *, gpu: int = -1, mig: int | None = None) -> int:
        """How often this process made a call: about all GPUs, one with its instances, or one of these."""
        device = gpu if mig is None else gpu | (mig + 1) << 8
        self._library.standin_calls.restype = ctypes.c_long
        return int(self._library.standin_calls(name.encode(), device))

    @property
    def sessions(self) -> tuple[str, ...]:
        """With `record`, what any process has called: nvmlInit and nvmlShutdown, in order."""
        path = self.path.with_name("sessions")
        return tuple(path.read_text().split()) if path.exists() else ()

    @property
    def samples(self) -> int:
        """How many GPM samples this process holds."""
        return int(self._library.standin_samples())

    @property
    def event_sets(self) -> int:
        """How many event sets this process holds."""
        return int(self._library.standin_event_sets())

    @property
    def _library(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.path))
