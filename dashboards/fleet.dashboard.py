"""Every node and model in one table, worst first; each row leads to its node and its engine."""

from __future__ import annotations

from dashboards.alerting import SERIOUS, firing
from dashboards.board import board
from dashboards.layout import banner, row
from dashboards.links import link_to
from dashboards.panels import Column, Query, stat, steps, table, time_series
from dashboards.queries import Quantity, metric, recorded, regex_matcher, summed
from dashboards.states import BOTTLENECK_COLOURS
from dashboards.units import COUNT, OF_A_GAUGE, RATIO, SECONDS
from dashboards.variables import variables
from rules import thresholds
from rules.recordings import INTERVAL_SECONDS

build = metric("build_info")
gpu_up = metric("gpu_up")
attained = metric("gpu_roof_attained_ratio")
kernel_time = metric("gpu_kernel_time_ratio")
power = metric("gpu_power_watts")
engine_up = metric("engine_up")
placed = metric("engine_gpu_info")
batch = metric("engine_decode_batch_size")
headroom = metric("engine_kv_cache_headroom_ratio")
waiting = metric("engine_requests_waiting")
generated = metric("engine_generation_tokens_total")
assessed_at = metric("assessment_timestamp_seconds")
cost = metric("gpu_cost_usd_total")
idle_cost = metric("gpu_idle_cost_usd_total")
bound = recorded(
    "roofline:engine:gpu_bottleneck:ratio30m",
    unit=RATIO,
    help="Share of half an hour, by what bounded the GPUs.",
)
used = recorded(
    "roofline:engine:gpu_compute_used:ratio30m",
    unit=RATIO,
    help="FLOP/s done, of those that the GPUs could do.",
)
by_class = recorded(
    "roofline:node:gpu_bottleneck_seconds:increase5m", unit=SECONDS, help="GPU time by what bounded it."
)
observed = recorded("roofline:node:gpu_observed_seconds:increase5m", unit=SECONDS, help="GPU time watched.")
held = recorded(
    "roofline:node:gpu_idle_held_seconds:increase5m", unit=SECONDS, help="GPU time idle and held by somebody."
)

MODEL = regex_matcher("model")
OF_SERVERS = 'server=~".+"'
ENGINES = "cluster, instance, model, server"
REPLICA = "cluster, job, instance, engine, server, rank"
PER_HOUR = 3600
DOLLARS = OF_A_GAUGE["USD"]


def _share(part: Quantity, labels: str, **chosen: str) -> str:
    return f"{summed(part, labels, **chosen)} / ({summed(observed, labels)} > 0)"


