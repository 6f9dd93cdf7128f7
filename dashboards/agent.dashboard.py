"""Agent health: whether what the other boards show can be believed now, and what the agent costs."""

from __future__ import annotations

from dashboards.board import board
from dashboards.layout import banner, row
from dashboards.panels import (
    Column,
    Query,
    names,
    stat,
    state_timeline,
    steps,
    table,
    time_series,
)
from dashboards.queries import metric
from dashboards.units import RATIO, SECONDS
from dashboards.variables import variables
from rules import thresholds

up = metric("up")
source_up = metric("source_up")
source_absent = metric("source_absent")
sample_age = metric("sample_age_seconds")
assessed_at = metric("assessment_timestamp_seconds")
read_duration = metric("source_read_duration_seconds")
reads = metric("source_reads_total")
failures = metric("source_read_failures_total")
malformed = metric("source_malformed_lines")
build = metric("build_info")
started_at = metric("process_start_time_seconds")
cpu = metric("process_cpu_seconds_total")
memory = metric("process_resident_memory_bytes")
samples = metric("scrape_samples_scraped")
scrape_duration = metric("scrape_duration_seconds")

UP = names({0: ("down", "red"), 1: ("up", "green")})
STALE_SECONDS = 90
"""Three of the slowest source's intervals, a dcgm-exporter's 30 s."""

