"""What was paid, what it did, and what went by unused: by model, by part, by node, over any time."""

from __future__ import annotations

from dashboards.board import board
from dashboards.layout import banner, row
from dashboards.links import link_to
from dashboards.panels import Column, Query, bar_gauge, stat, steps, table, time_series
from dashboards.queries import Quantity, by_labels, recorded, regex_matcher, summed
from dashboards.states import BOTTLENECK_COLOURS
from dashboards.units import COUNT, OF_A_GAUGE, RATIO, SECONDS
from dashboards.variables import variables
from rules.recordings import INTERVAL_SECONDS

DOLLARS = OF_A_GAUGE["USD"]
JOULES = OF_A_GAUGE["J"]

node_seconds = recorded(
    "roofline:node:gpu_bottleneck_seconds:increase5m", unit=SECONDS, help="GPU time by class."
)
node_observed = recorded(
    "roofline:node:gpu_observed_seconds:increase5m", unit=SECONDS, help="GPU time watched."
)
node_missed = recorded(
    "roofline:node:gpu_unobserved_seconds:increase5m", unit=SECONDS, help="GPU time not seen."
)
node_cost = recorded("roofline:node:gpu_cost_usd:increase5m", unit=DOLLARS, help="What GPUs cost.")
node_idle = recorded("roofline:node:gpu_idle_cost_usd:increase5m", unit=DOLLARS, help="Of it, while idle.")
node_nobody = recorded(
    "roofline:node:gpu_unattributed_cost_usd:increase5m", unit=DOLLARS, help="Of it, held by no engine."
)
class_cost = recorded(
    "roofline:node:gpu_bottleneck_cost_usd:increase5m", unit=DOLLARS, help="What GPUs cost, by class."
)
node_evidence = recorded(
    "roofline:node:gpu_evidence_seconds:increase5m", unit=SECONDS, help="GPU time by evidence."
)
node_energy = recorded("roofline:node:gpu_energy_joules:increase5m", unit=JOULES, help="Energy of GPUs.")
cost = recorded(
    "roofline:model:engine_cost_usd:increase5m",
    unit=DOLLARS,
    help="What engines cost, by phase; location remote is an estimate for GPUs on other nodes.",
)
tokens = recorded("roofline:model:engine_generation_tokens:increase5m", unit=COUNT, help="Output tokens.")
prompts = recorded(
    "roofline:model:engine_prefill_tokens:increase5m", unit=COUNT, help="Prompt tokens computed."
)
energy = recorded("roofline:model:engine_energy_joules:increase5m", unit=JOULES, help="Energy, by phase.")
gpu_seconds = recorded(
    "roofline:model:gpu_bottleneck_seconds:increase5m", unit=SECONDS, help="GPU time of models by class."
)

OF_MODEL = ",".join(regex_matcher(label) for label in ("cluster", "job", "model"))
"""Series of models are sums over nodes, and have no instance."""
LOCAL = 'location="local"'
IDLE_PHASE, NOT_IDLE = 'phase="idle"', 'phase!="idle"'
MEMORY_BOUND = 'bottleneck="memory_bandwidth"'
MILLION = "1e6"
HOUR = "3600"
PER_HOUR = 3600 // INTERVAL_SECONDS
"""Recorded increases in an hour."""
MONTH = "30d"


def of_models(increases: Quantity, labels: str, *, over: str = "$__range", matchers: str = "") -> str:
    """The same of engines, whose series have no instance."""
    chosen = f"{OF_MODEL},{matchers}" if matchers else OF_MODEL
    return f"sum {by_labels(labels)}(sum_over_time({increases.full_name}{{{chosen}}}[{over}]))"


def per_million(by: str, *, over: str = "$__range", matchers: str = "") -> str:
    """Dollars for a million output tokens."""
    paid = of_models(cost, by, over=over, matchers=matchers)
    return f"{MILLION} * {paid} / ({of_models(tokens, by, over=over)} > 0)"


