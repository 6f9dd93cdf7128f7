"""What is to be said of each GPU and each engine in a table: the columns, the order, and what a filter finds.

A column is a row of a table here: its title, its width, and how its cell is made. So is a way to sort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agent.exposition.headline import render_numbers
from agent.exposition.picture import EnginePicture, GpuPicture, NodePicture, Shown
from agent.exposition.text_view import bottleneck_words
from agent.terminal.glyphs import Glyphs
from agent.units import render_number, render_percent

T = TypeVar("T")

DASH = "–"
BAR_CELLS = 6

STYLES: Mapping[str, str] = {
    "memory_bandwidth": "yellow",
    "compute": "green",
    "interconnect": "magenta",
    "kernel_latency": "cyan",
    "host": "bright_blue",
    "idle": "dim",
    "unknown": "red",
}
ALARM = "bold red"
WARNING = "yellow"
QUIET = "dim"

EVIDENCE: Mapping[str, str] = {"modelled": "model"}
"""As short as the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A text and how it looks."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Generic[T]):
    """A GPU or an engine, on its node."""

    key: str
    node: NodePicture
    value: T


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[T]):
    """One column; where there is less room than `from_width` it is left out."""

    title: str
    width: int
    cell: Callable[[Row[T], Glyphs], Cell]
    right: bool = False
    from_width: int = 0
    takes_rest: int = 0
    """The weight by which it takes what others leave."""


GpuRow = Row[GpuPicture]
EngineRow = Row[EnginePicture]


def gpu_rows(node: NodePicture) -> tuple[GpuRow, ...]:
    """In the node's order."""
    return tuple(
        Row(key=f"gpu {position} {gpu.uuid}", node=node, value=gpu) for position, gpu in enumerate(node.gpus)
    )


def engine_rows(node: NodePicture) -> tuple[EngineRow, ...]:
    """In the node's order."""
    return tuple(
        Row(key=f"engine {engine.server} {engine.rank}", node=node, value=engine) for engine in node.engines
    )


# --- cells -----------------------------------------------------------------------------------------


def _plain(text: str | None, style: str = "") -> Cell:
    return Cell(text=DASH, style=QUIET) if text is None else Cell(text=text, style=style)


def _number(value: float | None) -> Cell:
    return _plain(None if value is None else render_number(value))


def _percent(ratio: float | None) -> Cell:
    return _plain(None if ratio is None else render_percent(ratio))


def _bound(bottleneck: str) -> Cell:
    return Cell(text=bottleneck_words(bottleneck), style=STYLES.get(bottleneck, ""))


def _gpu_bound(row: GpuRow, _: Glyphs) -> Cell:
    gpu = row.value
    if not gpu.up:
        return Cell(text="lost", style=ALARM)
    if gpu.partitioned:
        return Cell(text="in MIG mode", style=QUIET)
    return _bound(gpu.verdict.bottleneck)


def bar(ratio: float, glyphs: Glyphs, cells: int = BAR_CELLS) -> str:
    """A ratio as a bar; what is not nothing is seen."""
    filled = min(max(round(ratio * cells), 1 if ratio >= 0.005 else 0), cells)
    return glyphs.full * filled + glyphs.empty * (cells - filled)


def _activity(shown: Shown | None, glyphs: Glyphs) -> Cell:
    if shown is None:
        return Cell(text=f"{glyphs.empty * BAR_CELLS} {DASH:>5}", style=QUIET)
    evidence = EVIDENCE.get(shown.evidence, shown.evidence)
    return Cell(text=f"{bar(shown.value, glyphs)} {render_percent(shown.value):>5} {evidence}")


def _gpu_state(row: GpuRow, _: Glyphs) -> Cell:
    gpu = row.value
    if not gpu.up or gpu.faults:
        return Cell(text="fault" if gpu.up else "", style=ALARM)
    return Cell(text="throttled" if gpu.throttle else "", style=WARNING)


def _power(row: GpuRow, _: Glyphs) -> Cell:
    watts, limit = row.value.power_watts, row.value.power_limit_watts
    if watts is None:
        return _plain(None)
    return Cell(text=f"{watts:.0f} W" if limit is None else f"{watts:.0f}/{limit:.0f} W")


def _temperature(row: GpuRow, _: Glyphs) -> Cell:
    degrees = row.value.temperature_celsius
    return _plain(None if degrees is None else f"{degrees:.0f} °C")


