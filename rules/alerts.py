"""The alerts: a table. Each names what is wrong, and its runbook says what to do about it.

An alert is about what somebody can act on, has a threshold with a reason where it has one at all, and is
silent where there is no traffic, no engine or no evidence: what is not known is not wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from agent.runbooks import runbook_url
from rules import thresholds
from rules.promql import (
    DEVICE,
    ENGINE,
    GPU,
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
    selector,
)
from rules.recordings import AGENT, HELD, slo_events
from rules.thresholds import Threshold

Severity = Literal["critical", "warning", "info"]
"""critical wakes somebody, warning is for the next morning, info is for whoever plans hardware."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule. Several may share a name, and its runbook: the windows of a burn rate do."""

    name: str
    group: str
    severity: Severity
    holds_for: str
    expr: Callable[[str], str]
    """PromQL, given the threshold as text."""
    threshold: Threshold | None = None
    summary: str
    description: str
    """With the values; what to do is in the runbook."""
    labels: dict[str, str] = field(default_factory=dict)
    mistake: str = ""
    """Which of the five common mistakes it shows, if one."""

    @property
    def runbook_url(self) -> str:
        """One page for each name."""
        return runbook_url(self.name)

    @property
    def expression(self) -> str:
        """With the threshold as it is."""
        return self.expr(self.threshold.text if self.threshold is not None else "")


GROUPS: tuple[str, ...] = (
    "roofline.efficiency",
    "roofline.engine",
    "roofline.slo",
    "roofline.hardware",
    "roofline.agent",
    "roofline.planning",
)
INTERVALS = {"roofline.planning": "5m"}
"""Of groups that need not be evaluated as often as Prometheus does: they look at a day and more."""

MISTAKES = (
    "taking GPU utilization for efficiency",
    "buying the fastest GPU for single-user traffic",
    "forgetting KV memory in capacity planning",
    "treating prefill and decode as one workload",
    "underestimating the batch size",
)
"""Five that are made again and again."""

_ON_GPU = "GPU {{ $labels.gpu }} of {{ $labels.instance }}"
_ON_ENGINE = "{{ $labels.model }} at {{ $labels.server }} on {{ $labels.instance }}"
_ON_SERVICE = "{{ $labels.model }}"
_PERCENT = "{{ $value | humanizePercentage }}"
_TWO_DIGITS = '{{ $value | printf "%.2f" }}'
_WHOLE = '{{ $value | printf "%.0f" }}'


# --- memory-bound, and most of the GPU unused ----------------------------------------------------------


def _underutilized(limiter: str) -> Callable[[str], str]:
    """Memory decides the speed, compute is hardly used, and this is why the batch is not larger."""
    bound = 'roofline:engine:gpu_bottleneck:ratio30m{bottleneck="memory_bandwidth"}'
    limited = mean("roofline_engine_batch_limiter", "30m", ENGINE, f'limiter="{limiter}"')
    return lambda threshold: (
        f"(roofline:engine:gpu_compute_used:ratio30m < {threshold})\n"
        f"and on {by(ENGINE)}\n"
        f"({bound} > {thresholds.DOMINANT_SHARE})\n"
        f"and on {by(ENGINE)}\n"
        f"({limited} > {thresholds.DOMINANT_SHARE})\n"
        # Where decode mostly reads the cache, more sequences bring their own bytes along.
        f"unless on {by(ENGINE)}\n(\n  {indented(_cache_share())} > {thresholds.DOMINANT_SHARE}\n)"
    )


def _cache_share() -> str:
    return ratio(
        increase("roofline_engine_dram_bytes_total", "30m", ENGINE, 'phase="decode",traffic="kv_cache"'),
        increase("roofline_engine_dram_bytes_total", "30m", ENGINE, 'phase="decode"'),
    )


def _underutilized_alert(name: str, limiter: str, severity: Severity, why: str, mistake: str) -> Alert:
    return Alert(
        name=name,
        group="roofline.efficiency",
        severity=severity,
        holds_for="15m",
        threshold=thresholds.COMPUTE_USED,
        expr=_underutilized(limiter),
        summary=f"The GPUs of {_ON_ENGINE} wait for memory, and {why}.",
        description=f"They do {_PERCENT} of the FLOP/s they could: each step reads all weights for too few "
        f"sequences. nvidia-smi shows them as busy. The batch is not larger because {why}.",
        mistake=mistake,
    )


