"""What is recorded: increases, so that a month over ten thousand GPUs is a cheap sum.

Each five minutes the increase of the last five is recorded: of GPUs by node and part, of engines by model,
namespace and part, then both by cluster. Any longer time is `sum_over_time` of these. The rules never
take `increase` or `rate` of a recorded sum: where one of its counters starts anew, a sum of counters falls
by less than all of itself, and that would be counted as work.

The other recorded series are ratios over a fixed window that several alerts and boards share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.metrics import ENGINE as ENGINE_LABELS
from agent.metrics import GPU as GPU_LABELS
from agent.metrics import TABLE, Metric
from agent.roofline.bottleneck import BOTTLENECKS
from rules.promql import (
    DEVICE,
    ENGINE,
    REPLICA,
    SERVICE,
    TARGET,
    bottleneck_share,
    by,
    increase,
    indented,
    mean,
    mean_of_engine,
    ratio,
    recorded,
)

INTERVAL, INTERVAL_SECONDS = "5m", 300
"""Of recorded increases; each covers the time since the one before."""
NODE = (*TARGET, "part")
MODEL = ("cluster", "job", "engine", "model", "workload_namespace", "part")
CLUSTER = ("cluster", "job", "part")
IDENTITY = "roofline:engine:identity:info"
AGENT = "roofline:node:agent:info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recorded series."""

    record: str
    expr: str
    labels: dict[str, str] = field(default_factory=dict)
    """Set on what the expression gives."""
    keeps: tuple[str, ...]
    """All labels that the series has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rules that are evaluated one after the other; without an interval, as often as Prometheus does."""

    name: str
    interval: str | None
    rules: tuple[Recording, ...]


NODE_COUNTERS = (
    "gpu_observed_seconds_total",
    "gpu_unobserved_seconds_total",
    "gpu_bottleneck_seconds_total",
    "gpu_evidence_seconds_total",
    "gpu_evidence_contradicted_seconds_total",
    "gpu_dram_active_seconds_total",
    "gpu_tensor_active_seconds_total",
    "gpu_dram_bytes_total",
    "gpu_flops_total",
    "gpu_energy_joules_total",
    "gpu_clock_limited_seconds_total",
    "gpu_ecc_errors_total",
    "gpu_xid_errors_total",
    "gpu_cost_usd_total",
    "gpu_idle_cost_usd_total",
    "gpu_unattributed_cost_usd_total",
)
"""Of GPUs, recorded by node and part."""

EVENTS = ("gpu_ecc_errors_total", "gpu_xid_errors_total")
"""Of these each one matters. An `increase` sees none that falls between the last sample of a window and the
first of the next, and makes a little more than one of those that it sees."""

MODEL_COUNTERS = (
    "engine_observed_seconds_total",
    "engine_phase_seconds_total",
    "engine_step_seconds_total",
    "engine_steps_total",
    "engine_prefill_tokens_total",
    "engine_cached_prompt_tokens_total",
    "engine_generation_tokens_total",
    "engine_draft_tokens_total",
    "engine_accepted_draft_tokens_total",
    "engine_preemptions_total",
    "engine_requests_total",
    "engine_rejected_requests_total",
    "engine_flops_total",
    "engine_dram_bytes_total",
    "engine_energy_joules_total",
    "engine_slo_events_total",
    "engine_slo_good_events_total",
)
"""Of engines, recorded by model, namespace and part."""

BURN_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Of the error ratios; from two hours on they are sums of recorded increases."""
_RAW_WINDOWS = BURN_WINDOWS[:3]

_METRICS = {metric.name: metric for metric in TABLE}


def _beyond(metric: Metric, common: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label for label in metric.labels if label not in common)


def _name(level: str, counter: str) -> str:
    return f"roofline:{level}:{counter.removesuffix('_total')}:increase{INTERVAL}"


OF_MIG = "MIG"
"""Behind the part of an instance of a GPU in MIG mode: a share of one, with another price and other roofs."""
_INFO = f'max_over_time(roofline_gpu_info{{parent_uuid=""}}[{INTERVAL}])'
_INSTANCES = f'max_over_time(roofline_gpu_info{{parent_uuid!=""}}[{INTERVAL}])'
PART = (
    f"topk by {by(DEVICE)} (1, max by {by((*DEVICE, 'part'))} (\n"
    f"  {_INFO}\n"
    f'  or label_replace({_INSTANCES}, "part", "$1 {OF_MIG}", "part", "(.*)")\n'
    f"))"
)
"""What each GPU is, or was within the window: one part each, also where it was first taken for another."""


def _part(expr: str, *, keeps: tuple[str, ...]) -> str:
    """GPUs by the part that they are; also of those that were there only at the window's beginning."""
    part = f"on {by(DEVICE)} group_left (part)\n  {indented(PART)}"
    return f"sum by {by(keeps)} (\n  {indented(expr)}\n  * {part}\n)"


