"""A slice of each soak; the whole is `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import node, nvml, process
from tests.soak.promises import Ledger, Page


def test_a_driver_that_fails_at_random_breaks_no_promise(tmp_path: Path, fresh_pynvml: None) -> None:
    run = nvml.soak(900, seed=7, directory=tmp_path)
    assert run.ticks == 900
    # It was not a holiday.
    assert run.faults > 20
    assert run.lost_gpus > 50
    assert run.broken_sessions > 0


def test_a_node_on_which_everything_fails_breaks_no_promise() -> None:
    run, _ = node.soak(500, seed=7)
    assert run.ticks == 500
    assert run.ledger.pages == 500
    assert sum(run.happened.values()) > 10
    assert run.down_seconds.total() > 50


@pytest.mark.long
def test_a_process_at_the_mercy_of_its_system_breaks_no_promise(tmp_path: Path, nvml_library: Path) -> None:
    process.with_nobody_to_log_to(tmp_path, nvml_library)
    outcome = process.soak(90, seed=7, directory=tmp_path, library=nvml_library)
    assert len(outcome.happened) > 8
    assert outcome.scrapes > 500


def test_bodies_that_are_too_large_leave_no_room_behind(tmp_path: Path, nvml_library: Path) -> None:
    daemon = process.Daemon(tmp_path, nvml_library)
    try:
        failures = 'roofline_source_read_failures_total{source="engine:127.0.0.1:%d",reason="too_large"}'

        refusals = 0

        def refused() -> bool:
            values = daemon.page().values
            return all(values.get(failures % front.port, 0.0) >= refusals for front in daemon.fronts)

        process.until(
            lambda: len(daemon.page().of(server=f"127.0.0.1:{daemon.fronts[1].port}")) > 1, "it reads"
        )
        before = process.held_by(daemon.pid)
        for mood in ("huge", "endless", "huge"):
            refusals += 4
            for front in daemon.fronts:
                front.mood = mood
            process.until(refused, f"{mood} bodies are refused")
        for front in daemon.fronts:
            front.mood = "status 500"
        process.until(
            lambda: process.held_by(daemon.pid).mebibytes < before.mebibytes + 3, "their memory is given back"
        )
    finally:
        daemon.close()


# --- the judge is no fool --------------------------------------------------------------------------

GOOD = """# TYPE roofline_gpu_bottleneck gauge
roofline_gpu_bottleneck{gpu="0",uuid="GPU-0",bottleneck="idle"} 1.0
roofline_gpu_bottleneck{gpu="0",uuid="GPU-0",bottleneck="host"} 0.0
# TYPE roofline_gpu_cost_usd_total counter
roofline_gpu_cost_usd_total{gpu="0",uuid="GPU-0"} 5.0
# TYPE roofline_engine_up gauge
roofline_engine_up{engine="vllm",server="a:1",rank="0",model="m"} 0.0
"""


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("} 5.0", "} 4.0", "fell from 5.0 to 4.0"),
        ('host"} 0.0', 'host"} 1.0', "not one class each"),
        ('idle"} 1.0', 'idle"} NaN', "nan"),
        ("# TYPE roofline_engine_up", 'roofline_gpu_cost_usd_total{gpu="0",uuid="GPU-0"} 6.0\n#', "twice"),
    ],
)
def test_a_page_that_breaks_a_promise_is_found(before: str, after: str, says: str) -> None:
    ledger = Ledger()
    ledger.read(GOOD)
    ledger.read(GOOD)
    with pytest.raises(AssertionError, match=says):
        ledger.read(GOOD.replace(before, after))


def test_what_is_still_said_of_a_dead_engine_is_found() -> None:
    ledger = Ledger()
    ledger.silent(Page.parse(GOOD), server="a:1")
    steps = 'roofline_engine_steps_total{engine="vllm",server="a:1",rank="0",model="m"} 7\n'
    with pytest.raises(AssertionError, match="stale"):
        ledger.silent(Page.parse(GOOD + steps), server="a:1")
    with pytest.raises(AssertionError, match="is shown as up"):
        ledger.silent(Page.parse(GOOD.replace('"m"} 0.0', '"m"} 1.0')), server="a:1")
    with pytest.raises(AssertionError, match="has left the page"):
        ledger.silent(Page.parse(GOOD), server="b:1")
