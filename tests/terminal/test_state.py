"""What keys do, without any terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.terminal.keys import NAMES
from agent.terminal.rows import SORTS
from agent.terminal.state import MAX_FILTER, Shown, State, press, selected_row

ROWS = ("gpu 0", "gpu 1", "gpu 2", "engine a", "engine b")
SHOWN = Shown(rows=ROWS, scroll_max=20, lines=3)


def after(*keys: str, state: State | None = None, shown: Shown = SHOWN) -> State:
    state = state or State()
    for key in keys:
        state = press(state, key, shown)
    return state


@pytest.mark.parametrize(
    ("keys", "selected"),
    [
        ((), "gpu 0"),
        (("j",), "gpu 1"),
        (("down", "down", "up"), "gpu 1"),
        (("k",), "gpu 0"),
        (("G",), "engine b"),
        (("end", "j"), "engine b"),
        (("end", "home"), "gpu 0"),
        (("page down",), "engine a"),
        (("G", "page up"), "gpu 1"),
        ((" ",), "engine a"),
    ],
)
def test_the_selection_moves_and_stays_within_the_rows(keys: tuple[str, ...], selected: str) -> None:
    assert selected_row(after(*keys), ROWS) == selected


def test_a_row_that_has_gone_leaves_the_selection_to_the_first_and_may_come_back() -> None:
    state = after("G")
    assert selected_row(state, ROWS[:2]) == "gpu 0"
    assert selected_row(press(state, "s", Shown(rows=ROWS[:2])), ROWS) == "engine b"
    assert selected_row(state, ()) is None


def test_enter_shows_the_selected_row_and_escape_goes_back() -> None:
    detail = after("j", "enter")
    assert (detail.page, detail.selected) == ("detail", "gpu 1")
    for key in ("escape", "enter", "backspace", "left"):
        assert after(key, state=detail) == after("j")
    assert after("n", state=detail).selected == "gpu 2"
    assert after("p", "p", state=detail).selected == "gpu 0"


def test_without_rows_there_is_no_detail() -> None:
    assert after("enter", "j", "n", shown=Shown()) == State()


def test_sorting_goes_round_and_can_be_turned() -> None:
    assert after("s", "s").sort == 2
    assert after(*"s" * len(SORTS)).sort == 0
    assert after("S").sort == len(SORTS) - 1
    assert after("r").reverse
    assert not after("r", "r").reverse


def test_a_filter_is_typed_and_letters_mean_themselves_meanwhile() -> None:
    typing = after("/", *"q?sa")
    assert (typing.filter, typing.editing, typing.done) == ("q?sa", True, False)
    kept = after("backspace", "enter", state=typing)
    assert (kept.filter, kept.editing) == ("q?s", False)
    assert after("escape", state=kept).filter == ""
    assert after("escape", state=typing) == State()
    assert after("clear", state=typing).filter == ""
    assert not after("/", "backspace").editing
    assert len(after("/", *"x" * 500).filter) == MAX_FILTER


def test_pages_scroll_within_their_length() -> None:
    page = after("enter", "j", "j", "page down")
    assert page.scroll == 5
    assert after("G", state=page).scroll == 20
    assert after("G", "j", state=page).scroll == 20
    assert after("g", "k", state=page).scroll == 0
    # It has become shorter: a key moves from where the page is, not from where it was.
    assert press(after("G", state=page), "k", Shown(rows=ROWS, scroll_max=4)).scroll == 3


def test_help_lies_over_any_page_and_goes_away() -> None:
    for page in (after(), after("enter"), after("a")):
        helping = after("?", state=page)
        assert helping.helping
        assert after("j", state=helping).scroll == 1
        assert after("escape", state=helping) == page
        assert after("q", state=helping).done


def test_advice_comes_and_goes_with_one_key() -> None:
    assert after("a").page == "advice"
    assert after("a", "a").page == "table"
    assert after("a", "escape").page == "table"


@pytest.mark.parametrize("before", [(), ("enter",), ("a",), ("?",)])
def test_q_quits_from_everywhere(before: tuple[str, ...]) -> None:
    assert after(*before, "q").done


@given(st.lists(st.sampled_from([*NAMES.values(), "escape", *"qjksSr/a?npgGxé "]), max_size=40))
def test_no_key_leads_to_where_there_is_nothing(keys: list[str]) -> None:
    state = after(*keys)
    assert 0 <= state.scroll <= SHOWN.scroll_max
    assert 0 <= state.sort < len(SORTS)
    assert selected_row(state, ROWS) in ROWS
