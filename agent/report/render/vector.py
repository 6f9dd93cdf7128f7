"""Matplotlib's drawing as SVG that belongs to the page: its colours, its font, no id of its own.

Drawn is in stand-in colours, which become the page's CSS variables; so a chart is light or dark as the page
is. One unit is one CSS pixel. The same review gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from agent.errors import AgentError
from agent.report.document import UNALLOCATED
from agent.report.render.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT_SIZE = 12.0
SMALL_SIZE = 10.5
DOTS_PER_INCH = 72
"""At which one point of matplotlib is one unit of the drawing."""

_VARIABLES = (
    *("ink", "muted", "line", "track", "surface", "alarm"),
    *("memory", "compute", "interconnect", "kernel", "host", "idle", "unknown"),
)
COLOURS: Mapping[str, str] = {name: f"#0001{number:02x}" for number, name in enumerate(_VARIABLES, start=16)}
"""What stands for each CSS variable while matplotlib draws."""
CLASS_COLOURS: Mapping[str, tuple[str, float]] = {
    "memory_bandwidth": (COLOURS["memory"], 1.0),
    "compute": (COLOURS["compute"], 1.0),
    "interconnect": (COLOURS["interconnect"], 1.0),
    "kernel_latency": (COLOURS["kernel"], 1.0),
    "host": (COLOURS["host"], 1.0),
    "idle": (COLOURS["idle"], 0.45),
    "unknown": (COLOURS["unknown"], 1.0),
    UNALLOCATED: (COLOURS["track"], 1.0),
}
"""A class's colour and how opaque it is."""
_SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_STAND_IN = re.compile("|".join(COLOURS.values()))
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "roofline-agent",
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT_SIZE,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "axes.unicode_minus": True,
}

