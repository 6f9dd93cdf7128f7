"""What no agent could save that makes these calls and reads these pages."""

from __future__ import annotations

from tests.bench.beats import PAGES_EVERY, Beats
from tests.bench.table import Figure, Table


def floor(table: Table, beats: Beats) -> None:
    """The agent's beats beside the same calls and GETs alone."""
    engines = beats.engines
    title = f"beats by hand, {beats.gpus} GPUs and {engines} engines"
    table.section(title, peer="calls, GETs alone")
    table.add(
        Figure(
            what=f"tick without a page; {beats.floor_nvml_calls} calls into NVML",
            agent=beats.tick_ms,
            peer=beats.floor_nvml_ms,
            unit="ms CPU",
        ),
        Figure(what="each page; one GET", agent=beats.page_ms, peer=beats.floor_page_ms, unit="ms CPU"),
        Figure(
            what=f"a second: a tick, {engines / PAGES_EVERY:g} pages",
            agent=beats.a_second_ms,
            peer=beats.floor_a_second_ms,
            unit="ms CPU",
        ),
    )
