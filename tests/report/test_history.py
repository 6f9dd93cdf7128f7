"""Periods are asked for in what pieces a server gives, and what it did not give is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.report.answers import Answer
from agent.report.history import LOOK_BACK_DAYS, WAITS_SECONDS, History, Kept, kept_answers
from agent.report.period import DAY_SECONDS, HOUR_SECONDS, RECORDED_SECONDS, Span, month
from agent.report.questions import BY_ID, Question
from agent.sources.page import PageLimits
from agent.sources.prometheus import Access, PrometheusServer
from tests.report.limited_server import Asked, LimitedServer, limited_server

SEPTEMBER = month("2026-09", now=2e9).span
DAILY = replace(BY_ID["gpu_observed_seconds"], by=("cluster",))
HOURLY = replace(BY_ID["hourly_engine_flops"], by=("cluster",))
WHOLE = replace(BY_ID["node_gpu_cost_usd"], by=("cluster",))
FOUR_DAYS = Span(start=SEPTEMBER.start, end=SEPTEMBER.start + 4 * DAY_SECONDS)
ODD = Span(start=SEPTEMBER.start + 12345, end=SEPTEMBER.start + 12345 + 2 * DAY_SECONDS + 777)


@pytest.fixture
def server() -> Iterator[LimitedServer]:
    with limited_server() as running:
        yield running


class Asking:
    """A history that does not really wait."""

    def __init__(self, server: LimitedServer, kept: Path | None = None) -> None:
        self.waited: list[float] = []
        self.server = PrometheusServer(server.url, limits=PageLimits(deadline_seconds=5))
        self.history = History(self.server, kept=Kept(kept), sleep=self.waited.append, now=lambda: 2e9)

    def fetch(self, question: Question, span: Span = SEPTEMBER) -> Answer:
        try:
            return self.history.fetch(question, span)
        finally:
            self.server.close()

    def earliest_sample(self) -> int | None:
        try:
            return self.history.earliest_sample(SEPTEMBER)
        finally:
            self.server.close()


def covered(answer: Answer, step: int) -> float:
    """Seconds that are in the answer; each step must be where it belongs."""
    (row,) = answer.rows.values()
    assert all((at - SEPTEMBER.start) % step == 0 for at in row), "a step begins where the span's do"
    return sum(row.values())


@pytest.mark.parametrize(
    ("question", "step", "queries"), [(DAILY, DAY_SECONDS, 1), (HOURLY, HOUR_SECONDS, 1), (WHOLE, 1, 1)]
)
def test_a_period_is_one_query(server: LimitedServer, question: Question, step: int, queries: int) -> None:
    answer = Asking(server).fetch(question)
    assert covered(answer, step) == SEPTEMBER.seconds
    assert len(server.asked) == queries
    assert not answer.missing


@pytest.mark.parametrize("question", [DAILY, HOURLY, WHOLE])
def test_a_span_that_is_no_number_of_steps_is_asked_for_as_it_is(
    server: LimitedServer, question: Question
) -> None:
    answer = Asking(server).fetch(question, ODD)
    assert answer.total == ODD.seconds
    assert sum(asked.seconds for asked in server.asked) == ODD.seconds


@pytest.mark.parametrize("question", [DAILY, HOURLY, WHOLE])
@pytest.mark.parametrize(
    ("days", "most", "status"),
    [
        (30, 20 * DAY_SECONDS, 400),
        (30, 3 * DAY_SECONDS, 413),
        (30, DAY_SECONDS, 422),
        (3, 5 * HOUR_SECONDS, 422),
        (3, HOUR_SECONDS, 422),
    ],
)
def test_what_is_too_much_is_halved_until_it_is_given(
    server: LimitedServer, question: Question, days: int, most: int, status: int
) -> None:
    server.refuses = lambda asked: status if asked.seconds > most else None
    span = Span(start=SEPTEMBER.start, end=SEPTEMBER.start + days * DAY_SECONDS)
    asking = Asking(server)
    answer = asking.fetch(question, span)
    assert answer.total == span.seconds
    assert not answer.missing
    assert not asking.waited, "a refusal for size is none for time"
    given = sorted((asked.start, asked.end) for asked in server.asked if asked.seconds <= most)
    assert (given[0][0], given[-1][1]) == (span.start, span.end)
    assert all(one[1] == other[0] for one, other in pairwise(given)), "no second twice"


def test_what_was_given_is_how_much_is_asked_for_from_then_on(server: LimitedServer) -> None:
    server.refuses = lambda asked: 422 if asked.seconds > 4 * DAY_SECONDS else None
    asking = Asking(server)
    asking.history.fetch(DAILY, SEPTEMBER)
    refused = sum(asked.seconds > 4 * DAY_SECONDS for asked in server.asked)
    assert refused >= 3
    again = asking.fetch(DAILY)
    assert again.total == SEPTEMBER.seconds
    assert sum(asked.seconds > 4 * DAY_SECONDS for asked in server.asked) == refused


@pytest.mark.parametrize("question", [DAILY, HOURLY, WHOLE])
@pytest.mark.parametrize("span", [FOUR_DAYS, ODD])
@pytest.mark.parametrize("hours", [1, 5, 11, 24, 30])
def test_less_than_a_day_is_remembered_too(
    server: LimitedServer, question: Question, span: Span, hours: int
) -> None:
    """Each piece is within a day where days are summed, and no day is asked for whole again."""
    server.refuses = lambda asked: 422 if asked.seconds > hours * HOUR_SECONDS else None
    asking = Asking(server)
    asking.history.fetch(question, span)
    assert any(asked.seconds > hours * HOUR_SECONDS for asked in server.asked)
    server.asked.clear()
    answer = asking.fetch(question, span)
    assert answer.total == span.seconds
    assert all(asked.seconds <= hours * HOUR_SECONDS for asked in server.asked)
    if question is DAILY:
        days = [
            {int((at - span.start) // DAY_SECONDS) for at in (asked.start, asked.end - 1)}
            for asked in server.asked
            if asked.window < DAY_SECONDS
        ]
        assert all(len(day) == 1 for day in days)


def test_what_nobody_answered_says_nothing_of_how_much_is_given(server: LimitedServer) -> None:
    """An outage in which a server refuses with the status that stands for too much."""
    server.refuses = lambda _: 422
    asking = Asking(server)
    assert asking.history.fetch(DAILY, SEPTEMBER).missing
    server.refuses = lambda _: None
    server.asked.clear()
    assert asking.fetch(DAILY).total == SEPTEMBER.seconds
    assert len(server.asked) == 1


def test_one_hour_that_is_too_much_does_not_cut_the_rest(server: LimitedServer) -> None:
    dense = SEPTEMBER.start + 7 * DAY_SECONDS + 5 * HOUR_SECONDS
    server.refuses = lambda asked: (
        422 if asked.start <= dense < asked.end and asked.seconds > HOUR_SECONDS else None
    )
    asking = Asking(server)
    assert asking.history.fetch(DAILY, SEPTEMBER).total == SEPTEMBER.seconds
    server.asked.clear()
    assert asking.fetch(DAILY).total == SEPTEMBER.seconds
    assert len(server.asked) < 30


def test_an_hour_is_the_least_that_is_asked_for_and_three_are_enough(server: LimitedServer) -> None:
    server.refuses = lambda _: 422
    answer = Asking(server).fetch(DAILY, Span(start=SEPTEMBER.start, end=SEPTEMBER.start + 2 * DAY_SECONDS))
    assert not answer
    assert [piece.span.seconds for piece in answer.missing[:3]] == [HOUR_SECONDS] * 3
    assert min(asked.seconds for asked in server.asked) == HOUR_SECONDS
    assert sum(asked.seconds == HOUR_SECONDS for asked in server.asked) == 3
    assert sum(piece.span.seconds for piece in answer.missing) == 2 * DAY_SECONDS
    assert "max-samples" in answer.missing[0].reason


def test_a_server_that_answers_nothing_is_given_up(server: LimitedServer) -> None:
    server.refuses = lambda _: 422
    asking = Asking(server)
    for _ in range(4):
        assert asking.history.fetch(DAILY, SEPTEMBER).missing
    with pytest.raises(AgentError, match="15 queries in a row"):
        asking.fetch(DAILY)
    assert len(server.asked) < 150


def test_what_is_missing_is_known_to_the_hour(server: LimitedServer) -> None:
    bad = SEPTEMBER.start + 7 * DAY_SECONDS + 5 * HOUR_SECONDS
    server.refuses = lambda asked: 422 if asked.start <= bad < asked.end else None
    answer = Asking(server).fetch(DAILY)
    (piece,) = answer.missing
    assert (piece.span.start, piece.span.seconds) == (bad, HOUR_SECONDS)
    assert answer.total == SEPTEMBER.seconds - HOUR_SECONDS


@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_busy_server_is_asked_again_later(server: LimitedServer, status: int) -> None:
    server.refuses = lambda _: status if len(server.asked) <= 2 else None
    asking = Asking(server)
    assert asking.fetch(DAILY).total == SEPTEMBER.seconds
    assert asking.waited == [*WAITS_SECONDS[:2]]


@pytest.mark.parametrize("status", [503, 504])
def test_what_takes_too_long_twice_is_asked_for_in_pieces(server: LimitedServer, status: int) -> None:
    server.refuses = lambda asked: status if asked.seconds > 10 * DAY_SECONDS else None
    asking = Asking(server)
    assert asking.fetch(DAILY).total == SEPTEMBER.seconds
    assert asking.waited == [WAITS_SECONDS[0]] * sum(
        asked.seconds > 10 * DAY_SECONDS for asked in server.asked[::2]
    )


def test_a_part_of_an_answer_is_asked_for_again_and_not_kept(server: LimitedServer, tmp_path: Path) -> None:
    server.lacks_a_store = lambda _: len(server.asked) <= 2
    asking = Asking(server, tmp_path)
    assert asking.fetch(DAILY).total == SEPTEMBER.seconds
    assert asking.waited == [*WAITS_SECONDS[:2]]
    server.lacks_a_store = lambda _: True
    (piece,) = Asking(server, tmp_path).fetch(HOURLY).missing
    assert piece.span == SEPTEMBER
    assert "not whole" in piece.reason
    server.lacks_a_store = lambda _: False
    assert Asking(server, tmp_path).fetch(HOURLY).total == SEPTEMBER.seconds


def test_a_server_that_stays_busy_is_given_up(server: LimitedServer) -> None:
    server.refuses = lambda _: 429
    asking = Asking(server)
    answer = asking.fetch(DAILY)
    assert [piece.span for piece in answer.missing] == [SEPTEMBER]
    assert asking.waited == [*WAITS_SECONDS]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_the_earliest_sample_is_waited_for_too(server: LimitedServer, status: int) -> None:
    server.refuses = lambda _: status if len(server.asked) == 1 else None
    asking = Asking(server)
    assert asking.earliest_sample() == SEPTEMBER.start - LOOK_BACK_DAYS * DAY_SECONDS + RECORDED_SECONDS
    assert asking.waited == [WAITS_SECONDS[0]]


def test_without_an_earliest_sample_it_is_said_why(server: LimitedServer) -> None:
    server.lacks_a_store = lambda _: True
    asking = Asking(server)
    with pytest.raises(AgentError, match="not whole"):
        asking.earliest_sample()
    assert asking.waited == [*WAITS_SECONDS]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_is_not_let_in_asks_no_more(server: LimitedServer, status: int) -> None:
    server.refuses = lambda _: status
    with pytest.raises(AgentError, match=f"HTTP {status}"):
        Asking(server).fetch(DAILY)
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with limited_server() as gone:
        pass
    asking = Asking(gone)
    with pytest.raises(AgentError, match="refused"):
        asking.fetch(DAILY)
    assert not asking.waited


def test_a_server_that_goes_away_is_waited_for() -> None:
    with limited_server() as server:
        asking = Asking(server)
        asking.history.fetch(DAILY, SEPTEMBER)
    with pytest.raises(AgentError, match="goes on from there"):
        asking.fetch(HOURLY)
    assert asking.waited == [*WAITS_SECONDS]


# --- what is kept ------------------------------------------------------------------------------------


def test_what_was_answered_is_not_asked_again(server: LimitedServer, tmp_path: Path) -> None:
    server.refuses = lambda asked: 422 if asked.seconds > 10 * DAY_SECONDS else None
    first = Asking(server, tmp_path).fetch(DAILY)
    server.asked.clear()
    assert Asking(server, tmp_path).fetch(DAILY).rows == first.rows
    assert server.asked
    assert all(asked.seconds > 10 * DAY_SECONDS for asked in server.asked), "only what had been refused"


def test_a_run_goes_on_where_the_one_before_ended(server: LimitedServer, tmp_path: Path) -> None:
    late = SEPTEMBER.start + 20 * DAY_SECONDS

    def refuses(asked: Asked) -> int | None:
        if asked.seconds > DAY_SECONDS:
            return 422
        return 401 if asked.end > late else None

    server.refuses = refuses
    with pytest.raises(AgentError):
        Asking(server, tmp_path).fetch(DAILY)
    given = {(asked.start, asked.end) for asked in server.asked if refuses(asked) is None}
    assert len(given) == 20
    server.asked.clear()
    server.refuses = lambda asked: 422 if asked.seconds > DAY_SECONDS else None
    assert Asking(server, tmp_path).fetch(DAILY).total == SEPTEMBER.seconds
    assert given.isdisjoint((asked.start, asked.end) for asked in server.asked)


TENANT_A = Access(headers={"X-Scope-OrgID": "a"})


@pytest.mark.parametrize(
    ("user", "access", "selection", "span"),
    [
        ("", Access(headers={"X-Scope-OrgID": "b"}), "", SEPTEMBER),
        ("", Access(bearer_token="s3cret"), "", SEPTEMBER),
        ("me:s3cret@", TENANT_A, "", SEPTEMBER),
        ("", TENANT_A, 'cluster="a"', SEPTEMBER),
        ("", TENANT_A, "", FOUR_DAYS),
    ],
    ids=["another tenant", "another token", "another user", "another cluster", "another span"],
)
def test_what_another_review_was_told_is_left_alone(
    server: LimitedServer, tmp_path: Path, user: str, access: Access, selection: str, span: Span
) -> None:
    root = tmp_path / "kept"

    def fetch(user: str, access: Access, selection: str, span: Span) -> Kept:
        asked = PrometheusServer(server.url.replace("://", f"://{user}"), access=access)
        kept = kept_answers(root, "review", asked, selection, span)
        History(asked, selection=selection, kept=kept).fetch(WHOLE, SEPTEMBER)
        asked.close()
        return kept

    own = fetch("", TENANT_A, "", SEPTEMBER)
    other = fetch(user, access, selection, span)
    assert len(server.asked) == 2
    fetch("", TENANT_A, "", SEPTEMBER)
    assert len(server.asked) == 2
    assert "s3cret" not in "".join(map(str, root.rglob("*")))
    other.forget()
    fetch("", TENANT_A, "", SEPTEMBER)
    assert len(server.asked) == 2, "only its own were forgotten"
    own.forget()
    assert not root.exists()


def test_what_may_still_be_recorded_is_not_kept(server: LimitedServer, tmp_path: Path) -> None:
    now = SEPTEMBER.end + 60
    for _ in range(2):
        history = History(PrometheusServer(server.url), kept=Kept(tmp_path), now=lambda: now)
        history.fetch(WHOLE, SEPTEMBER)
    assert len(server.asked) == 2


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'[["a"]]', b"\xff", b'[[["a"],[["x",1]]]]'])
def test_a_spoiled_file_is_as_good_as_none(server: LimitedServer, tmp_path: Path, content: bytes) -> None:
    Asking(server, tmp_path).fetch(WHOLE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert Asking(server, tmp_path).fetch(WHOLE).total == SEPTEMBER.seconds
    assert len(server.asked) == 2


def test_nothing_is_left_when_it_is_forgotten(server: LimitedServer, tmp_path: Path) -> None:
    (tmp_path / "review").touch()
    directory = tmp_path / "kept"
    Asking(server, directory).fetch(WHOLE)
    assert len([*directory.iterdir()]) == 1
    Kept(directory).forget()
    assert not directory.exists()


def test_a_directory_that_cannot_be_costs_the_next_run_time_and_this_one_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / ("x" * 300))
    kept.put("a", {})
    assert kept.get("a") is None
    kept.forget()


def test_a_directory_that_cannot_be_written_costs_only_the_next_run(
    server: LimitedServer, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert Asking(server, blocked).fetch(WHOLE).total == SEPTEMBER.seconds
