"""What keys do: from one state to the next, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent.terminal.rows import SORTS

Page = Literal["table", "detail", "advice"]

MAX_FILTER = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What was pressed so far comes to this."""

    page: Page = "table"
    helping: bool = False
    """The list of keys lies over the page."""
    selected: str | None = None
    """The key of a row; one that is not shown, or `None`, is the first."""
    sort: int = 0
    """Which of `SORTS`."""
    reverse: bool = False
    filter: str = ""
    editing: bool = False
    """The filter is being typed."""
    scroll: int = 0
    """Lines of a page, or of the help, that lie above the screen."""
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What was on the screen when a key was pressed."""

    rows: Sequence[str] = ()
    """The keys of the rows, in their order."""
    scroll_max: int = 0
    lines: int = 10
    """How many a page up or down is."""


def press(state: State, key: str, shown: Shown) -> State:
    """The state after a key; one that means nothing leaves it as it is."""
    if state.editing:
        return _type(state, key)
    if key == "q":
        return replace(state, done=True)
    if state.helping:
        closed = key in ("?", "escape", "enter", "backspace", "left")
        return replace(state, helping=False, scroll=0) if closed else _scroll(state, key, shown)
    if key == "?":
        return replace(state, helping=True, scroll=0)
    if key == "a":
        return replace(state, page="table" if state.page == "advice" else "advice", scroll=0)
    return _on_table(state, key, shown) if state.page == "table" else _on_page(state, key, shown)


def selected_row(state: State, rows: Sequence[str]) -> str | None:
    """The row that is selected, of those there are."""
    if state.selected in rows:
        return state.selected
    return rows[0] if rows else None


def _on_table(state: State, key: str, shown: Shown) -> State:
    if key in ("enter", "right"):
        selected = selected_row(state, shown.rows)
        return state if selected is None else replace(state, page="detail", selected=selected, scroll=0)
    if key == "s":
        return replace(state, sort=(state.sort + 1) % len(SORTS))
    if key == "S":
        return replace(state, sort=(state.sort - 1) % len(SORTS))
    if key == "r":
        return replace(state, reverse=not state.reverse)
    if key == "/":
        return replace(state, editing=True)
    if key == "escape":
        return replace(state, filter="")
    return replace(state, selected=_moved(state, key, shown))


def _on_page(state: State, key: str, shown: Shown) -> State:
    if key in ("escape", "enter", "backspace", "left"):
        return replace(state, page="table", scroll=0)
    if state.page == "detail" and key in _NEIGHBOURS:
        selected = _neighbour(state, _NEIGHBOURS[key], shown.rows)
        return replace(state, selected=selected, scroll=0)
    return _scroll(state, key, shown)


_NEIGHBOURS: Mapping[str, int] = {"n": 1, "tab": 1, "right": 1, "p": -1, "back tab": -1}
_STEPS: Mapping[str, int] = {"up": -1, "k": -1, "down": 1, "j": 1}


def _steps(key: str, shown: Shown) -> int | None:
    """How far down a key goes; `None` for one that does not move."""
    far = 10**6
    pages = {"page up": -shown.lines, "page down": shown.lines, " ": shown.lines}
    ends = {"home": -far, "g": -far, "end": far, "G": far}
    return {**_STEPS, **pages, **ends}.get(key)


def _moved(state: State, key: str, shown: Shown) -> str | None:
    steps = _steps(key, shown)
    return state.selected if steps is None else _neighbour(state, steps, shown.rows)


def _neighbour(state: State, steps: int, rows: Sequence[str]) -> str | None:
    selected = selected_row(state, rows)
    if selected is None:
        return state.selected  # it may come back
    return rows[min(max(rows.index(selected) + steps, 0), len(rows) - 1)]


def _scroll(state: State, key: str, shown: Shown) -> State:
    steps = _steps(key, shown)
    if steps is None:
        return state
    # From where it really is: the page may have become shorter meanwhile.
    at = min(state.scroll, shown.scroll_max)
    return replace(state, scroll=min(max(at + steps, 0), shown.scroll_max))


def _type(state: State, key: str) -> State:
    if key == "enter":
        return replace(state, editing=False)
    if key == "escape":
        return replace(state, editing=False, filter="")
    if key == "backspace":
        return replace(state, filter=state.filter[:-1], editing=bool(state.filter))
    if key == "clear":
        return replace(state, filter="")
    if len(key) == 1 and len(state.filter) < MAX_FILTER:
        return replace(state, filter=state.filter + key)
    return state