_UNDERUTILIZED = (
    _underutilized_alert(
        "GpuMemoryBoundUnderutilizedByTraffic",
        "traffic",
        "info",
        "there are no more requests",
        "",
    ),
    _underutilized_alert(
        "GpuMemoryBoundUnderutilizedByMaxNumSeqs",
        "max_num_seqs",
        "warning",
        "the engine is not allowed more sequences while requests wait",
        MISTAKES[4],
    ),
    _underutilized_alert(
        "GpuMemoryBoundUnderutilizedByKvCache",
        "kv_cache",
        "warning",
        "the KV cache holds no more sequences",
        MISTAKES[2],
    ),
)


def _misleading(threshold: str) -> str:
    attained = mean("roofline_gpu_roof_attained_ratio", "30m", GPU)
    busy = mean("roofline_gpu_kernel_time_ratio", "30m", GPU)
    # Over many ranks a roof that decides may be far: there the class has seen what the ratio does not show.
    bound = ratio(
        increase(
            "roofline_gpu_bottleneck_seconds_total", "30m", GPU, 'bottleneck=~"memory_bandwidth|compute"'
        ),
        increase("roofline_gpu_observed_seconds_total", "30m", GPU),
    )
    return (
        f"({attained} < {threshold})\n"
        f"and on {by(GPU)}\n({busy} > {thresholds.KERNEL_TIME})\n"
        f"unless on {by(GPU)}\n(\n  {indented(bound)} > {thresholds.DOMINANT_SHARE}\n)"
    )


def _oversized(threshold: str) -> str:
    # Every five minutes of a day: of all samples a thousand nodes would be more than one query may read.
    largest = f"max by {by(ENGINE)} (max_over_time(roofline_engine_decode_batch_size[1d:5m]))"
    watched = f"max by {by(ENGINE)} (roofline_engine_up offset 12h)"
    fast = mean_of_engine(f"max by {by(DEVICE)} (roofline_gpu_peak_dram_bytes_per_second)")
    return (
        f"({largest} < {threshold})\n"
        f"and on {by(ENGINE)}\n({watched} == 1)\n"
        f"and on {by(ENGINE)}\n({indented(fast)} >= {thresholds.FAST_DRAM_BYTES_PER_SECOND:g})\n"
        # Where prompts keep the tensor cores busy, more is used of it than its bandwidth.
        f"unless on {by(ENGINE)}\n"
        f"(max_over_time(roofline:engine:gpu_compute_used:ratio30m[1d:5m]) > {thresholds.COMPUTE_USED.text})"
    )


def _idle_held(threshold: str) -> str:
    idle = bottleneck_share("idle", "1h")
    return f"(\n  {indented(idle)} > {threshold}\n)\nand on {by(DEVICE)}\n{HELD}"


def _roof_lowered(reasons: str, window: str) -> Callable[[str], str]:
    clocked = (
        f"min by {by(GPU)} (\n"
        f"  avg_over_time(roofline_gpu_roof_flops_per_second[{window}])\n"
        f"  /\n"
        f"  roofline_gpu_peak_flops_per_second\n"
        f")"
    )
    limited = (
        f"max by {by(GPU)} (\n"
        f"  sum by {by((*GPU, 'reason'))} (\n"
        f'    rate(roofline_gpu_clock_limited_seconds_total{{reason=~"{reasons}"}}[{window}])\n'
        f"  )\n"
        f")"
    )
    idle = bottleneck_share("idle", window)
    return lambda threshold: (
        f"(1 - {clocked} > {threshold})\n"
        f"and on {by(GPU)}\n({limited} > {thresholds.LIMITED_SHARE})\n"
        f"unless on {by(GPU)}\n(\n  {indented(idle)} > {thresholds.DOMINANT_SHARE}\n)"
    )


def _host_bound(threshold: str) -> str:
    return f'roofline:engine:gpu_bottleneck:ratio30m{{bottleneck="host"}} > {threshold}'