def _gpu_reason(row: GpuRow, _: Glyphs) -> Cell:
    return Cell(text=row.value.verdict.reason if row.value.up else row.value.problem, style=QUIET)


def _engine_gpus(row: EngineRow, _: Glyphs) -> Cell:
    return _plain(render_numbers([gpu.number for gpu in row.node.gpus_of(row.value)]) or None)


def _engine_name(row: EngineRow, _: Glyphs) -> Cell:
    engine = row.value
    style = ALARM if not engine.up else STYLES["unknown"] if engine.verdict.bottleneck == "unknown" else ""
    return Cell(text=engine.short_model or engine.server, style=style)


def _server(row: EngineRow, _: Glyphs) -> Cell:
    rank = "" if row.value.rank in ("", "0") else f" #{row.value.rank}"
    return Cell(text=row.value.server + rank)


def _engine_bound(row: EngineRow, _: Glyphs) -> Cell:
    return _bound(row.value.verdict.bottleneck) if row.value.up else Cell(text="down", style=ALARM)


def _ridge(row: EngineRow, _: Glyphs) -> Cell:
    engine = row.value
    # Where it decodes and has none, no batch reaches the ridge at this context.
    return (
        Cell(text="none")
        if engine.batch is not None and engine.ridge_batch is None
        else _number(engine.ridge_batch)
    )


FULL_BELOW, SCARCE_BELOW = 0.1, 0.25


def _headroom(row: EngineRow, _: Glyphs) -> Cell:
    ratio = row.value.headroom_ratio
    if ratio is None:
        return _plain(None)
    style = ALARM if ratio < FULL_BELOW else WARNING if ratio < SCARCE_BELOW else ""
    return Cell(text=render_percent(ratio), style=style)


def _limiter(row: EngineRow, _: Glyphs) -> Cell:
    if not row.value.up:
        return Cell(text="down", style=ALARM)
    return _plain(row.value.limiter, WARNING if row.value.limiter in ("kv_cache", "max_num_seqs") else "")


def _rate(row: EngineRow, _: Glyphs) -> Cell:
    rate = row.value.generation_tokens_per_second
    return _plain(None if rate is None else f"{rate:,.0f}")


def _cost(row: EngineRow, _: Glyphs) -> Cell:
    usd = row.value.usd_per_million_tokens
    return _plain(None if usd is None else f"{usd:.2f}" if usd < 1000 else f"{usd:,.0f}")


def _engine_reason(row: EngineRow, _: Glyphs) -> Cell:
    return Cell(text=row.value.verdict.reason if row.value.up else row.value.problem, style=QUIET)


GPU_COLUMNS: Sequence[Column[GpuPicture]] = (
    Column(title="GPU", width=5, cell=lambda row, _: Cell(text=row.value.number)),
    Column(title="bound by", width=16, cell=_gpu_bound),
    Column(
        title="sure",
        width=5,
        right=True,
        from_width=92,
        cell=lambda row, _: _percent(row.value.verdict.confidence_ratio if row.value.up else None),
    ),
    Column(title="roof", width=5, right=True, cell=lambda row, _: _percent(row.value.attained_ratio)),
    Column(title="DRAM", width=18, cell=lambda row, glyphs: _activity(row.value.dram, glyphs)),
    Column(title="tensor", width=18, cell=lambda row, glyphs: _activity(row.value.tensor, glyphs)),
    Column(title="power", width=9, right=True, from_width=104, cell=_power),
    Column(title="heat", width=6, right=True, from_width=112, cell=_temperature),
    Column(title="state", width=9, cell=_gpu_state),
    Column(title="because", width=20, from_width=150, takes_rest=1, cell=_gpu_reason),
)
ENGINE_COLUMNS: Sequence[Column[EnginePicture]] = (
    Column(title="GPU", width=5, cell=_engine_gpus),
    Column(title="engine", width=14, takes_rest=1, cell=_engine_name),
    Column(title="server", width=21, from_width=112, cell=_server),
    Column(title="bound by", width=16, from_width=100, cell=_engine_bound),
    Column(title="batch", width=5, right=True, cell=lambda row, _: _number(row.value.batch)),
    Column(title="ridge", width=6, right=True, cell=_ridge),
    Column(title="KV max", width=6, right=True, cell=lambda row, _: _number(row.value.limited_batch)),
    Column(title="KV free", width=7, right=True, cell=_headroom),
    Column(title="limiter", width=12, cell=_limiter),
    Column(title="tok/s", width=6, right=True, cell=_rate),
    Column(title="$/M", width=6, right=True, cell=_cost),
    Column(title="because", width=20, from_width=150, takes_rest=3, cell=_engine_reason),
)

