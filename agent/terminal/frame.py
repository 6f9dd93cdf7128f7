"""A frame: what lies where on the screen, as a function of what is known and what was pressed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from agent.exposition.picture import EnginePicture, GpuPicture, NodePicture
from agent.exposition.text_view import (
    advice_lines,
    bottleneck_words,
    engine_lines,
    gpu_lines,
    source_words,
    wrapped,
)
from agent.terminal import chart
from agent.terminal.glyphs import Glyphs
from agent.terminal.rows import (
    ALARM,
    ENGINE_COLUMNS,
    GPU_COLUMNS,
    QUIET,
    SORTS,
    STYLES,
    WARNING,
    Cell,
    Column,
    EngineRow,
    GpuRow,
    Row,
    T,
    arranged,
    bar,
)
from agent.terminal.sight import Sight
from agent.terminal.state import Shown, State, selected_row
from agent.units import render_percent, render_quantity, render_seconds

TITLE = "bold"
SELECTED = "reverse"
LATE_INTERVALS, LATE_SECONDS = 10, 10.0
"""A sample that is older than this many intervals, and than these seconds, is no news any more."""
MIN_WIDTH, MIN_HEIGHT = 40, 10
MAX_TEXT_WIDTH = 100
"""Longer lines are hard to read."""
CHART_WIDTH, CHART_HEIGHT = 100, 16

KEYS: Sequence[tuple[str, str]] = (
    ("↑ ↓  j k", "select a row; in a page, scroll"),
    ("PgUp PgDn  g G", "by a screen; to the first, the last"),
    ("Enter  →", "a GPU or an engine in detail, with its roofline"),
    ("n p  Tab", "in a detail: the next, the one before"),
    ("Esc  ←", "back; in the table: no filter"),
    ("s S", "sort by the next, the former order"),
    ("r", "the other way round"),
    ("/", "filter: words of GPU, class, model, server, pod"),
    ("a", "what to do, and what is wrong"),
    ("?", "this"),
    ("Ctrl-Z", "to the shell; fg comes back"),
    ("q", "quit"),
)
LEGEND: Sequence[tuple[str, str]] = (
    (
        "bound by",
        "what the time goes to: memory bandwidth, compute, the interconnect, kernel latency (many small "
        "kernels), the host, or idle; unknown where evidence is missing or contradicts itself",
    ),
    ("roof", "the part that is attained of the roofline's roof at this intensity"),
    (
        "DRAM",
        "share of the bandwidth, and whence it is known: gpm (by the GPU itself), dcgm (by a dcgm-exporter, "
        "up to a minute old), model (by the engine's counters and the model's architecture)",
    ),
    ("tensor", "share of the time that tensor cores work, likewise"),
    (
        "batch",
        "sequences that decode together; ridge: from which batch on compute would be the limit, none where "
        "no batch is large enough at this context; KV max: the batch that the KV cache allows",
    ),
    ("limiter", "why the batch is not larger: traffic, kv_cache, max_num_seqs"),
    (
        "$/M",
        "dollars for a million generated tokens, at the present rate and with idle time, by the prices that "
        "are configured",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of the screen, in cells."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The lines, as many as the screen has, and what a key must know of them."""

    lines: tuple[Text, ...]
    shown: Shown


def compose(sight: Sight, state: State, *, size: Size, now_seconds: float, glyphs: Glyphs) -> Frame:
    """The frame; `now_seconds` is on the clock of the sight."""
    if size.width < MIN_WIDTH or size.height < MIN_HEIGHT:
        words = f"{MIN_WIDTH} × {MIN_HEIGHT} at least"
        lines = [Text(words), *[Text()] * (size.height - 1)]
        return Frame(lines=tuple(_fitted(lines, size, glyphs)), shown=Shown())
    node = sight.picture
    late = _is_late(sight, now_seconds)
    if state.helping:
        return _page(
            _header(sight, now_seconds, size, glyphs),
            list(_help(size.width)),
            state,
            size,
            glyphs,
            late=False,
        )
    if node is None:
        lines = [
            *_header(sight, now_seconds, size, glyphs),
            Text(),
            Text("Nothing is known yet.", style=QUIET),
        ]
        return Frame(lines=tuple(_with_footer(lines, state, size, glyphs)), shown=Shown())
    gpus, engines = arranged(node, sort=SORTS[state.sort], reverse=state.reverse, words=state.filter)
    rows: list[GpuRow | EngineRow] = [*gpus, *engines]
    keys = tuple(row.key for row in rows)
    header = _header(sight, now_seconds, size, glyphs)
    if state.page == "advice":
        page = _page(header, list(_advice(node, size.width)), state, size, glyphs, late=late)
    elif state.page == "detail":
        row = next((row for row in rows if row.key == state.selected), None)
        page = _page(header, list(_detail(node, row, size, glyphs)), state, size, glyphs, late=late)
    else:
        header += _notes(node, size)
        page = _table(header, gpus, engines, state, size, glyphs, late=late)
    return Frame(lines=page.lines, shown=replace(page.shown, rows=keys))