Anchor = Literal["left", "center", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawn chart for a page of one width."""

    name: str
    kind: Literal["wide", "narrow", "any"]
    svg: str


def require_drawing() -> None:
    """Raise `AgentError` where nothing can be drawn, with what to install."""
    try:
        import matplotlib as _  # noqa: F401 - whether it is there
    except ImportError as error:
        raise AgentError(
            "drawing the charts of a review: matplotlib is not installed; run "
            "pip install 'roofline-agent[report]', or choose another --format"
        ) from error


def draw(
    paint: Callable[[Figure], None],
    *,
    name: str,
    kind: Literal["wide", "narrow", "any"],
    size: tuple[float, float],
    title: str,
    description: str,
) -> Picture:
    """A chart of this width and height; who cannot see it is told the title and the description."""
    require_drawing()
    import matplotlib as mpl
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.text import Text

    width, height = size
    written = io.StringIO()
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # Names may have letters that the font measured with lacks; the browser has other fonts.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = NewFigure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
        figure.patch.set_visible(False)
        paint(figure)
        for artist in figure.findobj():
            artist.set_clip_on(False)  # each painter stays inside by itself
        for text in figure.findobj(Text):
            text.set_text(printable(text.get_text()))
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing)
    svg = _inline(written.getvalue(), key=f"chart-{name}-{kind}", title=title, description=description)
    return Picture(name=name, kind=kind, svg=svg)


def _inline(document: str, *, key: str, title: str, description: str) -> str:
    """What of a file is needed inside a page."""
    root = ElementTree.fromstring(document)  # noqa: S314 - just written here
    root.attrib = {
        "class": "chart",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-text",
    }
    for child in list(root):
        if child.tag in (f"{_SVG}defs", f"{_SVG}metadata"):
            root.remove(child)
    _without_references(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {
            name: _attribute(name, value)
            for name, value in element.attrib.items()
            if name != "id" and not (name == "transform" and value.startswith("rotate(-0 "))
        }
        element.tail = None
        if element.tag == "g" and not (element.text or "").strip():
            element.text = None
    heading = ElementTree.Element("title", {"id": f"{key}-title"})
    heading.text = printable(title)
    text = ElementTree.Element("desc", {"id": f"{key}-text"})
    text.text = printable(description)
    root[:0] = [heading, text]
    return ElementTree.tostring(root, encoding="unicode")


def _without_references(root: ElementTree.Element) -> None:
    """Markers are drawn where they are used: a page with many charts has no room for their names."""
    shapes = {f"#{path.attrib['id']}": path for path in root.iter(f"{_SVG}path") if "id" in path.attrib}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}defs":
                parent.remove(child)
            elif child.tag == f"{_SVG}use":
                shape = shapes[child.attrib["{http://www.w3.org/1999/xlink}href"]]
                place = f"translate({child.attrib['x']} {child.attrib['y']})"
                child.tag = f"{_SVG}path"
                child.attrib = {"d": shape.attrib["d"], "style": child.attrib["style"], "transform": place}


def _attribute(name: str, value: str) -> str:
    if name == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        value = _STAND_IN.sub(lambda found: f"var(--{_VARIABLES[int(found[0][-2:], 16) - 16]})", value)
        return value.strip()
    value = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(value.split())


# --- what painters use --------------------------------------------------------------------------------


def plot(figure: Figure, *, left: float, top: float, right: float, bottom: float) -> Axes:
    """A plot without a frame, so far from the edges of its figure, in its units."""
    width, height = figure.get_size_inches() * DOTS_PER_INCH
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_tick_params(
            which="both", length=0, labelcolor=COLOURS["muted"], labelsize=SMALL_SIZE, pad=5, left=False
        )
    axes.set_axisbelow(True)
    return axes


class Canvas:
    """A sheet on which x and y are the drawing's own units, y downwards."""

    def __init__(self, figure: Figure) -> None:
        self.width, self.height = (float(side) for side in figure.get_size_inches() * DOTS_PER_INCH)
        self._axes = figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, self.width)
        self._axes.set_ylim(self.height, 0)
        self._axes.axis("off")

    def bar(self, x: float, y: float, width: float, height: float, colour: tuple[str, float]) -> None:
        """A filled rectangle, from its upper left corner, with a little air around it."""
        self._axes.barh(
            y + height / 2,
            max(width - 1.0, 0.75),
            left=x,
            height=height,
            color=colour[0],
            alpha=colour[1],
            linewidth=0,
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: Anchor = "left",
        colour: str = COLOURS["ink"],
        size: float = TEXT_SIZE,
        bold: bool = False,
    ) -> None:
        """A line of text on this baseline."""
        self._axes.text(
            x,
            y,
            text,
            ha=anchor,
            va="baseline",
            color=colour,
            fontsize=size,
            fontweight="bold" if bold else "normal",
        )

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        colour: str = COLOURS["line"],
        width: float = 1.0,
        dashed: bool = False,
    ) -> None:
        """A straight line."""
        self._axes.plot(
            (start[0], end[0]),
            (start[1], end[1]),
            color=colour,
            linewidth=width,
            linestyle=(0, (2, 2.5)) if dashed else "solid",
            solid_capstyle="butt",
        )

    def mark(self, x: float, y: float, shape: str, *, colour: str, size: float, hollow: bool = False) -> None:
        """A marker of matplotlib's at one place."""
        self._axes.plot(
            [x],
            [y],
            marker=shape,
            markersize=size,
            markerfacecolor=COLOURS["surface"] if hollow else colour,
            markeredgecolor=colour if hollow else COLOURS["surface"],
            markeredgewidth=1.5,
            linestyle="none",
        )


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """About how wide a line of text is, a little generous."""
    return len(text) * size * 0.57


def spread(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved apart by at least `gap`, in their order, within the two ends where there is room."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap if moved else low))
    excess = (moved[-1] - high) if moved else 0.0
    for index in range(len(moved) - 1, -1, -1):
        limit = high if index == len(moved) - 1 else moved[index + 1] - gap
        if excess > 0:
            moved[index] = min(moved[index], limit)
    return moved