dashboard = board(
    "fleet",
    "Fleet",
    "All nodes and models, the worst on top. Where most GPU time goes, and where to look first.",
    banner(
        stat(
            "GPUs",
            Query(f"count({gpu_up.where()} == 1)"),
            description="GPUs that can be read now. Fewer than you pay for: a node is missing, or a GPU is "
            "lost.",
        ),
        stat(
            "GPUs lost",
            Query(f"count({gpu_up.where()} == 0) or 0 * count({build.where()})"),
            description=gpu_up.tells(
                "If any: open the node from the table below, and see the runbook of GpuLost."
            ),
            thresholds=steps("green", (1, "red")),
            background=True,
        ),
        stat(
            "Waits for memory",
            Query(_share(by_class, "", bottleneck="memory_bandwidth")),
            unit=RATIO,
            description="Share of all GPU time in which memory bandwidth decided. It is decode's nature; "
            "with little compute used beside it, larger batches on fewer GPUs do the same work.",
        ),
        stat(
            "Idle",
            Query(_share(by_class, "", bottleneck="idle")),
            unit=RATIO,
            description="Share of all GPU time without work. What is held and idle, nobody else can use: "
            "scale those models down first.",
            thresholds=steps("green", (0.3, "orange"), (0.6, "red")),
        ),
        stat(
            "Cost an hour",
            Query(f"{PER_HOUR} * sum({cost.rate()})"),
            unit=DOLLARS,
            no_value="no prices",
            description=cost.tells("Absent without prices in the agents' configuration: set them."),
        ),
        stat(
            "Of it idle",
            Query(f"{PER_HOUR} * sum({idle_cost.rate()})"),
            unit=DOLLARS,
            no_value="no prices",
            description=idle_cost.tells("What one saves by giving back what does nothing."),
        ),
    ),
    row(
        "Worst first",
        table(
            "Engines",
            Column(
                "Alerts",
                f"count by ({ENGINES}) ({firing(SERIOUS, MODEL, regex_matcher('instance'), OF_SERVERS)})",
                thresholds=steps("text", (1, "red")),
            ),
            Column(
                "Compute used",
                f"avg by ({ENGINES}) ({used.where(MODEL)})",
                unit=RATIO,
                thresholds=steps("orange", (thresholds.COMPUTE_USED.value, "green")),
            ),
            Column(
                "Memory-bound",
                f"avg by ({ENGINES}) ({bound.where(MODEL, bottleneck='memory_bandwidth')})",
                unit=RATIO,
            ),
            Column(
                "Compute-bound",
                f"avg by ({ENGINES}) ({bound.where(MODEL, bottleneck='compute')})",
                unit=RATIO,
            ),
            Column(
                "Host",
                f"avg by ({ENGINES}) ({bound.where(MODEL, bottleneck='host')})",
                unit=RATIO,
                thresholds=steps("text", (thresholds.HOST_SHARE.value, "red")),
            ),
            Column(
                "Links",
                f"avg by ({ENGINES}) ({bound.where(MODEL, bottleneck='interconnect')})",
                unit=RATIO,
                thresholds=steps("text", (thresholds.INTERCONNECT_SHARE.value, "red")),
            ),
            Column(
                "Idle",
                f"avg by ({ENGINES}) ({bound.where(MODEL, bottleneck='idle')})",
                unit=RATIO,
                thresholds=steps("text", (thresholds.IDLE_SHARE.value, "orange")),
            ),
            Column("Batch", f"avg by ({ENGINES}) ({batch.where(MODEL)})", decimals=1),
            Column(
                "KV headroom",
                f"min by ({ENGINES}) ({headroom.where(MODEL)})",
                unit=RATIO,
                thresholds=steps("red", (0.05, "orange"), (0.2, "text")),
            ),
            Column("Waiting", f"sum by ({ENGINES}) ({waiting.where(MODEL)})"),
            Column("Tokens/s", f"sum by ({ENGINES}) ({generated.rate(MODEL)})"),
            Column(
                "GPUs",
                f"count by ({ENGINES}) (max by ({REPLICA}, uuid) ({placed.where()})"
                f" * on ({REPLICA}) group_left (model) max by ({REPLICA}, model) ({engine_up.where(MODEL)}))",
            ),
            labels={"instance": "Node", "model": "Model", "server": "Server", "cluster": "Cluster"},
            sort_by="Compute used",
            descending=False,
            links=(
                link_to("node", "Open the node", instance="Node"),
                link_to("engine", "Open the engine", instance="Node", server="Server", model="Model"),
            ),
            description="Shares are of the last half hour. On top is what uses least of its compute: the "
            "columns to the right say what it waits for, and the links lead to why. Memory-bound with a "
            "small batch: more traffic on fewer replicas.",
            width=24,
            height=12,
        ),
        table(
            "Nodes",
            Column(
                "Alerts",
                f"count by (cluster, instance) ({firing(SERIOUS, regex_matcher('instance'))})",
                thresholds=steps("text", (1, "red")),
            ),
            Column("GPUs", f"sum by (cluster, instance) ({gpu_up.where()})"),
            Column(
                "Lost",
                f"count by (cluster, instance) ({gpu_up.where()}) - sum by (cluster, instance) "
                f"({gpu_up.where()})",
                thresholds=steps("text", (1, "red")),
            ),
            Column("Roof attained", f"avg by (cluster, instance) ({attained.where()})", unit=RATIO),
            Column("Kernels run", f"avg by (cluster, instance) ({kernel_time.where()})", unit=RATIO),
            Column("Idle and held", _share(held, "cluster, instance"), unit=RATIO),
            Column("Idle", _share(by_class, "cluster, instance", bottleneck="idle"), unit=RATIO),
            Column("Power", f"sum by (cluster, instance) ({power.where()})", unit=power.unit),
            Column("Cost an hour", f"{PER_HOUR} * sum by (cluster, instance) ({cost.rate()})", unit=DOLLARS),
            Column(
                "Numbers are from",
                f"max by (cluster, instance) ({assessed_at.behind()})",
                unit=SECONDS,
                thresholds=steps("text", (thresholds.STALE_SECONDS.value, "red")),
            ),
            labels={"instance": "Node", "cluster": "Cluster"},
            sort_by="Roof attained",
            descending=False,
            links=(link_to("node", "Open the node", instance="Node"),),
            description="Kernels run is what others call utilization; roof attained is how much of the "
            "hardware is used. Nodes with the widest gap are those that only look busy: open them.",
            width=24,
            height=10,
        ),
    ),
    row(
        "Where GPU time goes",
        time_series(
            "GPUs by what bounds them",
            Query(f"sum by (bottleneck) ({by_class.where()}) / {INTERVAL_SECONDS}", "{{bottleneck}}"),
            unit=COUNT,
            stacked=True,
            minimum=0,
            colours=BOTTLENECK_COLOURS,
            description="How many GPUs' worth of time each class had in five minutes; all together are the "
            "GPUs watched. A band that widens is where to work; unknown means that evidence is missing.",
            width=12,
            height=10,
        ),
        time_series(
            "GPU time by part",
            Query(f"sum by (part) ({observed.where()}) / {INTERVAL_SECONDS}", "{{part}}"),
            unit=COUNT,
            stacked=True,
            minimum=0,
            description="GPUs watched, by part. A step down that nobody planned is a node that was lost: "
            "compare with the table of nodes.",
            width=12,
            height=10,
        ),
    ),
    variables=variables(many=("model",)),
    span="6h",
)
