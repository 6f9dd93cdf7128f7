"""The figures of a run: each beside a peer's as a ratio, or beside what was promised of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row."""

    what: str
    agent: float
    unit: str
    peer: float | None = None
    """The same of who stands beside it in its section."""
    budget: float | None = None
    """What the agent's figure was promised not to exceed."""
    ratio_budget: float | None = None
    """… and its ratio to the peer's."""

    @property
    def ratio(self) -> float | None:
        """The agent's to the peer's."""
        return self.agent / self.peer if self.peer else None

    @property
    def kept(self) -> bool | None:
        """Whether all that was promised of it holds; `None`: nothing was."""
        promised = [
            value <= most
            for value, most in ((self.agent, self.budget), (self.ratio, self.ratio_budget))
            if value is not None and most is not None
        ]
        return all(promised) if promised else None

    @property
    def promised(self) -> str:
        """In words."""
        parts = [f"≤ {self.budget:g} {self.unit}"] if self.budget is not None else []
        parts += [f"ratio ≤ {self.ratio_budget:g}"] if self.ratio_budget is not None else []
        return ", ".join(parts)


class Table:
    """Prints each section's rows as they come, and remembers them."""

    def __init__(self) -> None:
        self.sections: dict[str, list[Figure]] = {}
        self._peers: dict[str, str] = {}
        self._rows: list[Figure] = []

    def section(self, title: str, *, peer: str = "") -> None:
        """What follows is of this, and beside this peer."""
        self._rows = self.sections[title] = []
        self._peers[title] = peer
        print(f"\n{title:52}{'agent':>10}{peer:>18}{'ratio' if peer else '':>8}", flush=True)

    def add(self, *figures: Figure) -> None:
        """Print them."""
        for figure in figures:
            self._rows.append(figure)
            print(_line(figure), flush=True)

    @property
    def missed(self) -> Iterator[Figure]:
        """What was promised and does not hold."""
        return (one for rows in self.sections.values() for one in rows if one.kept is False)

    def document(self) -> dict[str, list[dict[str, Any]]]:
        """For `--json`."""
        return {
            title: [{**asdict(one), "ratio": one.ratio, "kept": one.kept} for one in rows]
            for title, rows in self.sections.items()
        }

    def markdown(self) -> str:
        """For docs/overhead.md."""
        parts = []
        for title, rows in self.sections.items():
            peer = self._peers[title]
            names = ["agent", *([peer, "ratio"] if peer else []), "promised"]
            names = names if any(one.promised for one in rows) else names[:-1]
            lines = [f"| {title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            for one in rows:
                cells = [f"{_digits(one.agent)} {one.unit}".strip()]
                if peer:
                    cells += [
                        _digits(one.peer) if one.peer is not None else "",
                        _digits(one.ratio) if one.ratio is not None else "",
                    ]
                if names[-1] == "promised":
                    judged = {True: ": kept", False: ": **missed**", None: ""}[one.kept]
                    cells.append(one.promised + judged)
                lines.append(f"| {one.what} | {' | '.join(cells)} |")
            parts.append("\n".join(lines) + "\n")
        return "\n".join(parts)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(figure: Figure) -> str:
    ratio = figure.ratio
    beside = f"{figure.peer:>18.2f}" if figure.peer is not None else f"{'':18}"
    compared = f"{ratio:>8.3f}" if ratio is not None else f"{'':8}"
    judged = ""
    if figure.kept is not None:
        judged = f"   {'kept' if figure.kept else 'MISSED'}: {figure.promised}"
    return f"  {figure.what:50}{figure.agent:>10.2f}{beside}{compared}  {figure.unit}{judged}".rstrip()