def _identified(
    expr: str, *, keeps: tuple[str, ...], gives: tuple[str, ...], aggregation: str = "sum"
) -> str:
    """Engines with what only their info tells: one identity each, whatever changed within the window."""
    return (
        f"{aggregation} by {by(keeps)} (\n"
        f"  {indented(expr)}\n"
        f"  * on {by(REPLICA)} group_left {by(gives)}\n"
        f"  topk by {by(REPLICA)} (1, {IDENTITY})\n"
        f")"
    )


def _events(name: str, labels: tuple[str, ...]) -> str:
    """How many more there are than an interval ago. A series that begins with its first event began at 0."""
    now = f"max by {by(labels)} (last_over_time({name}[{INTERVAL}]))"
    before = f"max by {by(labels)} (last_over_time({name}[{INTERVAL}] offset {INTERVAL}))"
    watched = f"last_over_time(roofline_gpu_up[{INTERVAL}] offset {INTERVAL})"
    return f"clamp_min({now}\n- ({before}\n  or (0 * {now} and on {by(DEVICE)} {watched})), 0)"


def _node_increases() -> Iterator[Recording]:
    for counter in NODE_COUNTERS:
        metric = _METRICS[counter]
        further = _beyond(metric, GPU_LABELS)
        keeps = (*NODE, *further)
        labels = (*DEVICE, *further)
        risen = (
            _events(metric.full_name, labels)
            if counter in EVENTS
            else increase(metric.full_name, INTERVAL, labels)
        )
        yield Recording(record=_name("node", counter), expr=_part(risen, keeps=keeps), keeps=keeps)
    keeps = (*NODE, "bottleneck")
    seconds = increase("roofline_gpu_bottleneck_seconds_total", INTERVAL, (*TARGET, "uuid", "bottleneck"))
    price = ratio(
        increase("roofline_gpu_cost_usd_total", INTERVAL, DEVICE),
        increase("roofline_gpu_observed_seconds_total", INTERVAL, DEVICE),
    )
    paid = f"{seconds}\n* on {by(DEVICE)} group_left ()\n(\n  {indented(price)}\n)"
    yield Recording(
        record=_name("node", "gpu_bottleneck_cost_usd"), expr=_part(paid, keeps=keeps), keeps=keeps
    )
    # A board in MIG mode has no class of its own, and costs what its instances leave of it.
    left = (
        f"(\n  {increase('roofline_gpu_cost_usd_total', INTERVAL, DEVICE)}\n"
        f"  unless on {by(DEVICE)} roofline_gpu_observed_seconds_total\n)"
    )
    yield Recording(
        record=_name("node", "gpu_bottleneck_cost_usd"),
        expr=_part(left, keeps=NODE),
        labels={"bottleneck": "unallocated"},
        keeps=keeps,
    )
    idle = increase("roofline_gpu_bottleneck_seconds_total", INTERVAL, DEVICE, 'bottleneck="idle"')
    held = f"(\n  {idle}\n  and on {by(DEVICE)}\n  {indented(HELD)}\n)"
    yield Recording(record=_name("node", "gpu_idle_held_seconds"), expr=_part(held, keeps=NODE), keeps=NODE)


HELD = "(roofline_engine_gpu_info or roofline_gpu_allocation_info or roofline_gpu_processes > 0)"
"""GPUs that somebody has: an engine, a container by the kubelet's list, or a process that computes."""


def _identity() -> Recording:
    """Which software serves which model, for which namespace, on which part: 1 for each engine."""
    keeps = (*ENGINE, "workload_namespace", "part")
    told = f"max by {by((*ENGINE, 'workload_namespace'))} (max_over_time(roofline_engine_info[{INTERVAL}]))"
    part = (
        f"topk by {by(REPLICA)} (1, max by {by((*REPLICA, 'part'))} (\n"
        f"  max by {by((*REPLICA, 'uuid'))} (max_over_time(roofline_engine_gpu_info[{INTERVAL}]))\n"
        f"  * on {by(DEVICE)} group_left (part)\n"
        f"  {indented(PART)}\n"
        f"))"
    )
    return Recording(
        record=IDENTITY,
        expr=f"{told}\n* on {by(REPLICA)} group_left (part)\n{part}\nor on {by(REPLICA)}\n{told}",
        keeps=keeps,
    )