# --- above and below -------------------------------------------------------------------------------


def _is_late(sight: Sight, now_seconds: float) -> bool:
    age = sight.age_seconds(now_seconds)
    if sight.picture is None or age is None:
        return False
    return bool(sight.problem) or age > max(LATE_INTERVALS * sight.picture.interval_seconds, LATE_SECONDS)


def _header(sight: Sight, now_seconds: float, size: Size, glyphs: Glyphs) -> list[Text]:
    node, age = sight.picture, sight.age_seconds(now_seconds)
    title = Text()
    title.append(node.node if node is not None else "roofline-agent", style=TITLE)
    title.append(f" {glyphs.dot} {sight.origin}", style=QUIET)
    late = _is_late(sight, now_seconds)
    if age is not None:
        words = f"{render_seconds(round(age))} old" if age >= 2 else "just now"
        title.append(f" {glyphs.dot} ", style=QUIET)
        title.append(words, style=ALARM if late else QUIET)
    lines = [title]
    if sight.problem:
        lines += [Text(line, style=ALARM) for line in wrapped(sight.problem, width=size.width)][:2]
    elif late and age is not None:
        lines.append(Text("The agent has stopped to sample; its log says why.", style=ALARM))
    if node is not None:
        lines.append(Text(node.headline, style="bold" if not late else QUIET))
    return lines


def _told(node: NodePicture) -> list[str]:
    """All that needs a person's eye."""
    told = " ".join(node.notes)
    return [*node.notes, *(words for words in source_words(node) if words not in told)]


