"""The first screen at 3 a.m.: what is wrong, since when, where, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from dashboards.alerting import HARDWARE_XIDS, SERIOUS, firing, since
from dashboards.board import board
from dashboards.layout import banner, row
from dashboards.links import link_to
from dashboards.panels import (
    Column,
    Query,
    bar_gauge,
    stat,
    state_timeline,
    steps,
    table,
    text,
    time_series,
)
from dashboards.queries import counted, metric, milliseconds, one_hot_code, recorded, regex_matcher
from dashboards.roofline import gpu_points, roofline_chart, without_the_chart
from dashboards.states import BOTTLENECK_CODES, BOTTLENECK_NAMES, LIMITER_CODES, LIMITER_NAMES
from dashboards.units import RATIO, SECONDS, SINCE
from dashboards.variables import variables
from rules.thresholds import HEAT_REASONS, POWER_REASONS, STALE_SECONDS, STALLED_SECONDS

engine_up = metric("engine_up")
gpu_up = metric("gpu_up")
build = metric("build_info")
gone = metric("engine_gone")
stalled = metric("engine_stalled_seconds")
assessed_at = metric("assessment_timestamp_seconds")
engine_start = metric("engine_start_time_seconds")
loaded_at = metric("config_last_reload_success_timestamp_seconds")
xid_at = metric("gpu_last_xid_timestamp_seconds")
xids = metric("gpu_xid_errors_total")
bottleneck = metric("gpu_bottleneck")
running = metric("engine_requests_running")
waiting = metric("engine_requests_waiting")
generated = metric("engine_generation_tokens_total")
ttft = metric("engine_time_to_first_token_seconds")
itl = metric("engine_inter_token_latency_seconds")
headroom = metric("engine_kv_cache_headroom_ratio")
to_full = metric("engine_kv_cache_seconds_to_full")
preemptions = metric("engine_preemptions_total")
limiter = metric("engine_batch_limiter")
limited = metric("gpu_clock_limited_seconds_total")
kernel_time = metric("gpu_kernel_time_ratio")
attained = metric("gpu_roof_attained_ratio")
errors_5m = recorded(
    "roofline:model:slo_errors:ratio5m", unit=RATIO, help="Share of requests that missed the objective."
)

MODEL = regex_matcher("model")
OF_NODES = regex_matcher("instance")
ON_MODEL = "{{model}}"
ON_SERVER = "{{instance}} {{server}} rank {{rank}}"
ON_GPU = "{{instance}} GPU {{gpu}}"
POWER_AND_HEAT = f"{POWER_REASONS}|{HEAT_REASONS}|hw_slowdown"
OPEN_NODE = link_to("node", "Open the node", instance="Node")
OPEN_ENGINE = link_to("engine", "Open the engine", instance="instance", server="server")

FIRST_STEPS: Mapping[str, tuple[str, str]] = {
    "memory_bandwidth": (
        "read all weights for each token of a small batch",
        "limiter *traffic*: send more requests to fewer replicas; *max num seqs*: raise it; *kv cache*: fp8 "
        "KV cache, shorter contexts, more replicas",
    ),
    "compute": (
        "do prefill at full speed",
        "look for a power cap, then more GPUs, a lower dtype, or a longer prefix cache",
    ),
    "interconnect": ("wait for each other", "fewer tensor-parallel ranks, or GPUs with NVLink"),
    "kernel_latency": (
        "start kernels too small to matter",
        "CUDA graphs on; fewer ranks; a larger batch",
    ),
    "host": (
        "wait for the CPU between steps",
        "CPU limits of the pod, tokenizer and logging threads, asynchronous scheduling",
    ),
    "idle": (
        "do nothing",
        "with requests waiting, the router or the engine hangs; without, nothing is wrong here",
    ),
    "unknown": (
        "nobody can say",
        "evidence is missing or contradicts itself: see Agent health",
    ),
}
WHAT_TO_DO = "\n".join(
    (
        "| bottleneck | what the GPUs do | first step |",
        "|---|---|---|",
        *(
            f"| **{name.replace('_', ' ')}** | {what} | {step} |"
            for name, (what, step) in FIRST_STEPS.items()
        ),
        "",
        "Every alert above has a runbook. Latency without any of these: the router, the network, the client.",
    )
)

_CHANGES = " or ".join(
    f'label_replace(max by (cluster, instance) ({when}), "change", "{what}", "", "")'
    for what, when in (
        ("engine restarted", engine_start.where()),
        ("configuration loaded", loaded_at.where()),
        ("XID reported", xid_at.where()),
    )
)

dashboard = board(
    "incident",
    "Incident",
    "What is wrong, since when, on one node or all, what changed last; then where the time goes, and what "
    "to do.",
    banner(
        stat(
            "Alerts firing",
            Query(f"count({firing(SERIOUS)}) or 0 * count({build.where()})"),
            description="Critical and warning. The table below has them with their runbooks' names: begin "
            "with the critical ones, and among them with the earliest.",
            thresholds=steps("green", (1, "red")),
            background=True,
        ),
        stat(
            "Broken",
            Query(
                f"(count({engine_up.where()} == 0 unless {gone.where()} == 1) or 0 * count({build.where()}))"
                f" + (count({gpu_up.where()} == 0) or 0 * count({build.where()}))"
                f" + (count({stalled.where()} > {STALLED_SECONDS.text}) or 0 * count({build.where()}))"
            ),
            description="Engines that do not answer, GPUs that cannot be read, and engines that hang: with "
            "requests in hand and no step for a minute. If not 0: this comes before everything below.",
            thresholds=steps("green", (1, "red")),
            background=True,
        ),
        stat(
            "Began",
            Query(f"min({milliseconds(since(SERIOUS))})"),
            unit=SINCE,
            no_value="nothing is firing",
            description="Since when the oldest firing alert's condition has held. Compare it with the last "
            "change beside it: what changed just before is the first suspect.",
        ),
        stat(
            "Nodes hit",
            Query(
                f"(count(count by (cluster, instance) ({firing(SERIOUS, OF_NODES)}))"
                f" or 0 * count({build.where()})) / count(count by (cluster, instance) ({build.where()}))"
            ),
            unit=RATIO,
            description="Share of the nodes on which an alert fires. One node: drain it, and look at it in "
            "peace. All: it is the traffic, the model or a rollout, not the hardware.",
            thresholds=steps("green", (0.01, "orange"), (0.5, "red")),
        ),
        stat(
            "Last change",
            Query(f"max({milliseconds(f'({_CHANGES})')})"),
            unit=SINCE,
            description="An engine restarted, a configuration was loaded, or an XID was reported: the "
            "latest of them. The table says which, and where.",
        ),
        stat(
            "Numbers are from",
            Query(f"max({assessed_at.behind()})"),
            unit=SECONDS,
            description="Age of the oldest assessment. Above 30 s some node's numbers are not of now: see "
            "Agent health before you believe what is below.",
            thresholds=steps("green", (STALE_SECONDS.value, "red")),
        ),
        table(
            "What is firing",
            Column(
                "Since",
                "max by (severity, alertname, model, cluster, instance, server, gpu) "
                f"({milliseconds(since())})",
                unit=SINCE,
            ),
            labels={
                "alertname": "Alert",
                "severity": "Severity",
                "model": "Model",
                "instance": "Node",
                "server": "Server",
                "gpu": "GPU",
                "cluster": "Cluster",
            },
            sort_by="Since",
            links=(OPEN_NODE,),
            description="Each alert has a runbook of its name: what it means, how to confirm it, what to do. "
            "Causes first: what is down or lost silences what follows from it.",
            width=16,
            height=9,
        ),
        table(
            "Last changes",
            Column("When", f"topk(20, {milliseconds(f'({_CHANGES})')})", unit=SINCE),
            labels={"change": "What", "instance": "Node", "cluster": "Cluster"},
            sort_by="When",
            links=(OPEN_NODE,),
            description="The latest on top. A change just before the trouble began is the first suspect: "
            "undo it, then think.",
            width=8,
            height=9,
        ),
    ),
    row(
        "Who notices",
        time_series(
            "Missed objectives",
            Query(
                f"{errors_5m.full_name}{{{regex_matcher('cluster')},{regex_matcher('job')},{MODEL}}}",
                "{{model}} {{slo}}",
            ),
            unit=RATIO,
            minimum=0,
            description="Share of requests (ttft) and tokens (inter_token) of five minutes that missed "
            "their target. ttft alone: queue or prefill. inter_token alone: batch, interference or "
            "preemption. None: users do not notice, go back to sleep. Absent: no objective is configured "
            "(slo).",
            width=8,
        ),
        time_series(
            "Time to first token, p95",
            Query(
                f"histogram_quantile(0.95, sum by (engine, model, le) ({ttft.part('bucket').rate(MODEL)}))",
                ON_MODEL,
            ),
            unit=ttft.unit,
            description=ttft.tells(
                "Rising with the queue: too little capacity. Rising without one: long prompts, or compute "
                "lowered by power or heat."
            ),
            width=8,
        ),
        time_series(
            "Time between tokens, p95",
            Query(
                f"histogram_quantile(0.95, sum by (engine, model, le) ({itl.part('bucket').rate(MODEL)}))",
                ON_MODEL,
            ),
            unit=itl.unit,
            description=itl.tells(
                "Rising with the batch is the price of throughput; rising without it is interference, "
                "preemption or the host: see the engine."
            ),
            width=8,
        ),
        time_series(
            "Tokens out",
            Query(f"sum by (model) ({generated.rate(MODEL)})", ON_MODEL),
            unit=generated.rate_unit,
            minimum=0,
            description=generated.tells(
                "Falling while requests wait: the engines are slower. Falling while none wait: less is asked."
            ),
            width=12,
        ),
        time_series(
            "Requests running and waiting",
            Query(f"sum by (model) ({running.where(MODEL)})", "{{model}} running"),
            Query(f"sum by (model) ({waiting.where(MODEL)})", "{{model}} waiting"),
            unit=running.unit,
            minimum=0,
            description=waiting.tells(
                "A queue that grows is capacity that lacks: the limiter below says which kind."
            ),
            width=12,
        ),
    ),
    row(
        "Why: where on the roofline",
        roofline_chart(
            "On the roofline",
            gpu_points(),
            description="Each GPU by what it computes for each byte it moves, under the roofs of its part. "
            "Far left under the slope: memory decides, a larger batch moves it right. Right, under the "
            "level roof: compute decides. Far below both: neither does – host, links or small kernels.",
            width=12,
            height=12,
        ),
        state_timeline(
            "What bounds each GPU",
            Query(
                one_hot_code(bottleneck, "bottleneck", BOTTLENECK_CODES, "cluster, instance, gpu, uuid"),
                ON_GPU,
            ),
            mappings=[BOTTLENECK_NAMES],
            links=(link_to("node", "Open the node", instance="instance", gpu="gpu"),),
            description=bottleneck.tells(
                "Look at when it changed, and at the vertical lines there: restarts, XIDs, reloads, "
                "throttling. What to do for each class stands at the bottom."
            ),
            width=12,
            height=12,
        ),
        time_series(
            "What others call utilization, and what is attained",
            Query(f"avg by (cluster, instance) ({kernel_time.where()})", "{{instance}} kernels run"),
            Query(f"avg by (cluster, instance) ({attained.where()})", "{{instance}} of the nearer roof"),
            unit=RATIO,
            minimum=0,
            maximum=1,
            description="Kernels running says that the GPU is not free; of the nearer roof, how much of "
            "the hardware is used. Far apart: the dashboards that show the first are wrong, and the class "
            "above is right.",
            width=12,
        ),
        state_timeline(
            "Why the batch is not larger",
            Query(
                one_hot_code(limiter, "limiter", LIMITER_CODES, "cluster, instance, server, rank"), ON_SERVER
            ),
            mappings=[LIMITER_NAMES],
            links=(OPEN_ENGINE,),
            description=limiter.tells(
                "traffic: nothing to fix in the engine. max num seqs: raise it. kv cache: make the cache "
                "smaller per token, or add replicas."
            ),
            width=12,
        ),
    ),
    row(
        "What is running out",
        bar_gauge(
            "KV cache headroom",
            Query(f"bottomk(12, {headroom.where(MODEL)})", ON_SERVER),
            unit=headroom.unit,
            minimum=0,
            maximum=1,
            thresholds=steps("red", (0.05, "orange"), (0.2, "green")),
            links=(OPEN_ENGINE,),
            description=headroom.tells(
                "The twelve fullest. Below 5 % requests wait or are preempted: shed long contexts, add a "
                "replica."
            ),
            width=8,
        ),
        time_series(
            "KV cache full in",
            Query(f"bottomk(12, {to_full.where(MODEL)})", ON_SERVER),
            unit=SECONDS,
            minimum=0,
            description=to_full.tells(
                "Under a quarter of an hour: add a replica now, weights take minutes to load."
            ),
            width=8,
        ),
        time_series(
            "Preemptions",
            Query(f"sum by (model) ({preemptions.rate(MODEL)})", ON_MODEL),
            unit=preemptions.rate_unit,
            minimum=0,
            description=preemptions.tells(
                "Any steady rate: lower max_num_seqs or enlarge the cache; each one computes its prompt "
                "again."
            ),
            width=8,
        ),
        time_series(
            "Clocks held back",
            Query(
                f"sum by (cluster, instance, reason) ({limited.rate(reason=POWER_AND_HEAT)}) > 0",
                "{{instance}} {{reason}}",
            ),
            unit=limited.rate_unit,
            minimum=0,
            description=limited.tells(
                "power: raise the limit, or spread the load. thermal: fans, airflow, the neighbours; do "
                "not wait."
            ),
            width=12,
        ),
        time_series(
            "XIDs",
            Query(
                counted(xids, "cluster, instance, gpu, xid", HARDWARE_XIDS),
                "{{instance}} GPU {{gpu}} XID {{xid}}",
            ),
            unit=xids.unit,
            points=True,
            minimum=0,
            description=xids.tells(
                "Shown are those for which GpuXidError is critical: drain the node, its runbook has each."
            ),
            width=12,
        ),
    ),
    row("What to do", text("By bottleneck", WHAT_TO_DO, height=9)),
    without_the_chart(gpu_points(), Query(f"bottomk(24, {attained.where()})", ON_GPU)),
    variables=variables(many=("model",)),
    span="3h",
)