def _model_increases() -> Iterator[Recording]:
    yield _identity()
    for counter in MODEL_COUNTERS:
        metric = _METRICS[counter]
        further = _beyond(metric, ENGINE_LABELS)
        keeps = (*MODEL, *further)
        risen = increase(metric.full_name, INTERVAL, (*ENGINE, *further))
        yield Recording(
            record=_name("model", counter),
            expr=_identified(risen, keeps=keeps, gives=("workload_namespace", "part")),
            keeps=keeps,
        )
    for location, counter in (
        ("local", "roofline_engine_cost_usd_total"),
        ("remote", "roofline_engine_remote_cost_usd_total"),
    ):
        keeps = (*MODEL, "phase")
        risen = increase(counter, INTERVAL, (*ENGINE, "phase"))
        yield Recording(
            record=_name("model", "engine_cost_usd"),
            expr=_identified(risen, keeps=keeps, gives=("workload_namespace", "part")),
            labels={"location": location},
            keeps=(*keeps, "location"),
        )
    yield from _weighted_with_steps()
    yield from _serving()
    yield from _gpu_seconds_of_models()


def _weighted_with_steps() -> Iterator[Recording]:
    """Gauges times steps, and the steps for which they were known: a quotient is a mean, not one of means."""
    steps = increase("roofline_engine_steps_total", INTERVAL, ENGINE)
    for name, gauge, quantity in WEIGHTED_WITH_STEPS:
        value = mean(gauge, INTERVAL, ENGINE)
        weighted = f"(\n  {steps}\n  * on {by(ENGINE)}\n  {value}\n)"
        known = f"(\n  {steps}\n  and on {by(ENGINE)}\n  {value}\n)"
        given: tuple[tuple[str, str, dict[str, str]], ...] = (
            (name, weighted, {}),
            ("engine_known_steps", known, {"quantity": quantity}),
        )
        for what, expr, labels in given:
            yield Recording(
                record=_name("model", what),
                expr=_identified(expr, keeps=MODEL, gives=("workload_namespace", "part")),
                labels=labels,
                keeps=(*MODEL, *labels),
            )


WEIGHTED_WITH_STEPS = (
    ("engine_decode_sequence_steps", "roofline_engine_decode_batch_size", "decode_batch"),
    ("engine_kv_limited_sequence_steps", "roofline_engine_kv_limited_batch_size", "kv_limited_batch"),
    ("engine_ridge_sequence_steps", "roofline_engine_ridge_batch_size", "ridge_batch"),
    ("engine_agreement_steps", "roofline_engine_model_agreement_ratio", "agreement"),
)
"""What is recorded, the gauge, and what it is called among the steps for which it was known."""


def _serving() -> Iterator[Recording]:
    """How models are served and what is wanted of them: what a month's traffic is held against."""
    split = ("tensor_parallel", "pipeline_parallel", "weight_dtype", "kv_dtype")
    keeps = (*MODEL, *split)
    served = f"max by {by((*ENGINE, *split))} (max_over_time(roofline_engine_model_info[{INTERVAL}]))"
    yield Recording(
        record="roofline:model:engines:count",
        expr=_identified(served, keeps=keeps, gives=("workload_namespace", "part")),
        keeps=keeps,
    )
    allowed = f"max by {by(ENGINE)} (max_over_time(roofline_engine_max_num_seqs[{INTERVAL}]))"
    yield Recording(
        record="roofline:model:engine_max_num_seqs:max",
        expr=_identified(allowed, keeps=MODEL, gives=("workload_namespace", "part"), aggregation="max"),
        keeps=MODEL,
    )
    wanted = (*SERVICE, "slo")
    yield Recording(
        record="roofline:model:slo_objective:max",
        expr=f"max by {by(wanted)} (max_over_time(roofline_engine_slo_objective_ratio[{INTERVAL}]))",
        keeps=wanted,
    )