_EFFICIENCY = (
    *_UNDERUTILIZED,
    Alert(
        name="GpuUtilizationMisleading",
        group="roofline.efficiency",
        severity="warning",
        holds_for="15m",
        threshold=thresholds.ROOF_ATTAINED,
        expr=_misleading,
        summary=f"{_ON_GPU} looks busy and is near neither of its roofs.",
        description=f"Kernels run for more than {thresholds.KERNEL_TIME:.0%} of the time, which is what "
        f"nvidia-smi calls utilization, and reach {_PERCENT} of the nearer roof.",
        mistake=MISTAKES[0],
    ),
    Alert(
        name="GpuOversizedForTraffic",
        group="roofline.planning",
        severity="info",
        holds_for="1h",
        threshold=thresholds.SINGLE_USER_BATCH,
        expr=_oversized,
        summary=f"{_ON_ENGINE} runs on the fastest GPUs for a handful of users.",
        description="In a day no decode batch was larger than {{ $value | humanize }}: only the bandwidth of "
        "these GPUs is used, and cheaper ones sell more of it for each dollar.",
        mistake=MISTAKES[1],
    ),
    Alert(
        name="GpuHostBound",
        group="roofline.efficiency",
        severity="warning",
        holds_for="15m",
        threshold=thresholds.HOST_SHARE,
        expr=_host_bound,
        summary=f"The GPUs of {_ON_ENGINE} wait for their host.",
        description=f"For {_PERCENT} of half an hour the wait between a step's last kernel and the next step "
        "was the largest part: scheduling, sampling or tokenizing on the CPU sets the pace.",
    ),
    Alert(
        name="GpuIdleHeld",
        group="roofline.efficiency",
        severity="warning",
        holds_for="30m",
        threshold=thresholds.IDLE_SHARE,
        expr=_idle_held,
        summary=f"{_ON_GPU} is held and does nothing.",
        description=f"It was idle for {_PERCENT} of the last hour, while an engine, a container or a process "
        "has it and nobody else can use it.",
    ),
    Alert(
        name="GpuRoofLoweredByPower",
        group="roofline.efficiency",
        severity="warning",
        holds_for="15m",
        threshold=thresholds.ROOF_LOST,
        expr=_roof_lowered(thresholds.POWER_REASONS, "15m"),
        summary=f"Power limits {_ON_GPU}: its compute roof is lowered.",
        description=f"{_PERCENT} of the FLOP/s are gone while it works: the driver holds the SM clock "
        "down to stay within the power limit. Prefill and time to first token suffer, decode hardly.",
    ),
    Alert(
        name="GpuRoofLoweredByHeat",
        group="roofline.efficiency",
        severity="critical",
        holds_for="5m",
        threshold=thresholds.ROOF_LOST,
        expr=_roof_lowered(thresholds.HEAT_REASONS, "5m"),
        summary=f"Heat limits {_ON_GPU}: its compute roof is lowered.",
        description=f"{_PERCENT} of the FLOP/s are gone while it works: the GPU or its memory is too hot, "
        "and clocks are held down.",
    ),
)


# --- engines ---------------------------------------------------------------------------------------


def _step_share(component: str, window: str) -> str:
    return ratio(
        increase("roofline_engine_step_seconds_total", window, ENGINE, f'component="{component}"'),
        increase("roofline_engine_step_seconds_total", window, ENGINE),
    )


def _interconnect_bound(threshold: str) -> str:
    busy = ratio(
        increase("roofline_engine_phase_seconds_total", "30m", ENGINE, 'phase!="neither"'),
        increase("roofline_engine_observed_seconds_total", "30m", ENGINE),
    )
    return (
        f"(\n  {indented(_step_share('interconnect', '30m'))} > {threshold}\n)\n"
        f"and on {by(ENGINE)}\n(\n  {indented(busy)} > {thresholds.BUSY_SHARE}\n)"
    )


def _interference(threshold: str) -> str:
    answer = ratio(
        increase("roofline_engine_generation_tokens_total", "15m", ENGINE),
        increase("roofline_engine_requests_total", "15m", ENGINE),
    )
    return (
        f"({mean('roofline_engine_prefill_interference_ratio', '15m', ENGINE)} > {threshold})\n"
        f"and on {by(ENGINE)}\n(\n  {indented(answer)} > {thresholds.ANSWER_TOKENS}\n)"
    )


