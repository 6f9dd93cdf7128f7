"""Answers: numbers by labels and by the step of time that each is of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.report.period import Span
from agent.report.questions import BY_ID, Question

Key = tuple[str, ...]
"""Values of labels, in the order in which they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What is not known, and why."""

    span: Span
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one question."""

    question: Question
    rows: Mapping[Key, Mapping[int, float]]
    """By the values of `question.by`: the number of each step, by the Unix time at which it begins."""
    missing: tuple[Piece, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def total(self) -> float | None:
        """Everything; `None` when there was nothing of the kind."""
        return self._combined(self.rows.values()) if self.rows else None

    def value(self, **labels: str) -> float | None:
        """Of all series with these labels; `None` when there is none."""
        rows = [row for key, row in self.rows.items() if self._matches(key, labels)]
        return self._combined(rows) if rows else None

    def amount(self, **labels: str) -> float:
        """The same of what is nothing where nobody counted any."""
        return self.value(**labels) or 0.0

    def by(self, *labels: str, **chosen: str) -> dict[Key, float]:
        """The period's numbers, by these labels."""
        return {key: self._combined(rows) for key, rows in self._grouped(labels, chosen).items()}

    def steps(self, *labels: str, **chosen: str) -> dict[Key, dict[int, float]]:
        """The numbers of each step, by these labels."""
        found: dict[Key, dict[int, float]] = {}
        for key, rows in self._grouped(labels, chosen).items():
            row: dict[int, float] = {}
            for each in rows:
                for at, value in each.items():
                    row[at] = self._merge(row[at], value) if at in row else value
            found[key] = row
        return found

    def _grouped(
        self, labels: Iterable[str], chosen: Mapping[str, str]
    ) -> dict[Key, list[Mapping[int, float]]]:
        places = [self.question.by.index(label) for label in labels]
        found: defaultdict[Key, list[Mapping[int, float]]] = defaultdict(list)
        for key, row in self.rows.items():
            if self._matches(key, chosen):
                found[tuple(key[place] for place in places)].append(row)
        return found

    def _matches(self, key: Key, labels: Mapping[str, str]) -> bool:
        return all(key[self.question.by.index(label)] == value for label, value in labels.items())

    def _combined(self, rows: Iterable[Mapping[int, float]]) -> float:
        if self.question.over_time == "last":
            return max((max(row.items()) for row in rows if row), default=(0, 0.0))[1]
        values: Iterator[float] = (value for row in rows for value in row.values())
        return max(values, default=0.0) if self.question.over_time == "max" else sum(values)

    @property
    def _merge(self) -> Callable[[float, float], float]:
        return (lambda a, b: a + b) if self.question.over_time in ("sum", "count") else max


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All of a period."""

    span: Span
    by_id: Mapping[str, Answer] = field(default_factory=dict)

    def __getitem__(self, question: str) -> Answer:
        found = self.by_id.get(question)
        return Answer(question=BY_ID[question], rows={}) if found is None else found

    def lack(self, *questions: str) -> bool:
        """Whether a piece of any of these was not answered: sums are too small, quotients may be wrong."""
        return any(self[question].missing for question in questions)

    @property
    def are_complete(self) -> bool:
        """Whether everything that was asked was answered."""
        return not self.lack(*self.by_id)
