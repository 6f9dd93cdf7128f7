from __future__ import annotations

from pathlib import Path

from tests.soak import soak


def test_faults_at_random_break_no_promise(tmp_path: Path, fresh_pynvml: None) -> None:
    run = soak(2500, seed=7, directory=tmp_path)
    assert run.ticks == 2500
    # It was not a holiday.
    assert run.faults > 80
    assert run.lost_gpus > 200
    assert run.broken_sessions > 20
    assert run.remade > 0