def _exhaustion(threshold: str) -> str:
    until = "roofline_engine_kv_cache_seconds_to_full"
    # The hour at which it would be full, the latest of those foreseen: a steady fill foresees the same
    # all the time, while the seconds to it fall.
    foreseen = f"max by {by(ENGINE)} (max_over_time(({until} + time())[15m:1m]))"
    filling = ratio(
        f"sum by {by(ENGINE)} (count_over_time({until}[15m]))",
        f"sum by {by(ENGINE)} (count_over_time(roofline_engine_kv_cache_used_ratio[15m]))",
    )
    return (
        f"({foreseen} - time() < {threshold})\n"
        f"and on {by(ENGINE)}\n(max by {by(ENGINE)} ({until}) < {threshold})\n"
        f"and on {by(ENGINE)}\n(\n  {indented(filling)} > {thresholds.FILLING_SHARE}\n)"
    )


def _preempting(threshold: str) -> str:
    preempted = increase("roofline_engine_preemptions_total", "15m", ENGINE)
    # Where so much is thrown out that no request ends, each is counted as for one.
    return (
        f"({preempted}\n"
        f"/\n"
        f"clamp_min({increase('roofline_engine_requests_total', '15m', ENGINE)}, 1)\n"
        f"> {threshold})\n"
        f"and on {by(ENGINE)}\n({preempted} > {thresholds.PREEMPTIONS_MIN})"
    )


def _down(matchers: str) -> Callable[[str], str]:
    """Silent, and not because somebody ended it; one that never answered has no model's name."""
    return lambda _: (
        f"max by {by(ENGINE)} (roofline_engine_up{{{matchers}}}) == 0\n"
        f"unless on {by(ENGINE)}\n"
        f"(max by {by(ENGINE)} (roofline_engine_gone) == 1)"
    )


_ENGINES = (
    Alert(
        name="EngineInterconnectBound",
        group="roofline.engine",
        severity="warning",
        holds_for="15m",
        threshold=thresholds.INTERCONNECT_SHARE,
        expr=_interconnect_bound,
        summary=f"{_ON_ENGINE} spends its steps on talk between GPUs.",
        description=f"Collectives of its parallel ranks take {_PERCENT} of the step time: the links between "
        "its GPUs are too slow for so many ranks.",
    ),
    Alert(
        name="EnginePrefillInterference",
        group="roofline.engine",
        severity="warning",
        holds_for="10m",
        threshold=thresholds.INTERFERENCE_SHARE,
        expr=_interference,
        summary=f"Others' prompts hold up the answers of {_ON_ENGINE}.",
        description=f"{_PERCENT} of the time of its decoding steps goes to prefill that rides in them: the "
        "time between tokens is that much longer.",
        mistake=MISTAKES[3],
    ),
    Alert(
        name="EngineKvCacheExhaustionPredicted",
        group="roofline.engine",
        severity="warning",
        holds_for="5m",
        threshold=thresholds.KV_SECONDS_TO_FULL,
        expr=_exhaustion,
        summary=f"The KV cache of {_ON_ENGINE} will be full within a quarter of an hour.",
        description="It has been filling all along, and at this pace it is full in "
        "{{ $value | humanizeDuration }} at most: then requests wait, or are preempted and computed twice.",
        mistake=MISTAKES[2],
    ),
    Alert(
        name="EnginePreempting",
        group="roofline.engine",
        severity="warning",
        holds_for="5m",
        threshold=thresholds.PREEMPTIONS_PER_REQUEST,
        expr=_preempting,
        summary=f"{_ON_ENGINE} throws requests out of its batch and computes them twice.",
        description=f"The KV cache is full: {_TWO_DIGITS} preemptions for each request that ends. "
        "Answers pause, and prefill is done again.",
        mistake=MISTAKES[2],
    ),
    Alert(
        name="EngineModelDisagrees",
        group="roofline.engine",
        severity="warning",
        holds_for="30m",
        threshold=thresholds.AGREEMENT,
        expr=lambda threshold: (
            f"{mean('roofline_engine_model_agreement_ratio', '30m', ENGINE)} > {threshold}\n"
            f"or\n"
            f"{mean('roofline_engine_model_agreement_ratio', '30m', ENGINE)} < 1 / {threshold}"
        ),
        summary=f"What is computed for {_ON_ENGINE} does not fit what its GPUs measure.",
        description=f"Modelled bytes are {_TWO_DIGITS} times the measured ones, where 0.9 to 1.3 is "
        "expected: intensity, headroom in bytes and the division of its steps are not to be trusted.",
    ),
    Alert(
        name="EngineStalled",
        group="roofline.engine",
        severity="critical",
        holds_for="1m",
        threshold=thresholds.STALLED_SECONDS,
        expr=lambda threshold: f"max by {by(ENGINE)} (roofline_engine_stalled_seconds) > {threshold}",
        summary=f"{_ON_ENGINE} has requests in hand and makes no step.",
        description="For {{ $value | humanizeDuration }} no step has ended. Its page answers, and to most "
        "dashboards it looks idle or busy; it hangs.",
    ),
    Alert(
        name="EngineDown",
        group="roofline.engine",
        severity="critical",
        holds_for="2m",
        expr=_down('model!=""'),
        summary=f"{_ON_ENGINE} does not answer.",
        description="Its page of metrics cannot be read, and nobody ended it as far as is known. Its GPUs "
        "are watched by their counters alone.",
    ),
    Alert(
        name="EngineDown",
        group="roofline.engine",
        severity="warning",
        holds_for="30m",
        expr=_down('model=""'),
        summary="The server {{ $labels.server }} on {{ $labels.instance }} has never answered.",
        description="It is configured or was found, and its page of metrics could not be read once. A large "
        "model loads in minutes, not in half an hour.",
    ),
)


