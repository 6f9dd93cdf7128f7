"""Queries, from the table of metrics: a name that is not in it fails where the board is written.

Each selects by the board's variables, so that no query shows more than what was chosen above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.metrics import TABLE
from dashboards.units import COUNT, OF_A_GAUGE, OF_A_RATE, SINCE, Unit

SCOPE = ("cluster", "job", "instance")
"""The labels that every series has, or may have: `cluster` only where somebody attached it."""


AGENTS = "roofline_build_info"
"""Each agent has it, and nothing else."""


def regex_matcher(label: str, variable: str | None = None) -> str:
    """The label as chosen in the variable of that name."""
    return f'{label}=~"${variable or label}"'


def selector(*matchers: str, **labels: str) -> str:
    """The board's scope, and further matchers: whole ones, or labels with the value they must have.

    A value that holds a variable or an alternative is a regular expression.
    """
    parts = [regex_matcher(label) for label in SCOPE]
    parts += matchers
    parts += [
        f'{label}=~"{value}"' if "$" in value or "|" in value else f'{label}="{value}"'
        for label, value in labels.items()
    ]
    return f"{{{','.join(parts)}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One metric, and how a board asks for it."""

    full_name: str
    help: str
    unit: Unit
    rate_unit: Unit
    """Of `rate`."""
    base_unit: str = ""
    """As in the table."""
    ours: bool = True
    """If not, other jobs have a metric of that name too, and only the agents' series are asked for."""

    def where(self, *matchers: str, **labels: str) -> str:
        """The series now."""
        return self._of_agents(self._series(*matchers, **labels))

    def rate(self, *matchers: str, **labels: str) -> str:
        """What a counter grows by in a second."""
        return self._of_agents(f"rate({self._series(*matchers, **labels)}[$__rate_interval])")

    def increase(self, *matchers: str, over: str = "$__rate_interval", **labels: str) -> str:
        """What a counter grew by in a window."""
        return self._of_agents(f"increase({self._series(*matchers, **labels)}[{over}])")

    def age(self, *matchers: str, **labels: str) -> str:
        """Seconds since a timestamp."""
        return f"time() - {self.where(*matchers, **labels)}"

    def behind(self, *matchers: str, **labels: str) -> str:
        """By how much a timestamp was old when it was scraped: that may be a minute ago itself."""
        now = self.where(*matchers, **labels)
        return f"timestamp({now}) - {now}"

    def part(self, part: str) -> Quantity:
        """The `bucket`, `sum` or `count` of a histogram."""
        counted = self.base_unit if part == "sum" else ""
        return replace(
            self,
            full_name=f"{self.full_name}_{part}",
            unit=OF_A_GAUGE[counted],
            rate_unit=OF_A_RATE[counted],
        )

    def _series(self, *matchers: str, **labels: str) -> str:
        return self.full_name + selector(*matchers, **labels)

    def _of_agents(self, expr: str) -> str:
        # A day, because an agent that is down is still one of ours.
        agents = f"last_over_time({AGENTS}{selector()}[1d])"
        return expr if self.ours else f"({expr} and on ({', '.join(SCOPE)}) {agents})"

    def tells(self, what_to_do: str) -> str:
        """A panel's description: what it is, by the table, then what to do."""
        return f"{self.help} {what_to_do}"


def _is_timestamp(name: str) -> bool:
    return name.endswith(("timestamp_seconds", "start_time_seconds"))


OURS: Mapping[str, Quantity] = {
    metric.name: Quantity(
        full_name=metric.full_name,
        help=metric.help,
        unit=SINCE if _is_timestamp(metric.name) else OF_A_GAUGE[metric.unit],
        rate_unit=OF_A_RATE.get(metric.unit, COUNT),
        base_unit=metric.unit,
    )
    for metric in TABLE
}

BESIDE: Mapping[str, Quantity] = {
    name: Quantity(
        full_name=name,
        help=text,
        unit=OF_A_GAUGE[unit] if not _is_timestamp(name) else SINCE,
        rate_unit=OF_A_RATE.get(unit, COUNT),
        base_unit=unit,
        ours=False,
    )
    for name, unit, text in (
        ("up", "", "1 if Prometheus could scrape the agent."),
        ("scrape_duration_seconds", "s", "How long Prometheus's scrape took."),
        ("scrape_samples_scraped", "", "Series on the agent's page."),
        ("process_cpu_seconds_total", "s", "CPU time of the agent's process."),
        ("process_resident_memory_bytes", "bytes", "Resident memory of the agent's process."),
        ("process_start_time_seconds", "s", "When the agent's process started."),
        ("process_open_fds", "", "File descriptors that the agent has open."),
    )
}
"""What stands on the page or in Prometheus beside our table: the client library's and the scrape's own."""


def metric(name: str) -> Quantity:
    """A row of the table, by its name without the prefix, or one of the few metrics beside it."""
    found = OURS.get(name) or BESIDE.get(name)
    if found is None:
        raise LookupError(f"no metric is called {name}; agent/metrics.py has those that are")
    return found


def recorded(name: str, *, unit: Unit, help: str) -> Quantity:  # noqa: A002  # as in the table
    """What a recording rule of ours writes."""
    if not name.startswith("roofline:"):
        raise LookupError(f"{name} is no name of a recording rule of ours")
    return Quantity(full_name=name, help=help, unit=unit, rate_unit=COUNT)


def by_labels(labels: str) -> str:
    """What follows `sum`, which is of all where there are no labels."""
    return f"by ({labels}) " if labels else ""


def summed(increases: Quantity, labels: str, over: str = "$__range", /, **chosen: str) -> str:
    """The sum of recorded increases over a time, by labels or of all."""
    return f"sum {by_labels(labels)}(sum_over_time({increases.where(**chosen)}[{over}]))"


def counted(quantity: Quantity, by: str, *matchers: str, over: str = "$__rate_interval") -> str:
    """Events by a label whose values appear with their first event, which is no increase of anything."""
    where = quantity.where(*matchers)
    return (
        f"(sum by ({by}) ({quantity.increase(*matchers, over=over)}) > 0"
        f" or (max by ({by}) ({where}) > 0 unless on ({by}) {where} offset {over}))"
    )


def milliseconds(seconds: str) -> str:
    """A timestamp as Grafana's dates want it."""
    return f"{seconds} * 1000"


def one_hot_code(quantity: Quantity, label: str, states: Mapping[str, int], by: str, **labels: str) -> str:
    """Of a metric that is 1 for one value of a label and 0 for the others: that value's number.

    A state timeline draws one series for each GPU, so the states must become one number.
    """
    parts = (f"{code} * {quantity.where(**labels, **{label: state})}" for state, code in states.items())
    return f"sum by ({by}) ({' or '.join(parts)})"