dashboard = board(
    "agent",
    "Agent health",
    "Can the numbers be believed now? Each agent, what it reads and how old that is, and what the agent "
    "itself takes from its node.",
    banner(
        stat(
            "Agents down",
            Query(f"count({up.where()} == 0) or 0 * count({up.where()})"),
            description="Agents that Prometheus knows and cannot scrape. If any: the table says which; look "
            "at its pod or unit; nothing of that node is watched meanwhile.",
            thresholds=steps("green", (1, "red")),
            background=True,
        ),
        stat(
            "Sources failing",
            Query(f"count({source_up.where()} == 0) or 0 * count({source_up.where()})"),
            description=source_up.tells(
                "Absent sources are not counted. If any fail: the reasons are below, and the series of that "
                "source are gone from every board until it answers."
            ),
            thresholds=steps("green", (1, "orange")),
            background=True,
        ),
        stat(
            "Oldest sample",
            Query(f"max({sample_age.where()})"),
            unit=SECONDS,
            description=sample_age.tells(
                "Above 90 s no source can still be fresh: look which it is under Freshness, and whether its "
                "reads have become slow."
            ),
            thresholds=steps("green", (30, "orange"), (STALE_SECONDS, "red")),
        ),
        stat(
            "Malformed lines",
            Query(f"sum({malformed.where()})"),
            description=malformed.tells(
                "If not 0: the engine writes what nobody has seen yet. Save its page and report it; the rest "
                "of the page is read."
            ),
            thresholds=steps("green", (1, "orange")),
        ),
        stat(
            "CPU of the dearest agent",
            Query(f"max({cpu.rate()})", "CPU"),
            unit=cpu.rate_unit,
            description=cpu.tells(
                "The budget is 1 % of a core for 8 GPUs and 8 engines. Above it: raise "
                "engines_interval_seconds, and report what it watches."
            ),
            thresholds=steps(
                "green", (thresholds.BUDGET_CORES, "orange"), (10 * thresholds.BUDGET_CORES, "red")
            ),
            sparkline=True,
            decimals=2,
        ),
        stat(
            "Memory of the largest agent",
            Query(f"max({memory.where()})", "memory"),
            unit=memory.unit,
            description=memory.tells(
                "The budget is 60 MiB for 8 GPUs and 8 engines. If it climbs for hours: restart the agent, "
                "and report it with the number of engines that came and went."
            ),
            thresholds=steps(
                "green", (thresholds.BUDGET_BYTES, "orange"), (2 * thresholds.BUDGET_BYTES, "red")
            ),
            sparkline=True,
        ),
    ),
    row(
        "Agents",
        table(
            "Agents",
            Column("Up", f"max by (cluster, instance) ({up.where()})", mappings=[UP]),
            Column(
                "Behind",
                f"max by (cluster, instance) ({assessed_at.behind()})",
                unit=SECONDS,
                thresholds=steps("green", (thresholds.STALE_SECONDS.value, "red")),
            ),
            Column("Running for", f"max by (cluster, instance) ({started_at.age()})", unit=SECONDS),
            Column(
                "CPU",
                f"max by (cluster, instance) ({cpu.rate()})",
                unit=RATIO,
                thresholds=steps("green", (thresholds.BUDGET_CORES, "orange")),
                decimals=2,
            ),
            Column("Memory", f"max by (cluster, instance) ({memory.where()})", unit=memory.unit),
            Column("Series", f"max by (cluster, instance) ({samples.where()})"),
            Column("Scrape", f"max by (cluster, instance) ({scrape_duration.where()})", unit=SECONDS),
            labels={"instance": "Agent", "cluster": "Cluster"},
            sort_by="Up",
            descending=False,
            description="Every agent that Prometheus knows, the sick ones first. One that is up and behind "
            "has stopped assessing: restart it and keep its log.",
            width=16,
            height=9,
        ),
        table(
            "Versions",
            Column("Agents", f"count by (version) ({build.where()})"),
            labels={"version": "Version"},
            sort_by="Agents",
            description=build.tells(
                "More than one for longer than a rollout takes: some node keeps the old image; find it by "
                "the free filter on version."
            ),
            width=8,
            height=9,
        ),
    ),
    row(
        "Sources",
        state_timeline(
            "Sources",
            Query(f"max by (cluster, instance, source) ({source_up.where()})", "{{instance}} {{source}}"),
            mappings=[UP],
            description=source_up.tells(
                "A source that comes and goes is slow or restarts; one that stays down is misconfigured or "
                "gone. The failures beside it say which."
            ),
        ),
        time_series(
            "Failed reads by reason",
            Query(
                f"sum by (cluster, instance, source, reason) ({failures.rate()}) > 0",
                "{{instance}} {{source}}: {{reason}}",
            ),
            unit=failures.rate_unit,
            description=failures.tells(
                "refused: is the server up, with metrics on? timeout: is it overloaded? For anything else "
                "the agent's log has one line for each change."
            ),
        ),
        time_series(
            "Freshness",
            Query(f"max by (cluster, instance, source) ({sample_age.where()})", "{{instance}} {{source}}"),
            unit=SECONDS,
            description=sample_age.tells(
                "A saw-tooth up to the source's interval is right. A slope is a source that hangs: its "
                "series leave the page after three intervals."
            ),
            thresholds=steps("green", (STALE_SECONDS, "red")),
            lines_at_thresholds=True,
        ),
        time_series(
            "Time to read a source",
            Query(f"max by (cluster, instance, source) ({read_duration.where()})", "{{instance}} {{source}}"),
            unit=read_duration.unit,
            description=read_duration.tells(
                "An engine's page that takes 100 ms is rendered in its own event loop: read it less often, "
                "with engines_interval_seconds. NVML above 1 s is a driver in trouble."
            ),
        ),
    ),
    row(
        "Cost of watching",
        time_series(
            "CPU",
            Query(cpu.rate(), "{{instance}}"),
            unit=cpu.rate_unit,
            description=cpu.tells(
                "Share of one core; the line is the budget. Many engines or a short interval cost most."
            ),
            thresholds=steps("green", (thresholds.BUDGET_CORES, "orange")),
            lines_at_thresholds=True,
            width=8,
        ),
        time_series(
            "Memory",
            Query(memory.where(), "{{instance}}"),
            unit=memory.unit,
            description=memory.tells(
                "The line is the budget. A climb without end is a leak: report it with a copy of /metrics."
            ),
            thresholds=steps("green", (thresholds.BUDGET_BYTES, "orange")),
            lines_at_thresholds=True,
            width=8,
        ),
        time_series(
            "Series on the page",
            Query(samples.where(), "{{instance}}"),
            unit=samples.unit,
            description=samples.tells(
                "It grows with GPUs and engines, not with time. A climb with neither: find the label that "
                "grows with topk(10, count by (__name__) of this instance."
            ),
            width=8,
        ),
        collapsed=True,
    ),
    variables=variables(),
)