# --- money and promises ----------------------------------------------------------------------------


TOKENS = "roofline:model:engine_generation_tokens:increase5m"


def _dollars_per_token(offset: str | None = None) -> str:
    paid = recorded("roofline:model:engine_cost_usd:increase5m", "1d", SERVICE, offset=offset)
    given = recorded(TOKENS, "1d", SERVICE, offset=offset)
    return ratio(paid, given)


def _cost_regressed(threshold: str) -> str:
    tokens = recorded(TOKENS, "1d", SERVICE)
    return (
        f"(\n  (\n    {indented(_dollars_per_token(), 4)}\n  )\n"
        f"  /\n"
        f"  (\n    {indented(_dollars_per_token('7d'), 4)}\n  )\n"
        f"  > {threshold}\n)\n"
        f"and on {by(SERVICE)}\n({tokens} > {thresholds.COST_MIN_TOKENS})\n"
        # A whole day then too: a part of one has other hours, and a night's tokens are dearer.
        f"and on {by(SERVICE)}\n({TOKENS} offset 8d)"
    )


@dataclass(frozen=True, slots=True)
class _Burn:
    factor: float
    long: str
    short: str
    holds_for: str
    severity: Severity
    spends: str


_BURNS = (
    _Burn(14.4, "1h", "5m", "2m", "critical", "2 % of a month's error budget in an hour"),
    _Burn(6, "6h", "30m", "15m", "critical", "5 % of a month's error budget in six hours"),
    _Burn(3, "1d", "2h", "1h", "warning", "10 % of a month's error budget in a day"),
    _Burn(1, "3d", "6h", "3h", "warning", "10 % of a month's error budget in three days"),
)
"""Pairs of windows and their factors (Google, The Site Reliability Workbook, chapter 5)."""


def _burning(slo: str, burn: _Burn) -> Callable[[str], str]:
    keys = (*SERVICE, "slo")
    chosen = f'{{slo="{slo}"}}'
    budget = f"(1 - min by {by(keys)} (roofline_engine_slo_objective_ratio{chosen}))"
    events = slo_events(burn.long, keys, f'slo="{slo}"')
    return lambda threshold: (
        f"(roofline:model:slo_errors:ratio{burn.long}{chosen} > on {by(keys)} {threshold} * {budget})\n"
        f"and on {by(keys)}\n"
        f"(roofline:model:slo_errors:ratio{burn.short}{chosen} > on {by(keys)} {threshold} * {budget})\n"
        f"and on {by(keys)}\n"
        f"({events} > {thresholds.BURN_MIN_EVENTS})"
    )


