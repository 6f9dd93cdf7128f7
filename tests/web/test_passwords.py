"""What a password costs, in the time of this thread's own processor: bcrypt is slow, and a scrape is not."""

from __future__ import annotations

import time
from statistics import median

import bcrypt
import pytest

from agent.exposition.authentication import Authenticator
from agent.exposition.web_config import MAX_COST
from tests.exposition.test_server import basic

COSTS = {"alice": 8, "bob": 10}
SCRAPE_SECONDS = 1e-3


@pytest.fixture(scope="module")
def authenticator() -> Authenticator:
    hashes = {
        user: bcrypt.hashpw(user.encode(), bcrypt.gensalt(cost)).decode() for user, cost in COSTS.items()
    }
    return Authenticator(hashes)


def cost_seconds(authenticator: Authenticator, user: str, password: str, *, times: int = 7) -> float:
    taken = []
    for _ in range(times):
        started = time.thread_time()
        authenticator.user_of(basic(user, password))
        taken.append(time.thread_time() - started)
    return median(taken)


def test_a_refusal_costs_the_same_whoever_is_named(authenticator: Authenticator) -> None:
    unknown = cost_seconds(authenticator, "mallory", "wrong")
    assert unknown > SCRAPE_SECONDS
    for user in COSTS:
        assert cost_seconds(authenticator, user, "wrong") == pytest.approx(unknown, rel=0.25)


def test_a_password_that_is_known_costs_a_scrape_nothing(authenticator: Authenticator) -> None:
    for user in COSTS:
        assert authenticator.user_of(basic(user, user)) == user
        assert cost_seconds(authenticator, user, user, times=100) < SCRAPE_SECONDS / 10


def test_the_dearest_hash_takes_about_a_second() -> None:
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(MAX_COST)).decode()
    assert cost_seconds(Authenticator({"alice": hashed}), "alice", "wrong", times=1) < 5