dashboard = board(
    "cost",
    "Cost and efficiency",
    "What was paid in the time shown, what it did and what went by unused. Needs prices in the agents' "
    "configuration; hours and joules need none.",
    banner(
        stat(
            "Paid",
            Query(summed(node_cost, "")),
            unit=DOLLARS,
            no_value="no prices",
            description="Price times watched time of all GPUs chosen. Absent: set prices in the "
            "configuration.",
        ),
        stat(
            "Idle",
            Query(f"{summed(node_idle, '')} / ({summed(node_cost, '')} > 0)"),
            unit=RATIO,
            no_value="no prices",
            description="The part of it that went by idle. The table of models says who held them: scale "
            "those down first.",
            thresholds=steps("green", (0.3, "orange"), (0.6, "red")),
        ),
        stat(
            "Held by no engine",
            Query(f"{summed(node_nobody, '')} / ({summed(node_cost, '')} > 0)"),
            unit=RATIO,
            no_value="no prices",
            description="The part of it that no engine known to the agents of their nodes had: give these "
            "GPUs back, unless they are the far half of a replica, or let the agents find what runs there.",
            thresholds=steps("green", (0.2, "orange"), (0.5, "red")),
        ),
        stat(
            "$ per million tokens",
            Query(per_million("")),
            unit=DOLLARS,
            no_value="no prices",
            description="Of output, idle time included. Falling utilization raises it as surely as a "
            "slower engine: the charts below tell them apart.",
        ),
        stat(
            "J per token",
            Query(f"{of_models(energy, '')} / ({of_models(tokens, '')} > 0)"),
            unit=JOULES,
            description="Energy of the engines by output tokens, idle draw included. A larger batch lowers "
            "it; so does fp8.",
            decimals=2,
        ),
        stat(
            "Watched",
            Query(
                f"{summed(node_observed, '')} / ({summed(node_observed, '')} + {summed(node_missed, '')} > 0)"
            ),
            unit=RATIO,
            description="How much of the GPUs' time the agents saw. Below 98 % the sums are of what was "
            "seen, not of what was paid: see Agent health.",
            thresholds=steps("red", (0.9, "orange"), (0.98, "green")),
        ),
    ),
    row(
        "By model",
        table(
            "Models",
            Column("Paid", of_models(cost, "model, part", matchers=LOCAL), unit=DOLLARS),
            Column("$ per million tokens", per_million("model, part"), unit=DOLLARS),
            Column(
                "Without idle",
                per_million("model, part", matchers=NOT_IDLE),
                unit=DOLLARS,
            ),
            Column(
                "Idle",
                f"{of_models(cost, 'model, part', matchers=IDLE_PHASE)}"
                f" / ({of_models(cost, 'model, part')} > 0)",
                unit=RATIO,
                thresholds=steps("text", (0.5, "orange"), (0.8, "red")),
            ),
            Column("Output tokens", of_models(tokens, "model, part")),
            Column("Prompt tokens", of_models(prompts, "model, part")),
            Column(
                "J per token",
                f"{of_models(energy, 'model, part')} / ({of_models(tokens, 'model, part')} > 0)",
                unit=JOULES,
                decimals=2,
            ),
            Column("GPU hours", f"{of_models(gpu_seconds, 'model, part')} / {HOUR}", decimals=1),
            Column(
                "Memory-bound",
                f"{of_models(gpu_seconds, 'model, part', matchers=MEMORY_BOUND)}"
                f" / ({of_models(gpu_seconds, 'model, part')} > 0)",
                unit=RATIO,
            ),
            labels={"model": "Model", "part": "GPU type"},
            sort_by="Paid",
            links=(link_to("fleet", "Where it runs", model="Model"),),
            description="The dearest on top. Paid is for GPUs of the engine's own node; a token's price "
            "has those on other nodes too. Much idle: fewer replicas. Little idle, memory-bound and dear: "
            "a larger batch, fp8 weights, or a cheaper GPU; roofline-agent advise puts numbers on each.",
            height=10,
            width=24,
        ),
        time_series(
            "$ per million tokens",
            Query(per_million("model", over="1h"), "{{model}}"),
            unit=DOLLARS,
            minimum=0,
            description="Over the hour before each point, idle time included. Peaks at night are idle "
            "GPUs, not slow ones: compare with the chart beside it.",
            width=12,
            height=9,
        ),
        time_series(
            "The same without idle time",
            Query(per_million("model", over="1h", matchers=NOT_IDLE), "{{model}}"),
            unit=DOLLARS,
            minimum=0,
            description="What a token costs while the engine works. A step here is the engine, the model "
            "or the mix of requests: look for a rollout at that time.",
            width=12,
            height=9,
        ),
    ),
    row(
        "By what the time went to",
        time_series(
            "Dollars an hour, by class",
            Query(
                f"{3600 // INTERVAL_SECONDS} * sum by (bottleneck) ({class_cost.where()})", "{{bottleneck}}"
            ),
            unit=DOLLARS,
            stacked=True,
            minimum=0,
            colours=BOTTLENECK_COLOURS,
            description="What each class cost; together they are what was paid. Grey is what giving GPUs "
            "back would save, orange what larger batches would.",
            width=12,
            height=9,
        ),
        bar_gauge(
            "GPU hours",
            Query(f"{summed(node_seconds, 'bottleneck')} / {HOUR}", "{{bottleneck}}"),
            unit=COUNT,
            minimum=0,
            decimals=1,
            description="Of the time shown, by what bounded them. Unknown is evidence that is missing, and "
            "what to mend first if it is large.",
            width=6,
            height=9,
        ),
        bar_gauge(
            "Evidence for FLOPs",
            Query(
                f"{summed(node_evidence, 'evidence', quantity='flops')}"
                " / ignoring (evidence) group_left ()"
                f" sum({summed(node_evidence, 'evidence', quantity='flops')})",
                "{{evidence}}",
            ),
            unit=RATIO,
            minimum=0,
            maximum=1,
            description="For how much of the time FLOPs were known, and from what. Much none: engines that "
            "nobody found, or models that nobody knows.",
            width=6,
            height=9,
        ),
    ),
    row(
        "By part and by node",
        table(
            "GPU types",
            Column("Paid", summed(node_cost, "part"), unit=DOLLARS),
            Column("GPU hours", f"{summed(node_observed, 'part')} / {HOUR}", decimals=1),
            Column(
                "Idle",
                f"{summed(node_seconds, 'part', bottleneck='idle')} / ({summed(node_observed, 'part')} > 0)",
                unit=RATIO,
            ),
            Column(
                "Memory-bound",
                f"{summed(node_seconds, 'part', bottleneck='memory_bandwidth')}"
                f" / ({summed(node_observed, 'part')} > 0)",
                unit=RATIO,
            ),
            Column("Energy", summed(node_energy, "part"), unit=JOULES),
            labels={"part": "GPU type"},
            sort_by="Paid",
            description="A type that is mostly memory-bound sells its compute for nothing: compare prices of "
            "bandwidth with roofline-agent advise before buying more of it.",
            width=12,
            height=9,
        ),
        table(
            "Dearest idle nodes",
            Column("Idle", f"topk(20, {summed(node_idle, 'cluster, instance')})", unit=DOLLARS),
            labels={"instance": "Node", "cluster": "Cluster"},
            sort_by="Idle",
            links=(link_to("node", "Open the node", instance="Node"),),
            description="What each node cost while it did nothing. Begin with the first: who holds it?",
            width=12,
            height=9,
        ),
    ),
    row(
        "The month",
        stat(
            "Paid in 30 days",
            Query(summed(node_cost, "", MONTH)),
            unit=DOLLARS,
            no_value="no prices",
            description="The sum of what was recorded. With a retention shorter than 30 days it is of "
            "less: see recorded hours beside it.",
            width=6,
        ),
        stat(
            "Idle in 30 days",
            Query(summed(node_idle, "", MONTH)),
            unit=DOLLARS,
            no_value="no prices",
            description="What giving back idle GPUs would have saved. Take the dearest nodes above.",
            width=6,
        ),
        stat(
            "GPU hours recorded",
            Query(f"{summed(node_observed, '', MONTH)} / {HOUR}"),
            unit=COUNT,
            decimals=1,
            description="How much the month's sums are made of. Less than GPUs times 720 hours: nodes "
            "came, went, or were not watched.",
            width=6,
        ),
        stat(
            "Output tokens",
            Query(of_models(tokens, "", over=MONTH)),
            unit=COUNT,
            description="Of all models chosen, in 30 days. Hold it against last month's before you believe "
            "a cost per token that moved.",
            width=6,
        ),
    ),
    variables=variables(many=("model",)),
    span="24h",
)