def _burn_alerts(name: str, slo: str, what: str, where: str) -> tuple[Alert, ...]:
    return tuple(
        Alert(
            name=name,
            group="roofline.slo",
            severity=burn.severity,
            holds_for=burn.holds_for,
            labels={"long": burn.long, "short": burn.short},
            threshold=Threshold(
                value=burn.factor,
                unit="× the error budget",
                reason=f"at this pace {burn.spends} is spent (SRE workbook, chapter 5); the short window "
                "ends the alert soon after the cause.",
            ),
            expr=_burning(slo, burn),
            summary=f"{_ON_SERVICE}: {what} burns the error budget.",
            description=f"{_PERCENT} of {where} of the last {burn.long} missed the target, more than "
            f"{f'{burn.factor:g} times what ' if burn.factor != 1 else ''}the objective allows.",
        )
        for burn in _BURNS
    )


_PROMISES = (
    Alert(
        name="EngineCostPerTokenRegressed",
        group="roofline.planning",
        severity="warning",
        holds_for="1h",
        threshold=thresholds.COST_GROWTH,
        expr=_cost_regressed,
        summary=f"A token of {_ON_SERVICE} costs more than a week ago.",
        description=f"{_TWO_DIGITS} times as much for each output token as on the same day last "
        "week, idle time included.",
    ),
    *_burn_alerts("EngineTtftBudgetBurn", "ttft", "time to first token", "requests"),
    *_burn_alerts("EngineInterTokenBudgetBurn", "inter_token", "time between tokens", "tokens"),
)


# --- hardware --------------------------------------------------------------------------------------


def _xid(matchers: str) -> str:
    keys = (*GPU, "xid")
    counted = selector("roofline_gpu_xid_errors_total", matchers)
    age = f"time() - max by {by(GPU)} (roofline_gpu_last_xid_timestamp_seconds)"
    return (
        f"{increase('roofline_gpu_xid_errors_total', '15m', keys, matchers)} > 0\n"
        f"or\n"
        # One that is not counted from 0 begins with its first error, and a beginning is no increase. After
        # a gap in scraping all seem to begin: hence the time of the last.
        f"(\n"
        f"  (max by {by(keys)} ({counted}) > 0 unless on {by(keys)} {counted} offset 15m)\n"
        f"  and on {by(GPU)} ({age} < 900)\n"
        f")"
    )


def _uncorrected(_: str) -> str:
    return increase("roofline_gpu_ecc_errors_total", "1h", GPU, 'severity="uncorrected"') + " > 0"


_HARDWARE = (
    Alert(
        name="GpuLost",
        group="roofline.hardware",
        severity="critical",
        holds_for="1m",
        expr=lambda _: f"max by {by(GPU)} (roofline_gpu_up) == 0",
        summary=f"{_ON_GPU} cannot be read.",
        description="The driver answers, and for this GPU it does not: it has fallen off the bus, or is "
        "being reset. Whatever ran on it has failed.",
    ),
    Alert(
        name="GpuXidError",
        group="roofline.hardware",
        severity="critical",
        holds_for="0m",
        expr=lambda _: _xid(f'xid!~"{thresholds.HARMLESS_XIDS}|{thresholds.NOTED_XIDS}"'),
        summary=f"{_ON_GPU} reported XID {{{{ $labels.xid }}}}.",
        description=f"Times in a quarter of an hour: {_WHOLE}. This XID is the hardware's or the driver's, "
        "not the application's alone.",
    ),
    Alert(
        name="GpuXidError",
        group="roofline.hardware",
        severity="warning",
        holds_for="0m",
        expr=lambda _: _xid(f'xid=~"{thresholds.NOTED_XIDS}"'),
        summary=f"{_ON_GPU} reported XID {{{{ $labels.xid }}}}.",
        description=f"Times in a quarter of an hour: {_WHOLE}. It asks for nothing at once: the GPU has "
        "repaired itself, or says what another XID did.",
    ),
    Alert(
        name="GpuEccUncorrected",
        group="roofline.hardware",
        severity="critical",
        holds_for="0m",
        expr=_uncorrected,
        summary=f"The memory of {_ON_GPU} gave wrong data.",
        description=f"Uncorrected errors in an hour: {_WHOLE}. Somebody's work was lost.",
    ),
    Alert(
        name="GpuRecoveryActionNeeded",
        group="roofline.hardware",
        severity="warning",
        holds_for="1m",
        expr=lambda _: f'max by {by((*GPU, "action"))} (roofline_gpu_recovery_action{{action!="none"}}) == 1',
        summary=f"{_ON_GPU} needs a recovery action: {{{{ $labels.action }}}}.",
        description="The driver asks for it. Until it is done, the GPU works with a fault or not at all.",
    ),
)


