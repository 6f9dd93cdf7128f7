"""The charts of a review, each for a wide and for a narrow page.

No chart is the only carrier of what it shows: beside each stands a table, and in each a description. Labels
stand at what they name; there are no legends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from agent.report.document import ClassTime, Review, Roofline, Service, Trend
from agent.report.render.operation import drawn_rooflines, memory_side_ratio, slo_words
from agent.report.render.spending import classes_of, has_prices
from agent.report.render.vector import (
    CLASS_COLOURS,
    COLOURS,
    SMALL_SIZE,
    Canvas,
    Picture,
    draw,
    plot,
    spread,
    text_width,
)
from agent.report.render.words import (
    CLASS_WORDS,
    amount,
    counted,
    hours,
    money,
    percent,
    service_names,
    short_day,
    shortened,
)
from agent.units import render_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW, HALF = 860.0, 400.0, 424.0
"""How wide charts are drawn, in CSS pixels."""
SERVICES = 14
"""So many services, objectives and GPU types a chart shows; the table beside it has all."""
TRENDS = 9

_WIDTHS: tuple[tuple[Literal["wide", "narrow"], float], ...] = (("wide", WIDE), ("narrow", NARROW))


def draw_charts(review: Review) -> Mapping[str, tuple[Picture, ...]]:
    """All charts by their names; one without anything to show is not there."""
    drawn: dict[str, tuple[Picture, ...]] = {}
    for make in (_parts, _classes, _days, _trends_usd, _trends_joules, _batch, _slos):
        pictures = make(review)
        if pictures:
            drawn[pictures[0].name] = pictures
    for number, roofline in enumerate(drawn_rooflines(review)):
        drawn[f"roofline_{number}"] = (_roofline(f"roofline_{number}", roofline),)
    return drawn


def _both(
    name: str,
    title: str,
    description: str,
    height_of: Callable[[float], float],
    paint: Callable[[Figure], None],
) -> tuple[Picture, ...]:
    return tuple(
        draw(
            paint,
            name=name,
            kind=kind,
            size=(width, height_of(width)),
            title=title,
            description=description,
        )
        for kind, width in _WIDTHS
    )


def _is_narrow(width: float) -> bool:
    return width < HALF


# --- where hours went ---------------------------------------------------------------------------------


def _parts(review: Review) -> tuple[Picture, ...]:
    """One bar for all GPUs and one for each type, all in the same hours."""
    total = {each.name: each.gpu_hours for each in review.classes}
    longest = sum(total.values())
    if longest <= 0:
        return ()
    rows = [(each.part, each.hours_by_class) for each in review.parts[:SERVICES] if each.gpu_hours > 0]
    described = ", ".join(
        f"{CLASS_WORDS[name]} {percent(part / longest)}" for name, part in classes_of(total)
    )
    top, first, other = 40.0, 30.0, 46.0

    def paint(figure: Figure) -> None:
        canvas = Canvas(figure)
        scale = canvas.width / longest
        _stack(canvas, total, 0, top, first, scale)
        _label_stack(canvas, total, top, scale)
        y = top + first + 12
        for name, by_class in rows if len(rows) > 1 else ():
            whole = sum(by_class.values())
            name = shortened(name, 30)
            words = f"{name}: {hours(whole)}, {percent(by_class.get('idle', 0.0) / whole)} idle"
            canvas.text(0, y + 14, words, colour=COLOURS["muted"])
            _stack(canvas, by_class, 0, y + 20, 14, scale)
            y += other

    height = top + first + 4 + (len(rows) * other + 6 if len(rows) > 1 else 0)
    return _both("parts", "GPU hours by class and GPU type", f"{described}.", lambda _: height, paint)


def _stack(
    canvas: Canvas, by_class: Mapping[str, float], x: float, y: float, height: float, scale: float
) -> None:
    for name, part in classes_of(dict(by_class)):
        canvas.bar(x, y, part * scale, height, CLASS_COLOURS[name])
        x += part * scale


def _label_stack(canvas: Canvas, by_class: Mapping[str, float], y: float, scale: float) -> None:
    """Names above the pieces that are wide enough for them; the chart after this one names all."""
    whole = sum(by_class.values())
    x = free = 0.0
    for name, part in classes_of(dict(by_class)):
        share = percent(part / whole)
        room = max(text_width(CLASS_WORDS[name], SMALL_SIZE), text_width(share)) + 6
        start, end = max(x, free), x + part * scale
        if start + room <= end or (start == x and end - x >= 34 and x + room <= canvas.width):
            canvas.text(start, y - 20, share, bold=True)
            canvas.text(start, y - 6, CLASS_WORDS[name], size=SMALL_SIZE, colour=COLOURS["muted"])
            free = start + room
        x += part * scale


def _classes(review: Review) -> tuple[Picture, ...]:
    """One bar for each class, the longest first: of money where there are prices, else of hours."""
    priced = has_prices(review)

    def size(each: ClassTime) -> float:
        return (each.usd or 0.0) if priced else each.gpu_hours

    shown = sorted((each for each in review.classes if size(each) > 0), key=lambda each: -size(each))
    if not shown:
        return ()
    before = {each.name: each.previous_ratio for each in shown} if not priced else {}
    longest = max(size(each) for each in shown)
    per_ratio = longest / max(each.ratio for each in shown) if not priced else 0.0
    longest = max([longest] + [ratio * per_ratio for ratio in before.values() if ratio is not None])
    described = "; ".join(
        f"{CLASS_WORDS[each.name]} {_class_amount(each, priced)}, {hours(each.gpu_hours)}" for each in shown
    )
    row = 27.0

    def paint(figure: Figure) -> None:
        canvas = Canvas(figure)
        left = 122.0
        room = canvas.width - left - (92 if _is_narrow(canvas.width) else 190)
        for number, each in enumerate(shown):
            y = number * row + 3
            canvas.text(left - 10, y + 15, CLASS_WORDS[each.name], anchor="right")
            end = size(each) / longest * room
            canvas.bar(left, y, end, 20, CLASS_COLOURS[each.name])
            ratio = before.get(each.name)
            if ratio is not None:
                at = ratio * per_ratio / longest * room
                canvas.line((left + at, y - 2), (left + at, y + 22), colour=COLOURS["ink"], width=1.5)
                end = max(end, at)
            main = _class_amount(each, priced)
            x = left + end + 8
            canvas.text(x, y + 15, main, bold=True)
            if not _is_narrow(canvas.width):
                rest = f"{percent(each.ratio)}, {hours(each.gpu_hours)}" if priced else percent(each.ratio)
                canvas.text(x + text_width(main) * 1.14 + 6, y + 15, rest, colour=COLOURS["muted"])

    title = "What each class cost" if priced else "What each class took"
    return _both("classes", title, f"{described}.", lambda _: len(shown) * row + 2, paint)


def _class_amount(each: ClassTime, priced: bool) -> str:
    return money(each.usd or 0.0) if priced else hours(each.gpu_hours)


def _days(review: Review) -> tuple[Picture, ...]:
    """A column for each day."""
    days = review.days
    if not any(hours > 0 for each in days for hours in each.hours_by_class.values()):
        return ()
    total = {each.name: each.gpu_hours for each in review.classes}
    names = [name for name, _ in classes_of(total)]
    highest = max(days, key=lambda each: each.gpu_hours)
    described = (
        f"{counted(len(days), 'day')}; the most, {hours(highest.gpu_hours)}, on {short_day(highest.date)}; "
        f"{counted(sum(each.coverage_ratio < 0.995 for each in days), 'day')} not wholly recorded."
    )

    def paint(figure: Figure) -> None:
        axes = plot(figure, left=42, top=26, right=116, bottom=24)
        floor = [0.0] * len(days)
        for name in names:
            heights = [each.hours_by_class.get(name, 0.0) for each in days]
            colour, opacity = CLASS_COLOURS[name]
            axes.bar(
                range(len(days)), heights, bottom=floor, width=0.84, color=colour, alpha=opacity, linewidth=0
            )
            floor = [below + height for below, height in zip(floor, heights, strict=True)]
        top = max(floor) * 1.02
        axes.set_xlim(-0.5, len(days) - 0.5)
        axes.set_ylim(0, top)
        _few_ticks(axes, top)
        _day_ticks(axes, [short_day(each.date) for each in days], narrow=figure.get_figwidth() * 72 < HALF)
        axes.text(-0.5, top * 1.045, "GPU hours", color=COLOURS["muted"], fontsize=SMALL_SIZE)
        for number, (each, height) in enumerate(zip(days, floor, strict=True)):
            if each.coverage_ratio < 0.995:
                axes.text(
                    number,
                    height + top * 0.015,
                    percent(each.coverage_ratio),
                    ha="center",
                    color=COLOURS["alarm"],
                    fontsize=9,
                    fontweight="bold",
                )
        _label_last(axes, review, names, top)

    return _both("days", "GPU hours day by day, by class", described, lambda _: 270.0, paint)


def _label_last(axes: Axes, review: Review, names: Sequence[str], top: float) -> None:
    """The names of the classes right of the last column that has any."""
    last = next(each for each in reversed(review.days) if any(each.hours_by_class.values()))
    height = 220.0
    middles, below = [], 0.0
    for name in names:
        part = last.hours_by_class.get(name, 0.0)
        middles.append((below + part / 2) / top * height)
        below += part
    for name, middle, place in zip(names, middles, spread(middles, 14.5, 4.0, height), strict=True):
        colour, opacity = CLASS_COLOURS[name]
        x = len(review.days) - 0.5
        per_pixel = len(review.days) / (axes.get_window_extent().width or 1)
        axes.plot(
            (x + 3 * per_pixel, x + 14 * per_pixel),
            (middle / height * top, place / height * top),
            color=colour,
            alpha=max(opacity, 0.7),
            linewidth=1.5,
        )
        axes.text(
            x + 19 * per_pixel, place / height * top, CLASS_WORDS[name], va="center", fontsize=SMALL_SIZE
        )


def _few_ticks(axes: Axes, top: float) -> None:
    """Three or four round numbers up the side, with thin lines."""
    step = 10 ** math.floor(math.log10(top))
    for divisor in (1, 2, 5, 10):
        if top / (step / divisor) >= 2.5:
            step /= divisor
            break
    ticks = [step * number for number in range(math.floor(top / step) + 1)]
    axes.set_yticks(ticks, [amount(tick) for tick in ticks])
    axes.grid(axis="y", color=COLOURS["line"], linewidth=1)


def _day_ticks(axes: Axes, days: Sequence[str], *, narrow: bool) -> None:
    every = 7 if len(days) > 10 else 1 if not narrow else 3
    ticks = list(range(0, len(days), every))
    axes.set_xticks(ticks, [days[tick] for tick in ticks])


# --- trends -------------------------------------------------------------------------------------------


def _key(of: Trend | Service) -> tuple[str, ...]:
    return (of.cluster, of.model, of.engine, of.part, of.namespace)


def _trends_usd(review: Review) -> tuple[Picture, ...]:
    if not has_prices(review):
        return ()
    before = {_key(each): each.previous_usd_per_million_tokens for each in review.services}
    series = [(each, each.usd_per_million_tokens, before.get(_key(each))) for each in review.trends]
    return _trends(review, "trends_usd", "$ per million tokens, day by day", series, money)


def _trends_joules(review: Review) -> tuple[Picture, ...]:
    before = {_key(each): each.previous_joules_per_million_tokens for each in review.services}
    series = [(each, each.joules_per_million_tokens, before.get(_key(each))) for each in review.trends]
    return _trends(
        review,
        "trends_joules",
        "Joules per million tokens, day by day",
        series,
        lambda joules: render_quantity(joules, "J"),
    )


def _trends(
    review: Review,
    name: str,
    title: str,
    series: Sequence[tuple[Trend, Sequence[float | None], float | None]],
    write: Callable[[float], str],
) -> tuple[Picture, ...]:
    """A small plot for each service, each with its own scale."""
    full = [each for each in series if any(value is not None for value in each[1])]
    if not full or len(review.days) < 2:
        return ()
    names = dict(
        zip((_key(each[0]) for each in full), service_names([each[0] for each in full]), strict=True)
    )
    full = full[:TRENDS]
    described = "; ".join(
        f"{names[_key(trend)]} from {write(known[0])} to {write(known[-1])}, at most {write(max(known))}"
        for trend, values, _ in full
        if (known := [value for value in values if value is not None])
    )
    panel = 144.0

    def columns(width: float) -> int:
        return min(len(full), 2 if width < HALF else 3)

    def paint(figure: Figure) -> None:
        width = float(figure.get_figwidth()) * 72
        height = float(figure.get_figheight()) * 72
        across = columns(width)
        each_width = width / across
        for number, (trend, values, before) in enumerate(full):
            left, top = number % across * each_width, number // across * panel
            axes = plot(
                figure,
                left=left + 2,
                top=top + 36,
                right=width - left - each_width + 62,
                bottom=height - top - panel + 24,
            )
            label = shortened(names[_key(trend)], int((each_width - 12) / 7.6))
            _trend(axes, review, values, before, write, label)

    def height_of(width: float) -> float:
        return math.ceil(len(full) / columns(width)) * panel

    return _both(name, title, f"{described}.", height_of, paint)


def _trend(
    axes: Axes,
    review: Review,
    values: Sequence[float | None],
    before: float | None,
    write: Callable[[float], str],
    label: str,
) -> None:
    known = [(number, value) for number, value in enumerate(values) if value is not None]
    top = max([value for _, value in known] + ([before] if before is not None else [])) * 1.05 or 1.0
    count = len(values)
    axes.set_xlim(0, max(count - 1, 1))
    axes.set_ylim(0, top)
    axes.set_yticks([])
    axes.set_xticks(
        [0, count - 1], [short_day(review.days[0].date), short_day(review.days[-1].date)], fontsize=9.5
    )
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.axhline(0, color=COLOURS["line"], linewidth=1)
    axes.annotate(
        label, (0, 1), (0, 19), xycoords="axes fraction", textcoords="offset points", fontweight="bold"
    )
    if before is not None:
        axes.axhline(before, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2.5)))
    line = [math.nan if value is None else value for value in values]
    axes.fill_between(range(count), line, color=COLOURS["track"], linewidth=0, zorder=0.5)
    axes.plot(
        range(count),
        line,
        color=COLOURS["ink"],
        linewidth=1.6,
        solid_joinstyle="round",
    )
    alone = [
        (number, value)
        for number, value in known
        if all(not 0 <= near < count or values[near] is None for near in (number - 1, number + 1))
    ]
    for number, value in alone:
        axes.plot([number], [value], marker="o", markersize=3, color=COLOURS["ink"])
    at, last = known[-1]
    axes.plot([at], [last], marker="o", markersize=5.5, color=COLOURS["ink"])
    axes.annotate(
        write(last), (at, last), (8, -4), textcoords="offset points", fontweight="bold", color=COLOURS["ink"]
    )
    peak_at, peak = max(known, key=lambda point: point[1])
    if peak > last * 1.15:
        axes.plot([peak_at], [peak], marker="o", markersize=4, color=COLOURS["muted"])
        place = peak_at / max(count - 1, 1)
        axes.annotate(
            write(peak),
            (peak_at, peak),
            (0, 4),
            textcoords="offset points",
            color=COLOURS["muted"],
            fontsize=SMALL_SIZE,
            ha="left" if place < 0.15 else "right" if place > 0.85 else "center",
        )


# --- the roofline -------------------------------------------------------------------------------------


def _roofline(name: str, roofline: Roofline) -> Picture:
    """Where a model was, in cells of a quarter of a decade."""
    total = sum(each.gpu_hours for each in roofline.cells)
    most = max(each.gpu_hours for each in roofline.cells)
    half = 10**0.125
    lowest_x = min(each.intensity_flops_per_byte for each in roofline.cells) / half
    highest_x = max(each.intensity_flops_per_byte for each in roofline.cells) * half
    lowest_y = min(each.flops_per_second for each in roofline.cells) / half
    ridge, roof = roofline.ridge_flops_per_byte, roofline.roof_flops_per_second
    x_ends = (10 ** math.floor(math.log10(lowest_x) + 1e-9), max(ridge * 6, highest_x * 1.2))
    y_ends = (10 ** math.floor(math.log10(lowest_y) + 1e-9), roof * 4)
    side = memory_side_ratio(roofline) or 0.0
    busiest = max(roofline.cells, key=lambda each: each.gpu_hours)
    described = (
        f"{hours(total)} at work, {percent(side)} of them below the ridge of {amount(ridge)} FLOP/byte; "
        f"most often near {amount(busiest.intensity_flops_per_byte)} FLOP/byte and "
        f"{render_quantity(busiest.flops_per_second, 'FLOP/s')}, under a roof of "
        f"{render_quantity(roof, 'FLOP/s')} and "
        f"{render_quantity(roofline.roof_dram_bytes_per_second, 'B/s')}."
    )

    def paint(figure: Figure) -> None:
        axes = plot(figure, left=46, top=44, right=8, bottom=40)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*x_ends)
        axes.set_ylim(*y_ends)
        _decade_ticks(axes, x_ends, y_ends)
        for cell in roofline.cells:
            below = cell.intensity_flops_per_byte < ridge
            axes.bar(
                cell.intensity_flops_per_byte / half,
                cell.flops_per_second * (half - 1 / half),
                bottom=cell.flops_per_second / half,
                width=cell.intensity_flops_per_byte * (half - 1 / half),
                align="edge",
                color=COLOURS["memory" if below else "compute"],
                alpha=round(0.10 + 0.90 * math.sqrt(cell.gpu_hours / most), 3),
                linewidth=0,
            )
        start = max(x_ends[0], y_ends[0] / roofline.roof_dram_bytes_per_second)
        axes.plot(
            (start, ridge, x_ends[1]),
            (start * roofline.roof_dram_bytes_per_second, roof, roof),
            color=COLOURS["ink"],
            linewidth=2,
            solid_joinstyle="round",
        )
        axes.plot(
            (ridge, ridge), (y_ends[0], roof), color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 3))
        )
        for cell in roofline.cells:
            if cell.gpu_hours >= total * 0.03:
                axes.text(
                    cell.intensity_flops_per_byte,
                    cell.flops_per_second,
                    _brief(cell.gpu_hours),
                    ha="center",
                    va="center",
                    fontsize=9.5,
                    fontweight="bold",
                )
        _roofline_words(axes, roofline, x_ends, y_ends)

    return draw(
        paint,
        name=name,
        kind="any",
        size=(HALF, 330.0),
        title=f"Roofline of {roofline.model} on {roofline.part}",
        description=described,
    )


def _brief(gpu_hours: float) -> str:
    return f"{gpu_hours / 1000:.1f}k" if gpu_hours >= 1000 else f"{gpu_hours:.0f}"


def _decade_ticks(axes: Axes, x_ends: tuple[float, float], y_ends: tuple[float, float]) -> None:
    for axis, (low, high) in ((axes.xaxis, x_ends), (axes.yaxis, y_ends)):
        axis.set_ticks([], minor=True)
        decades = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        axis.set_ticks(
            [10.0**decade for decade in decades],
            [render_quantity(10.0**decade, "").replace(" ", "") for decade in decades],
        )
    axes.grid(which="major", color=COLOURS["line"], linewidth=1)


def _roofline_words(
    axes: Axes, roofline: Roofline, x_ends: tuple[float, float], y_ends: tuple[float, float]
) -> None:
    width, height = HALF - 54, 330.0 - 84
    rise = (height / math.log10(y_ends[1] / y_ends[0])) / (width / math.log10(x_ends[1] / x_ends[0]))
    axes.annotate(
        shortened(printable_name(roofline), int((HALF - 16) / 7.4)),
        (0, 1),
        (-40, 28),
        xycoords="axes fraction",
        textcoords="offset points",
        fontweight="bold",
    )
    axes.annotate(
        "FLOP/s of one GPU",
        (0, 1),
        (-40, 8),
        xycoords="axes fraction",
        textcoords="offset points",
        color=COLOURS["muted"],
        fontsize=SMALL_SIZE,
    )
    axes.annotate(
        "FLOP/byte",
        (1, 0),
        (0, -34),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        color=COLOURS["muted"],
        fontsize=SMALL_SIZE,
    )
    roof, bandwidth = roofline.roof_flops_per_second, roofline.roof_dram_bytes_per_second
    axes.annotate(
        f"{roofline.dtype} {render_quantity(roof, 'FLOP/s')}",
        (x_ends[1], roof),
        (-2, 6),
        textcoords="offset points",
        ha="right",
        fontsize=SMALL_SIZE,
        color=COLOURS["muted"],
    )
    start = max(x_ends[0], y_ends[0] / bandwidth) * 1.6
    axes.annotate(
        render_quantity(bandwidth, "B/s"),
        (start, start * bandwidth),
        (-4, 7),
        textcoords="offset points",
        fontsize=SMALL_SIZE,
        color=COLOURS["muted"],
        rotation=math.degrees(math.atan(rise)),
        rotation_mode="anchor",
    )
    axes.annotate(
        f"ridge {amount(roofline.ridge_flops_per_byte)}",
        (roofline.ridge_flops_per_byte, y_ends[0]),
        (4, 6),
        textcoords="offset points",
        fontsize=SMALL_SIZE,
        color=COLOURS["muted"],
    )


def printable_name(roofline: Roofline) -> str:
    """What a roofline is called above it."""
    return f"{roofline.model} on {roofline.part}"


# --- batch and objectives -----------------------------------------------------------------------------


def _batch(review: Review) -> tuple[Picture, ...]:
    """The mean batch in the band of what fits, and the ridge."""
    names = service_names(review.services)
    rows = [
        (name, each.batch)
        for name, each in zip(names, review.services, strict=True)
        if each.batch.mean is not None
    ][:SERVICES]
    if not rows:
        return ()
    values = [
        value
        for _, batch in rows
        for value in (batch.mean, batch.ridge, batch.kv_limit, batch.max_num_seqs)
        if value is not None and value > 0
    ]
    decades = math.ceil(math.log10(max([*values, 10.0])) + 0.02)
    described = "; ".join(
        f"{name}: mean {amount(batch.mean or 0)}"
        + (f", KV cache holds {amount(batch.kv_limit)}" if batch.kv_limit is not None else "")
        + (f", ridge {amount(batch.ridge)}" if batch.ridge is not None else ", no batch reaches the ridge")
        for name, batch in rows
    )

    def paint(figure: Figure) -> None:
        canvas = Canvas(figure)
        narrow = _is_narrow(canvas.width)
        left = 6.0 if narrow else 250.0
        row, top = (46.0, 30.0) if narrow else (32.0, 30.0)
        right = canvas.width - 16

        def x(value: float) -> float:
            return left + math.log10(max(value, 1.0)) / decades * (right - left)

        bottom = top + row * len(rows)
        for decade in range(decades + 1):
            canvas.line((x(10**decade), top - 6), (x(10**decade), bottom))
            anchor: Literal["left", "center", "right"] = (
                "left" if decade == 0 and narrow else "right" if decade == decades else "center"
            )
            canvas.text(
                x(10**decade),
                top - 12,
                amount(10**decade),
                anchor=anchor,
                size=SMALL_SIZE,
                colour=COLOURS["muted"],
            )
        for number, (name, batch) in enumerate(rows):
            y = top + row * number + (30 if narrow else 16)
            if narrow:
                canvas.text(0, y - 13, shortened(name, 52), size=SMALL_SIZE)
            else:
                canvas.text(0, y + 4, shortened(name, 33))
            limits = [limit for limit in (batch.kv_limit, batch.max_num_seqs) if limit is not None]
            if limits:
                canvas.bar(left, y - 6, x(min(limits)) - left + 1, 12, (COLOURS["track"], 1.0))
            if batch.max_num_seqs is not None:
                canvas.line(
                    (x(batch.max_num_seqs), y - 8),
                    (x(batch.max_num_seqs), y + 8),
                    colour=COLOURS["muted"],
                    width=1.5,
                )
            if batch.kv_limit is not None:
                canvas.line(
                    (x(batch.kv_limit), y - 8), (x(batch.kv_limit), y + 8), colour=COLOURS["ink"], width=2.5
                )
            if batch.ridge is not None:
                canvas.mark(x(batch.ridge), y, "D", colour=COLOURS["compute"], size=9)
            mean = batch.mean or 0.0
            canvas.mark(x(mean), y, "o", colour=COLOURS["memory"], size=12)
        y = bottom + 22
        place = left
        for shape, words in (
            ("o", "mean batch"),
            ("D", "ridge"),
            ("|", "KV cache is full"),
            ("¦", "max_num_seqs"),
        ):
            if shape in "oD":
                canvas.mark(
                    place + 5, y - 4, shape, colour=COLOURS["memory" if shape == "o" else "compute"], size=8
                )
            else:
                thick = shape == "|"
                canvas.line(
                    (place + 5, y - 11),
                    (place + 5, y + 3),
                    colour=COLOURS["ink" if thick else "muted"],
                    width=2.5 if thick else 1.5,
                )
            canvas.text(place + 15, y, words, size=SMALL_SIZE, colour=COLOURS["muted"])
            place += text_width(words, SMALL_SIZE) + (30 if narrow else 40)

    def height_of(width: float) -> float:
        return 30 + len(rows) * (46 if _is_narrow(width) else 32) + 32

    return _both(
        "batch", "Decode’s batch, against the ridge and the KV cache", f"{described}.", height_of, paint
    )


def _slos(review: Review) -> tuple[Picture, ...]:
    """How much of each budget was spent; what is far above it is cut, and says so."""
    rows = [(each, each.budget_spent_ratio) for each in review.slos if each.budget_spent_ratio is not None]
    rows = sorted(rows, key=lambda row: -row[1])[:SERVICES]
    if not rows:
        return ()
    longest = min(max(1.25, rows[0][1] * 1.02), 3.0)
    several = len({each.cluster for each, _ in rows}) > 1
    described = "; ".join(
        f"{each.model}, {slo_words(each.slo)}: {percent(spent)} of its budget" for each, spent in rows
    )

    def paint(figure: Figure) -> None:
        canvas = Canvas(figure)
        narrow = _is_narrow(canvas.width)
        left = 0.0 if narrow else 330.0
        row, top = (44.0 if narrow else 28.0), 26.0
        scale = (canvas.width - left - 74) / longest
        limit = left + scale
        for number, (each, spent) in enumerate(rows):
            y = top + number * row
            name = f"{each.model}{f', {each.cluster}' if several else ''}: {slo_words(each.slo)}"
            if narrow:
                canvas.text(0, y + 12, shortened(name, 54), size=SMALL_SIZE)
                y += 18
            else:
                canvas.text(0, y + 14, shortened(name, 48))
            length = min(spent, longest) * scale
            canvas.bar(left, y, scale, 18, (COLOURS["track"], 1.0))
            missed = each.is_missed
            canvas.bar(left, y, length, 18, (COLOURS["alarm" if missed else "muted"], 1.0))
            words = percent(spent) + (" →" if spent > longest else "")
            x = left + max(length, scale) + 8
            canvas.text(x, y + 14, words, bold=True, colour=COLOURS["alarm" if missed else "ink"])
        canvas.line((limit, top - 6), (limit, top + row * len(rows) - 4), colour=COLOURS["ink"], width=1.5)
        canvas.text(
            limit, top - 12, "the whole budget", anchor="right", size=SMALL_SIZE, colour=COLOURS["muted"]
        )

    def height_of(width: float) -> float:
        return 26 + len(rows) * (44 if _is_narrow(width) else 28) + 2

    return _both("slos", "Error budgets spent", f"{described}.", height_of, paint)