# --- order -----------------------------------------------------------------------------------------

Value = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """A way to sort; `None` leaves that half of the table in the node's order."""

    name: str
    gpu: Callable[[GpuPicture], Value] | None = None
    engine: Callable[[EnginePicture], Value] | None = None


def _trouble(row: GpuPicture | EnginePicture) -> float:
    """The worst first."""
    if not row.up:
        return 0
    if isinstance(row, GpuPicture) and (row.faults or row.throttle):
        return 1 if row.faults else 3
    if row.verdict.bottleneck == "unknown":
        return 2
    if isinstance(row, EnginePicture) and row.limiter in ("kv_cache", "max_num_seqs"):
        return 3
    return 4


def _less(value: float | None) -> float | None:
    return None if value is None else -value


SORTS: Sequence[Sort] = (
    Sort(name="as on the node"),
    Sort(name="worst first", gpu=_trouble, engine=_trouble),
    Sort(name="bound by", gpu=lambda gpu: gpu.verdict.bottleneck, engine=lambda e: e.verdict.bottleneck),
    Sort(name="least of the roof", gpu=lambda gpu: gpu.attained_ratio),
    Sort(name="most DRAM", gpu=lambda gpu: _less(gpu.dram.value if gpu.dram is not None else None)),
    Sort(name="most tensor", gpu=lambda gpu: _less(gpu.tensor.value if gpu.tensor is not None else None)),
    Sort(name="least KV free", engine=lambda engine: engine.headroom_ratio),
    Sort(name="most tokens/s", engine=lambda engine: _less(engine.generation_tokens_per_second)),
    Sort(name="dearest tokens", engine=lambda engine: _less(engine.usd_per_million_tokens)),
)


def arranged(
    node: NodePicture, *, sort: Sort, reverse: bool, words: str
) -> tuple[tuple[GpuRow, ...], tuple[EngineRow, ...]]:
    """The rows in which each of the words stands, in order; what a value is not known of comes last."""
    gpus = [row for row in gpu_rows(node) if _found(words, _gpu_words(row))]
    engines = [row for row in engine_rows(node) if _found(words, _engine_words(row))]
    return _sorted(gpus, sort.gpu, reverse=reverse), _sorted(engines, sort.engine, reverse=reverse)


def _sorted(
    rows: Sequence[Row[T]], value_of: Callable[[T], Value] | None, *, reverse: bool
) -> tuple[Row[T], ...]:
    if value_of is None:
        return tuple(reversed(rows)) if reverse else tuple(rows)
    values: list[tuple[Any, Row[T]]] = [(value_of(row.value), row) for row in rows]
    known: list[tuple[Any, Row[T]]] = [pair for pair in values if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=reverse)
    unknown: list[tuple[Any, Row[T]]] = [pair for pair in values if pair[0] is None]
    return tuple(pair[1] for pair in (*known, *unknown))


def _found(words: str, texts: Sequence[str]) -> bool:
    told = "\n".join(texts).casefold()
    return all(word in told for word in words.casefold().split())


def _gpu_words(row: GpuRow) -> Sequence[str]:
    gpu = row.value
    state = "" if gpu.up else "lost"
    engines = [f"{engine.model} {engine.server}" for engine in row.node.engines_on(gpu)]
    return (
        *(f"gpu {gpu.number}", gpu.name, gpu.uuid, gpu.verdict.bottleneck, _gpu_bound(row, _ANY).text, state),
        *(gpu.throttle and f"throttled {gpu.throttle}", *gpu.faults, *engines),
    )


def _engine_words(row: EngineRow) -> Sequence[str]:
    engine = row.value
    numbers = [f"gpu {gpu.number}" for gpu in row.node.gpus_of(engine)]
    return (
        *(engine.model, engine.server, engine.software, engine.container, engine.limiter),
        *(engine.verdict.bottleneck, _engine_bound(row, _ANY).text, *numbers),
    )


_ANY = Glyphs()