# --- the agent -------------------------------------------------------------------------------------


def _agents(expr: str) -> str:
    """Of targets that are agents of ours."""
    return f"{expr}\nand on {by(TARGET)}\n{AGENT}"


def _stale(threshold: str) -> str:
    """Held against the time of the scrape, not against now: a scrape may be a minute ago."""
    assessed = "roofline_assessment_timestamp_seconds"
    return f"min by {by(TARGET)} (timestamp({assessed}) - {assessed}) > {threshold}"


def _over_budget(threshold: str) -> str:
    cpu = f"rate(process_cpu_seconds_total[15m]) / {thresholds.BUDGET_CORES}"
    memory = f"avg_over_time(process_resident_memory_bytes[15m]) / {thresholds.BUDGET_BYTES}"
    keys = (*TARGET, "resource")
    return _agents(
        f"max by {by(keys)} (\n"
        f'  label_replace({cpu}, "resource", "CPU", "", "")\n'
        f"  or\n"
        f'  label_replace({memory}, "resource", "memory", "", "")\n'
        f") > {threshold}"
    )


_AGENTS = (
    Alert(
        name="SourceDown",
        group="roofline.agent",
        severity="warning",
        holds_for="10m",
        expr=lambda _: f'max by {by((*TARGET, "source"))} (roofline_source_up{{source!~"engine:.*"}}) == 0',
        summary="{{ $labels.source }} cannot be read on {{ $labels.instance }}.",
        description="What it would tell has left the page, and what is derived from it is unknown.",
    ),
    Alert(
        name="AgentDown",
        group="roofline.agent",
        severity="warning",
        holds_for="5m",
        expr=lambda _: _agents(f"max by {by(TARGET)} (up) == 0"),
        summary="The agent on {{ $labels.instance }} cannot be scraped.",
        description="Nothing is known of this node's GPUs and engines from here on.",
    ),
    Alert(
        name="AgentAbsent",
        group="roofline.agent",
        severity="warning",
        holds_for="10m",
        expr=lambda _: "absent(roofline_build_info)",
        summary="No agent is scraped anywhere.",
        description="Either none runs, or Prometheus does not find them: all other alerts are blind.",
    ),
    Alert(
        name="AgentStale",
        group="roofline.agent",
        severity="warning",
        holds_for="2m",
        threshold=thresholds.STALE_SECONDS,
        expr=_stale,
        summary="The agent on {{ $labels.instance }} answers and assesses nothing.",
        description="What its page shows is {{ $value | humanizeDuration }} old.",
    ),
    Alert(
        name="AgentConfigurationRefused",
        group="roofline.agent",
        severity="warning",
        holds_for="5m",
        expr=lambda _: f"max by {by(TARGET)} (roofline_config_last_reload_successful) == 0",
        summary="The agent on {{ $labels.instance }} refuses its configuration.",
        description="It goes on by the last good one, until it is restarted: then it will not start.",
    ),
    Alert(
        name="AgentOverBudget",
        group="roofline.agent",
        severity="info",
        holds_for="15m",
        threshold=thresholds.BUDGET,
        expr=_over_budget,
        summary="The agent on {{ $labels.instance }} costs more {{ $labels.resource }} than promised.",
        description=f"{_TWO_DIGITS} times its budget of 1 % of a core and 60 MiB.",
    ),
)

ALERTS: tuple[Alert, ...] = tuple(
    sorted(
        (*_EFFICIENCY, *_ENGINES, *_PROMISES, *_HARDWARE, *_AGENTS),
        key=lambda alert: GROUPS.index(alert.group),
    )
)

RUNBOOK_NAMES: tuple[str, ...] = tuple(dict.fromkeys(alert.name for alert in ALERTS))
"""Each name once, in the order of the table."""
