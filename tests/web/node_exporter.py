"""Debian's node_exporter, as the judge of what a web configuration file means."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rig.programs import END_SECONDS, START_SECONDS, free_port, tool

PACKAGE = "prometheus-node-exporter"


@contextmanager
def node_exporter(file: Path) -> Iterator[int | None]:
    """Where it listens with that web configuration file; `None` when it refuses it."""
    port = free_port()
    log = file.with_suffix(".log")
    with log.open("wb") as written:
        process = subprocess.Popen(
            [
                tool(PACKAGE, PACKAGE),
                f"--web.config.file={file}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--collector.disable-defaults",
            ],
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield port if _has_started(process, log) else None
    finally:
        process.terminate()
        process.wait(END_SECONDS)


def _has_started(process: subprocess.Popen[bytes], log: Path) -> bool:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None:
        # It says so when it has read the file, and only then serves.
        if b"TLS is " in log.read_bytes():
            time.sleep(0.05)
            return process.poll() is None
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)
    return False