def _gpu_seconds_of_models() -> Iterator[Recording]:
    """GPU time by what bounded it, to each engine by its share of the GPU; what none holds is in no model."""
    share = (
        f"sum by {by((*REPLICA, 'uuid'))} (sum_over_time(roofline_engine_gpu_share_ratio[{INTERVAL}]))\n"
        f"/ on {by(DEVICE)} group_left ()\n"
        f"sum by {by(DEVICE)} (count_over_time(roofline_gpu_up[{INTERVAL}]))"
    )
    for bottleneck in BOTTLENECKS:
        seconds = increase(
            "roofline_gpu_bottleneck_seconds_total",
            INTERVAL,
            DEVICE,
            f'bottleneck="{bottleneck}"',
        )
        held = f"{share}\n* on {by(DEVICE)} group_left ()\n{seconds}"
        yield Recording(
            record=_name("model", "gpu_bottleneck_seconds"),
            expr=_identified(held, keeps=MODEL, gives=("model", "workload_namespace", "part")),
            labels={"bottleneck": bottleneck},
            keeps=(*MODEL, "bottleneck"),
        )


def _cluster_increases(nodes: tuple[Recording, ...]) -> Iterator[Recording]:
    for rule in {rule.record: rule for rule in nodes}.values():
        keeps = (*CLUSTER, *(label for label in rule.keeps if label not in NODE))
        yield Recording(
            record=rule.record.replace(":node:", ":cluster:"),
            expr=f"sum by {by(keeps)} ({rule.record})",
            keeps=keeps,
        )


def _engine_ratios() -> Iterator[Recording]:
    """What bounds an engine's GPUs, and how much of their FLOP/s they do: for alerts."""
    for bottleneck in BOTTLENECKS:
        yield Recording(
            record="roofline:engine:gpu_bottleneck:ratio30m",
            expr=mean_of_engine(f"(\n  {indented(bottleneck_share(bottleneck, '30m', DEVICE))}\n)"),
            labels={"bottleneck": bottleneck},
            keeps=(*ENGINE, "bottleneck"),
        )
    speed = ratio(
        increase("roofline_gpu_flops_total", "30m", DEVICE),
        increase("roofline_gpu_observed_seconds_total", "30m", DEVICE),
    )
    peak = f'max by {by(DEVICE)} (roofline_gpu_peak_flops_per_second{{dtype="bf16"}})'
    yield Recording(
        record="roofline:engine:gpu_compute_used:ratio30m",
        expr=mean_of_engine(f"(\n  {indented(speed)}\n  /\n  {peak}\n)"),
        keeps=ENGINE,
    )


def _error_ratios() -> Iterator[Recording]:
    keeps = (*SERVICE, "slo")
    for window in BURN_WINDOWS:
        good = slo_events(window, keeps, good=True)
        yield Recording(
            record=f"roofline:model:slo_errors:ratio{window}",
            expr=f"1 -\n{ratio(good, slo_events(window, keeps))}",
            keeps=keeps,
        )


def slo_events(window: str, labels: tuple[str, ...], matchers: str = "", *, good: bool = False) -> str:
    """Events that an objective counts for, or those that met it.

    While the window is short, of the counters themselves, since what is recorded may be five minutes old;
    of recorded increases where it is long.
    """
    counter = "engine_slo_good_events_total" if good else "engine_slo_events_total"
    if window in _RAW_WINDOWS:
        return increase(_METRICS[counter].full_name, window, labels, matchers)
    return recorded(_name("model", counter), window, labels, matchers)


def _agents() -> Recording:
    """Which targets are agents of ours, whatever their job is called: also while they do not answer."""
    own = f"max by {by(TARGET)} (last_over_time({AGENT}[1h]))"  # an hour: for the gap of a rollout
    return Recording(
        record=AGENT,
        expr=f"max by {by(TARGET)} (roofline_build_info)\nor\n({own} and on {by(TARGET)} up == 0)",
        keeps=TARGET,
    )


def _groups() -> Iterator[Group]:
    nodes = tuple(_node_increases())
    yield Group(name="roofline.recorded.node", interval=INTERVAL, rules=(*nodes, *_cluster_increases(nodes)))
    yield Group(name="roofline.recorded.model", interval=INTERVAL, rules=tuple(_model_increases()))
    yield Group(name="roofline.recorded.agent", interval=None, rules=(_agents(),))
    yield Group(name="roofline.recorded.engine", interval=None, rules=tuple(_engine_ratios()))
    yield Group(name="roofline.recorded.slo", interval=None, rules=tuple(_error_ratios()))


RECORDINGS: tuple[Group, ...] = tuple(_groups())

RECORDED: dict[str, tuple[str, ...]] = {
    rule.record: rule.keeps for group in RECORDINGS for rule in group.rules
}
"""The labels of each recorded series, by its name."""
