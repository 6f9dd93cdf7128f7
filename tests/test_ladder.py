from __future__ import annotations

from agent.ladder import RETURN_SECONDS, Ladder
from agent.readings import Activity, Evidence

GPM = Activity(evidence="gpm", seconds=1, dram_ratio=0.8, tensor_ratio=0.1, sm_ratio=0.9, graphics_ratio=1.0)
DCGM = Activity(
    evidence="dcgm", seconds=30, dram_ratio=0.7, tensor_ratio=0.2, sm_ratio=0.6, graphics_ratio=0.9
)


def dram(ladder: Ladder, *rungs: Activity, now: float) -> Evidence | None:
    chosen = ladder.climb(rungs, now_seconds=now).get("dram_ratio")
    return chosen.evidence if chosen is not None else None


def test_the_best_evidence_is_taken_with_its_number() -> None:
    chosen = Ladder().climb((GPM, DCGM), now_seconds=0)
    assert {name: one.evidence for name, one in chosen.items()} == dict.fromkeys(chosen, "gpm")
    assert (chosen["dram_ratio"].ratio, chosen["dram_ratio"].seconds) == (0.8, 1)


def test_each_quantity_climbs_by_itself() -> None:
    half = Activity(evidence="gpm", seconds=1, dram_ratio=0.8)
    chosen = Ladder().climb((half, DCGM), now_seconds=0)
    assert {name: one.evidence for name, one in chosen.items()} == {
        "dram_ratio": "gpm",
        "tensor_ratio": "dcgm",
        "sm_ratio": "dcgm",
        "graphics_ratio": "dcgm",
    }


def test_without_any_rung_there_is_nothing() -> None:
    assert Ladder().climb((), now_seconds=0) == {}


def test_a_rung_that_breaks_is_left_at_once() -> None:
    ladder = Ladder()
    assert dram(ladder, GPM, DCGM, now=0) == "gpm"
    assert dram(ladder, DCGM, now=1) == "dcgm"
    assert dram(ladder, now=2) is None


def test_a_better_rung_that_comes_back_must_hold_first() -> None:
    ladder = Ladder()
    dram(ladder, DCGM, now=0)
    assert dram(ladder, GPM, DCGM, now=1) == "dcgm"
    assert dram(ladder, GPM, DCGM, now=1 + RETURN_SECONDS - 0.1) == "dcgm"
    assert dram(ladder, GPM, DCGM, now=1 + RETURN_SECONDS) == "gpm"


def test_a_better_rung_that_flickers_is_not_taken() -> None:
    ladder = Ladder()
    dram(ladder, DCGM, now=0)
    for second in range(1, 60):
        rungs = (GPM, DCGM) if second % 5 else (DCGM,)
        assert dram(ladder, *rungs, now=second) == "dcgm"


def test_the_better_rung_is_taken_at_once_when_the_other_breaks() -> None:
    ladder = Ladder()
    dram(ladder, DCGM, now=0)
    assert dram(ladder, GPM, now=1) == "gpm"
