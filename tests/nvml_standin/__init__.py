"""A libnvidia-ml.so.1 for machines without a GPU, so that nvidia-ml-py itself is exercised.

`libnvidia_ml.c` says what the control file understands.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_SOURCE = Path(__file__).with_name("libnvidia_ml.c")


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

    def calls(self, name: str, *, gpu: int = -1) -> int:
        """How often this process has made a call, on one GPU or on all."""
        self._library.standin_calls.restype = ctypes.c_long
        return int(self._library.standin_calls(name.encode(), gpu))

    @property
    def samples(self) -> int:
        """How many GPM samples this process holds."""
        return int(self._library.standin_samples())

    @property
    def _library(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.path))