def _notes(node: NodePicture, size: Size) -> list[Text]:
    """Of that, a line each, as much as there is room for."""
    notes = _told(node)
    room = max(1, (size.height - 16) // 4)
    shown = notes if len(notes) <= room else notes[:room]
    lines = [Text(f"! {note}", style=WARNING) for note in shown]
    if left := len(notes) - len(shown):
        lines[-1] = Text(f"! {left + 1} notes, with a: {shown[-1]}", style=WARNING)
    return lines


def _with_footer(lines: Sequence[Text], state: State, size: Size, glyphs: Glyphs) -> Iterator[Text]:
    body = list(_fitted(lines, replace(size, height=size.height - 1), glyphs))
    yield from body
    for _ in range(size.height - 1 - len(body)):
        yield Text()
    yield _cropped(_footer(state, glyphs), size.width, glyphs)


def _footer(state: State, glyphs: Glyphs) -> Text:
    if state.editing:
        return Text.assemble(
            ("filter: ", TITLE), state.filter, glyphs.cursor, ("  Enter keeps it, Esc drops it", QUIET)
        )
    hints = {
        "table": "q quit  Enter detail  s sort  / filter  a advice  ? help",
        "detail": "q quit  Esc back  n p next, former  j k scroll  ? help",
        "advice": "q quit  Esc back  j k scroll  ? help",
    }
    footer = Text("q quit  Esc back  j k scroll" if state.helping else hints[state.page], style=QUIET)
    if state.page == "table" and not state.helping:
        sort, way = SORTS[state.sort].name, " reversed" if state.reverse else ""
        if state.sort or state.reverse:
            footer.append(f"  {sort}{way}", style=WARNING)
        if state.filter:
            footer.append(f"  /{state.filter}", style=WARNING)
    return footer


def _fitted(lines: Iterable[Text], size: Size, glyphs: Glyphs) -> Iterator[Text]:
    for line in list(lines)[: size.height]:
        yield _cropped(line, size.width, glyphs)


def _cropped(line: Text, width: int, glyphs: Glyphs) -> Text:
    if cell_len(line.plain) > width:
        line = line.copy()
        line.truncate(width - 1)
        line.append(glyphs.cut)
    return line


# --- the table -------------------------------------------------------------------------------------


def _table(
    header: Sequence[Text],
    gpus: Sequence[GpuRow],
    engines: Sequence[EngineRow],
    state: State,
    size: Size,
    glyphs: Glyphs,
    *,
    late: bool,
) -> Frame:
    selected = selected_row(state, [*(row.key for row in gpus), *(row.key for row in engines)])
    none = "nothing is found by this filter" if state.filter else ""
    first, gpu_at = _half(gpus, GPU_COLUMNS, selected, size, glyphs)
    second, engine_at = _half(engines, ENGINE_COLUMNS, selected, size, glyphs)
    lines = [
        *(first or [Text(f"GPUs: {none or 'none can be seen on this node now'}", style=QUIET)]),
        Text(),
        *(
            second
            or [Text(f"engines: {none or 'none is watched; the GPUs are judged by counters'}", style=QUIET)]
        ),
    ]
    at = gpu_at or (len(first or [None]) + 1 + engine_at if engine_at else 0)
    reason = _why(gpus, engines, selected, size, glyphs)
    room = size.height - 1 - len(header) - len(reason)
    lines = _around(lines, at, room, glyphs)
    if late:
        lines = [Text(line.plain, style=QUIET) for line in lines]
    above = [*header, *lines]
    filling = [Text()] * max(size.height - 1 - len(above) - len(reason), 0)
    everything = [*above, *filling, *reason]
    return Frame(
        lines=tuple(_with_footer(everything, state, size, glyphs)), shown=Shown(lines=max(room - 2, 1))
    )


def _half(
    rows: Sequence[Row[T]], columns: Sequence[Column[T]], selected: str | None, size: Size, glyphs: Glyphs
) -> tuple[list[Text], int]:
    """The titles and a line for each row, none without rows; and which line is selected, 0 if none is."""
    if not rows:
        return [], 0
    widths = _widths(columns, size.width)
    lines: list[Text] = [_line(row, columns, widths, glyphs, selected=row.key == selected) for row in rows]
    at = next((number for number, row in enumerate(rows, start=1) if row.key == selected), 0)
    return [_titles(columns, widths), *lines], at


def _around(lines: list[Text], at: int, room: int, glyphs: Glyphs) -> list[Text]:
    """The lines of the table that there is room for, the selected one among them."""
    if len(lines) <= room:
        return lines
    room = max(room, 3)
    first = min(max(at - room // 2, 0), len(lines) - room)
    seen = lines[first : first + room]
    if first > 0:
        seen[0] = Text(f"{glyphs.above} {first + 1} lines more", style=QUIET)
    if (below := len(lines) - first - room) > 0:
        seen[-1] = Text(f"{glyphs.below} {below + 1} lines more", style=QUIET)
    return seen


def _widths(columns: Sequence[Column[T]], width: int) -> dict[str, int]:
    """By title, of the columns that there is room for; one cell lies between two, and two for the mark."""
    shown = [column for column in columns if column.from_width <= width]
    rest = width - 2 - sum(column.width for column in shown) - (len(shown) - 1)
    weights = sum(column.takes_rest for column in shown)
    return {
        column.title: column.width + (max(rest, 0) * column.takes_rest // weights if weights else 0)
        for column in shown
    }


def _titles(columns: Sequence[Column[T]], widths: dict[str, int]) -> Text:
    cells = [_padded(c.title, widths[c.title], right=c.right) for c in columns if c.title in widths]
    return Text("  " + " ".join(cells).rstrip(), style=TITLE)


def _line(
    row: Row[T], columns: Sequence[Column[T]], widths: dict[str, int], glyphs: Glyphs, *, selected: bool
) -> Text:
    line = Text(f"{glyphs.selected if selected else ' '} ")
    for position, column in enumerate(column for column in columns if column.title in widths):
        cell = column.cell(row, glyphs)
        line.append(" " if position else "")
        width = widths[column.title]
        text = _shortened(cell, width, glyphs)
        blanks = " " * (width - cell_len(text))  # without the cell's colour, which the selection would show
        line.append(blanks if column.right else "")
        line.append(text, style=cell.style)
        line.append("" if column.right else blanks)
    if selected:
        line.stylize(SELECTED)
    return line


def _shortened(cell: Cell, width: int, glyphs: Glyphs) -> str:
    text = cell.text
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + glyphs.cut


def _padded(text: str, width: int, *, right: bool) -> str:
    blanks = " " * max(width - cell_len(text), 0)
    return blanks + text if right else text + blanks


def _why(
    gpus: Sequence[GpuRow], engines: Sequence[EngineRow], selected: str | None, size: Size, glyphs: Glyphs
) -> list[Text]:
    """Of the selected row, what it is and why, in a few lines."""
    lines: list[Text] = []
    room = 3 if size.height < 30 else 6
    for gpu in (row.value for row in gpus if row.key == selected):
        words = gpu.verdict.reason if gpu.up else gpu.problem
        lines.append(Text(f"GPU {gpu.number}  {gpu.name}", style=TITLE))
        told = [*(["throttled: " + gpu.throttle] if gpu.throttle else []), *gpu.faults, words]
        lines += [Text(line) for line in wrapped("; ".join(filter(None, told)), width=size.width)]
    for engine in (row.value for row in engines if row.key == selected):
        rank = f" rank {engine.rank}" if engine.rank not in ("", "0") else ""
        lines.append(Text(f"{engine.software} {engine.server}{rank}  {engine.model}".rstrip(), style=TITLE))
        if engine.up:
            words = f"{engine.verdict.reason}; limiter {engine.limiter}: {engine.limiter_reason}"
        else:
            words = engine.problem
        lines += [Text(line) for line in wrapped(words, width=size.width)]
    if len(lines) > room:
        lines = lines[:room]
        lines[-1].append(f" {glyphs.cut}")
    return [Text(), *lines] if lines else []


# --- pages -----------------------------------------------------------------------------------------


def _page(
    header: Sequence[Text], lines: list[Text], state: State, size: Size, glyphs: Glyphs, *, late: bool
) -> Frame:
    """The header, and so much of the lines as there is room for, from where they are scrolled to."""
    room = max(size.height - 2 - len(header), 1)
    scroll_max = max(len(lines) - room, 0)
    scroll = min(state.scroll, scroll_max)
    seen = lines[scroll : scroll + room]
    if scroll < scroll_max:
        seen[-1] = Text(f"{glyphs.below} {len(lines) - scroll - room + 1} lines more", style=QUIET)
    if late:
        seen = [Text(line.plain, style=QUIET) for line in seen]
    return Frame(
        lines=tuple(_with_footer([*header, Text(), *seen], state, size, glyphs)),
        shown=Shown(scroll_max=scroll_max, lines=max(room - 1, 1)),
    )


def _help(width: int) -> Iterator[Text]:
    for keys, words in KEYS:
        yield Text.assemble((f"{keys:<16}", TITLE), words)
    yield Text()
    for name, words in LEGEND:
        for line in wrapped(words, first=f"{name:<16}", width=min(width, MAX_TEXT_WIDTH)):
            yield Text.assemble((line[:16], TITLE), line[16:])


def _advice(node: NodePicture, width: int) -> Iterator[Text]:
    width = min(width, MAX_TEXT_WIDTH)
    notes = _told(node)
    notes += [f"{source.name}: {words}" for source in node.sources for words in source.problems]
    for note in notes or ["Nothing needs a person's eye."]:
        for line in wrapped(f"! {note}" if notes else note, width=width):
            yield Text(line, style=WARNING if notes else QUIET)
    lines = list(advice_lines(node.advice, width=width))
    for number, line in enumerate(lines):
        yield Text(line, style=TITLE if number == 1 else "")
    if not lines:
        yield Text()
        yield Text("There is nothing to advise.", style=QUIET)


def _detail(node: NodePicture, row: GpuRow | EngineRow | None, size: Size, glyphs: Glyphs) -> Iterator[Text]:
    if row is None:
        yield Text("It is there no longer, or the filter hides it.", style=QUIET)
        return
    width = min(size.width, MAX_TEXT_WIDTH)
    gpus: Sequence[GpuPicture]
    engines: Sequence[EnginePicture]
    if isinstance(row.value, GpuPicture):
        gpus, engines = (row.value,), node.engines_on(row.value)
        yield from _titled(gpu_lines(row.value, width=width))
        yield from _measured(row.value, glyphs)
    else:
        gpus, engines = node.gpus_of(row.value), (row.value,)
        yield from _titled(engine_lines(row.value, width=width))
        yield from _steps(row.value.verdict.shares, glyphs)
    yield from _chart(gpus, engines, size, glyphs)
    if isinstance(row.value, GpuPicture):
        for engine in engines:
            yield Text()
            yield from _titled(engine_lines(engine, width=width))
            yield from _steps(engine.verdict.shares, glyphs)
    else:
        for gpu in gpus:
            yield Text()
            yield from _titled(gpu_lines(gpu, width=width))
    uuids = {gpu.uuid for gpu in gpus}
    advice = [one for one in node.advice if uuids & set(one.gpu_uuids)]
    for number, line in enumerate(advice_lines(advice, width=width)):
        yield Text(line, style=TITLE if number == 1 else "")


def _titled(lines: Iterable[str]) -> Iterator[Text]:
    for number, line in enumerate(lines):
        yield Text(line, style=TITLE if number == 0 else "")


def _measured(gpu: GpuPicture, glyphs: Glyphs) -> Iterator[Text]:
    for name, shown in (("DRAM", gpu.dram), ("tensor", gpu.tensor)):
        if shown is not None and gpu.up:
            ratio = render_percent(shown.value)
            yield Text(f"  {name:<11} {bar(shown.value, glyphs, 24)} {ratio:>5} ({shown.evidence})")
    parts = []
    if gpu.power_watts is not None:
        limit = f" of {gpu.power_limit_watts:.0f} W" if gpu.power_limit_watts is not None else ""
        parts.append(f"{gpu.power_watts:.0f} W{limit}")
    if gpu.temperature_celsius is not None:
        parts.append(f"{gpu.temperature_celsius:.0f} °C")
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None:
        used, total = (
            render_quantity(value, "B") for value in (gpu.memory_used_bytes, gpu.memory_total_bytes)
        )
        parts.append(f"{used} of {total} in use")
    if parts:
        yield Text(f"  board       {', '.join(parts)}")


def _steps(shares: Mapping[str, float], glyphs: Glyphs) -> Iterator[Text]:
    """Where a step goes, the largest part first."""
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        if share >= 0.005:
            words = f"{render_percent(share):>5} {bottleneck_words(name).replace('_', ' ')}"
            yield Text.assemble("  step        ", (bar(share, glyphs, 24), STYLES.get(name, "")), f" {words}")


def _chart(
    gpus: Sequence[GpuPicture], engines: Sequence[EnginePicture], size: Size, glyphs: Glyphs
) -> Iterator[Text]:
    gpu = next((gpu for gpu in gpus if gpu.up and gpu.roof is not None), None)
    if gpu is None or gpu.roof is None:
        return
    points = chart.points_of([gpu for gpu in gpus if gpu.up], engines, glyphs)
    drawn = chart.roofline(
        gpu.roof,
        gpu.peak_roof,
        points,
        width=min(size.width, CHART_WIDTH),
        height=min(max(size.height - 12, 10), CHART_HEIGHT),
        glyphs=glyphs,
    )
    styles = {"gpu": f"bold {STYLES.get(gpu.verdict.bottleneck, '')}", **_CHART_STYLES}
    yield Text()
    yield Text(
        f"FLOP/s over FLOP/byte, {gpu.compute_dtype}: {glyphs.gpu} GPU; while they run d decode, p prefill",
        style=QUIET,
    )
    for line in drawn.lines():
        text = Text()
        for kind, marks in groupby(line, key=lambda mark: mark.kind):
            text.append("".join(mark.character for mark in marks), style=styles[kind])
        text.rstrip()
        yield text


_CHART_STYLES = {
    "grid": QUIET,
    "label": QUIET,
    "peak": QUIET,
    "roof": "",
    "ridge": QUIET,
    "phase": "bold",
}
