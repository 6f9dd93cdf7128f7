from __future__ import annotations

import pytest

from agent.simulate.arrivals import Arrivals, Request
from agent.simulate.scenario import Lengths, Traffic, TrafficChange

TEN_TOKENS = Lengths(low=10, high=10)


def clients(number: int, *, pause_seconds: float = 0.0, all_begin_at_once: bool = False) -> Traffic:
    return Traffic(
        clients=number,
        pause_seconds=pause_seconds,
        all_begin_at_once=all_begin_at_once,
        prompt=TEN_TOKENS,
        output=TEN_TOKENS,
    )


def change(at: float, traffic: Traffic) -> TrafficChange:
    return TrafficChange(at_seconds=at, traffic=traffic)


def answered(arrivals: Arrivals, requests: list[Request], now: float) -> None:
    for _ in requests:
        arrivals.answered(now)


def test_a_client_asks_again_after_its_pause() -> None:
    arrivals = Arrivals(clients(1, pause_seconds=3), seed="", start=0)
    assert len(arrivals.until(0)) == 1
    arrivals.answered(2)
    assert arrivals.next_at == 5
    assert arrivals.until(4.9) == []
    (request,) = arrivals.until(5.1)
    assert request.arrived_at == 5


def test_clients_begin_in_the_middle_of_an_answer_or_all_at_its_begin() -> None:
    middle, begin = (
        Arrivals(clients(20, all_begin_at_once=together), seed="", start=0).until(0)
        for together in (False, True)
    )
    assert len({request.output_tokens for request in middle}) > 5
    assert {request.output_tokens for request in begin} == {10}


def test_clients_too_many_leave_when_they_are_answered() -> None:
    arrivals = Arrivals(clients(5), [change(10, clients(2))], seed="", start=0)
    first = arrivals.until(0)
    answered(arrivals, first, 9)
    second = arrivals.until(11)
    assert len(second) == 5, "they had asked before"
    answered(arrivals, second, 12)
    for now in (12, 13):
        third = arrivals.until(now)
        assert len(third) == 2
        answered(arrivals, third, now + 1)


def test_more_clients_ask_at_once() -> None:
    arrivals = Arrivals(clients(2), [change(10, clients(5))], seed="", start=0)
    assert len(arrivals.until(0)) == 2
    assert arrivals.next_at == 10
    assert [request.arrived_at for request in arrivals.until(12)] == [10, 10, 10]


def test_who_was_to_leave_stays_when_more_are_wanted_again() -> None:
    arrivals = Arrivals(clients(5), [change(10, clients(1)), change(20, clients(3))], seed="", start=0)
    asked = arrivals.until(0)
    assert arrivals.until(15) == []
    arrivals.answered(16)
    assert arrivals.until(25) == []
    answered(arrivals, asked[1:], 26)
    assert len(arrivals.until(26)) == 3


@pytest.mark.parametrize("seed", ["a", "b"])
def test_strangers_come_at_the_rate_in_force(seed: str) -> None:
    changes = [change(100, Traffic(requests_per_second=50)), change(200, Traffic())]
    arrivals = Arrivals(Traffic(requests_per_second=5), changes, seed=seed, start=0)
    slow, fast, none = (len(arrivals.until(now)) for now in (100, 200, 1000))
    assert slow == pytest.approx(500, rel=0.15)
    assert fast == pytest.approx(5000, rel=0.05)
    assert none == 0


def test_who_starts_after_a_change_begins_with_the_traffic_in_force() -> None:
    arrivals = Arrivals(clients(5), [change(10, clients(2)), change(30, clients(4))], seed="", start=20)
    assert len(arrivals.until(20)) == 2
    assert len(arrivals.until(30)) == 2


def test_however_often_one_looks_the_same_requests_come() -> None:
    def arrivals() -> Arrivals:
        traffic = Traffic(requests_per_second=3, output=Lengths(low=1, high=1000))
        changes = [change(20, Traffic(requests_per_second=9, output=Lengths(low=1, high=1000)))]
        return Arrivals(traffic, changes, seed="same", start=0)

    often = arrivals()
    seen = [(r.arrived_at, r.output_tokens) for step in range(1, 401) for r in often.until(step / 10)]
    assert seen == [(r.arrived_at, r.output_tokens) for r in arrivals().until(40)]
