"""The worst: what wasted most, with what to do about it.

Each GPU hour has one class, so that no two of a service's entries speak of the same hour. Hours in which
clocks were held down are an overlay: the GPU worked, and they are in other entries too. They are no money and
stand last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.report.accounts import TIMES
from agent.report.document import UNALLOCATED, Alternative, Confidence, Losses, Offender, RightSizing, Service
from agent.report.losses import HEAT, POWER
from agent.report.measured import Measured, hours, ratio
from agent.runbooks import runbook_url
from agent.units import render_number, render_percent

MOST = 10
LEAST_HOURS = 1.0
LEAST_USD = 1.0
"""Of what takes no time."""
LIMITED = 0.8
"""Of what the batch is held to: nearer, and it is what holds it."""
SMALL_OF_RIDGE = 0.5
SINGLE_USER_BATCH = 10
LEAST_SHARE_OF_SERVICE = 0.05
"""Of its hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Not ranked yet."""

    kind: str
    title: str
    subject: Mapping[str, str]
    gpu_hours: float
    usd: float | None
    why: str
    action: str
    runbook: str
    confidence: Confidence = "measured"
    queries: tuple[str, ...] = ()
    proposals: tuple[Alternative, ...] = field(default=(), repr=False)
    """Of the service; the best is counted at its worst entry alone."""
    is_overlay: bool = False
    """Of hours in which the GPU did its work."""

    @property
    def is_enough(self) -> bool:
        """To be worth a word."""
        return self.gpu_hours >= LEAST_HOURS if self.gpu_hours else (self.usd or 0.0) >= LEAST_USD


def offenders(
    measured: Measured, services: Sequence[Service], sizes: Sequence[RightSizing], losses: Losses
) -> tuple[Offender, ...]:
    """By money, else by hours; the worst first, and last what is only an overlay."""
    if measured.now.lack("engine_cost_usd", "model_gpu_bottleneck_seconds"):
        # The money of some hours by other hours is no price.
        services = [row.model_copy(update={"usd": None}) for row in services]
    proposals = {row.key: row.alternatives for row in sizes}
    found = [
        *(each for row in services for each in _of_service(row, proposals.get(row.key, ()))),
        *_preempting(services, losses),
        *_of_nodes(measured),
    ]
    found = [each for each in found if each.is_enough]
    found.sort(key=lambda each: (each.is_overlay, -(each.usd or 0.0), -each.gpu_hours, each.title))
    observed = hours(measured.now["gpu_observed_seconds"].amount())
    counted: set[int] = set()
    rows = []
    for rank, each in enumerate(found[:MOST], start=1):
        savings, confidence = None, each.confidence
        if each.proposals and id(each.proposals) not in counted:
            counted.add(id(each.proposals))
            savings, confidence = each.proposals[0].savings_usd, each.proposals[0].confidence
        rows.append(
            Offender(
                rank=rank,
                kind=each.kind,
                title=each.title,
                subject=dict(each.subject),
                gpu_hours=each.gpu_hours,
                usd=each.usd,
                ratio=ratio(each.gpu_hours, observed) or 0.0,
                savings_usd=savings,
                confidence=confidence,
                why=each.why,
                action=each.action,
                runbook=each.runbook,
                runbook_url=runbook_url(each.runbook),
                queries=each.queries,
            )
        )
    return tuple(rows)


# --- services --------------------------------------------------------------------------------------


def _of_service(row: Service, proposals: tuple[Alternative, ...]) -> Iterator[_Found]:
    for name in TIMES:
        taken = row.hours_by_class[name]
        if not taken or taken < LEAST_SHARE_OF_SERVICE * row.gpu_hours:
            continue
        judged = _memory_bound(row) if name == "memory_bandwidth" else _VERDICTS.get(name)
        if judged is None:
            continue
        kind, title, why, action, runbook = judged
        may_save = proposals if name in ("idle", "memory_bandwidth") else ()
        if may_save:
            action = f"{action} The planner: {may_save[0].what}"
        yield _Found(
            kind=kind,
            title=f"{_name(row)}: {title}",
            subject=_subject(row),
            gpu_hours=taken,
            usd=_at_its_rate(row, taken),
            why=f"{render_percent(taken / row.gpu_hours)} of its GPU time. {why}",
            action=action,
            runbook=runbook,
            queries=("model_gpu_bottleneck_seconds", "engine_cost_usd"),
            proposals=may_save,
        )


def _name(row: Service) -> str:
    owner = f" of {row.namespace}" if row.namespace else ""
    return f"{row.model}{owner} on {row.part or 'unknown GPUs'}"


def _subject(row: Service) -> Mapping[str, str]:
    return dict(zip(("cluster", "model", "engine", "part", "namespace"), row.key, strict=True))


def _at_its_rate(row: Service, gpu_hours: float) -> float | None:
    """What it paid for such hours on average: an hour costs the same, whatever the GPU did in it."""
    price = ratio(row.usd, row.gpu_hours)
    return None if price is None else price * gpu_hours


_Judged = tuple[str, str, str, str, str]
"""Kind, title, why, action, runbook."""


_VERDICTS: Mapping[str, _Judged] = {
    "idle": (
        "idle_held",
        "idle, and held",
        "A model was loaded and nobody asked it anything.",
        "Scale its replicas with the traffic, or to what the busiest hour needs; small models share a GPU.",
        "GpuIdleHeld",
    ),
    "host": (
        "host_bound",
        "waits for its host",
        "Between the steps the GPU had nothing to do though there was work.",
        "Asynchronous scheduling, CUDA graphs, more and faster cores for the engine.",
        "GpuHostBound",
    ),
    "kernel_latency": (
        "kernel_latency",
        "its kernels are too small",
        "Starting kernels took longer than what they do.",
        "Fewer tensor-parallel ranks, CUDA graphs, a larger batch.",
        "GpuHostBound",
    ),
    "interconnect": (
        "interconnect",
        "waits for other GPUs",
        "Its ranks waited for each other's results.",
        "Fewer ranks if the model fits, GPUs with NVLink, or pipeline stages between nodes.",
        "EngineInterconnectBound",
    ),
    "unknown": (
        "unknown",
        "nobody can tell what bounds it",
        "There was no evidence, or it contradicted itself.",
        "See that profiling counters are readable and the model is known to the agent.",
        "EngineModelDisagrees",
    ),
}
"""By class, whatever the service; computing is what GPUs are for, and what waits for memory depends."""


def _memory_bound(row: Service) -> _Judged | None:
    """Only below the ridge: at a full batch, waiting for memory is what a good decode does."""
    batch = row.batch
    if batch.mean is None or (batch.ridge is not None and batch.mean > SMALL_OF_RIDGE * batch.ridge):
        return None
    size = f"Its mean batch was {render_number(batch.mean)}"
    if batch.ridge is not None:
        size += f", and compute would bind from {render_number(batch.ridge)}"
    kind, title = "memory_bound_small_batch", "reads all weights for few tokens"
    if batch.max_num_seqs is not None and batch.mean >= LIMITED * batch.max_num_seqs:
        return (
            kind,
            title,
            f"{size}; max_num_seqs allows {render_number(batch.max_num_seqs)}.",
            "Raise max_num_seqs.",
            "GpuMemoryBoundUnderutilizedByMaxNumSeqs",
        )
    if batch.kv_limit is not None and batch.mean >= LIMITED * batch.kv_limit:
        return (
            kind,
            title,
            f"{size}; the KV cache holds {render_number(batch.kv_limit)} sequences.",
            "Give the cache room: fp8 for it or for the weights, or GPUs with more memory.",
            "GpuMemoryBoundUnderutilizedByKvCache",
        )
    if batch.mean < SINGLE_USER_BATCH:
        return (
            kind,
            title,
            f"{size}: there is no more traffic for it.",
            "Serve it with fewer replicas, so that each has a larger batch, or where bandwidth is cheaper.",
            "GpuOversizedForTraffic",
        )
    return (
        kind,
        title,
        f"{size}: there is no more traffic for it.",
        "Serve it with fewer replicas, so that each has a larger batch.",
        "GpuMemoryBoundUnderutilizedByTraffic",
    )


def _preempting(services: Sequence[Service], losses: Losses) -> Iterator[_Found]:
    rows = {row.key: row for row in services}
    for loss in losses.requests:
        row = rows[loss.key]
        if not loss.preempted_gpu_hours_estimate or not loss.preemptions:
            continue
        yield _Found(
            kind="preempting",
            title=f"{_name(row)}: computes again what it threw away",
            subject=_subject(row),
            gpu_hours=loss.preempted_gpu_hours_estimate,
            usd=_at_its_rate(row, loss.preempted_gpu_hours_estimate),
            why=(
                f"{render_number(loss.preemptions)} preemptions, one for every "
                f"{render_number(loss.requests / loss.preemptions)} requests."
            ),
            action="Lower max_num_seqs, or give the KV cache more room.",
            runbook="EnginePreempting",
            confidence="estimate",
            queries=("engine_preemptions", "engine_phase_seconds"),
        )


# --- nodes -----------------------------------------------------------------------------------------


def _of_nodes(measured: Measured) -> Iterator[_Found]:
    now = measured.now
    yield from _unallocated(measured)
    yield from _nobody_has(measured)
    for reasons, kind, title, action, runbook in (
        (
            HEAT,
            "heat",
            "its clocks are held down by heat",
            "Look at fans, airflow and dust.",
            "GpuRoofLoweredByHeat",
        ),
        (
            POWER,
            "power",
            "its clocks are held down by a power limit",
            "Raise the limit where prefill matters; decode hardly needs the clocks.",
            "GpuRoofLoweredByPower",
        ),
    ):
        for (cluster, instance, part), seconds in _longest(measured, reasons).items():
            yield _Found(
                kind=f"clocks_{kind}",
                title=f"{instance}: {title}",
                subject={"cluster": cluster, "instance": instance, "part": part},
                gpu_hours=hours(seconds),
                usd=None,
                why="The GPU worked, below a lower compute roof; these hours are in other entries too.",
                action=action,
                runbook=runbook,
                queries=("node_gpu_clock_limited_seconds",),
                is_overlay=True,
            )
    for (cluster, instance, part), seconds in (
        now["node_gpu_unobserved_seconds"].by("cluster", "instance", "part").items()
    ):
        yield _Found(
            kind="not_seen",
            title=f"{instance}: its GPUs could not be seen",
            subject={"cluster": cluster, "instance": instance, "part": part},
            gpu_hours=hours(seconds),
            usd=None,
            why="The agent ran and the driver did not answer, or GPUs were lost.",
            action="See the node's XIDs and its driver.",
            runbook="SourceDown",
            queries=("node_gpu_unobserved_seconds",),
        )


def _nobody_has(measured: Measured) -> Iterator[_Found]:
    """Money that no engine holds, as hours at the node's own price; what no instance has is told apart."""
    now = measured.now
    left = now["node_gpu_unallocated_cost_usd"]
    for (cluster, instance, part), unattributed in (
        now["node_gpu_unattributed_cost_usd"].by("cluster", "instance", "part").items()
    ):
        where = {"cluster": cluster, "instance": instance, "part": part}
        price = measured.prices.of_node(cluster, instance, part)
        usd = unattributed - left.amount(**where)
        if price is None or usd <= 0:
            continue
        yield _Found(
            kind="held_by_no_engine",
            title=f"{instance}: GPUs that no engine has",
            subject=where,
            gpu_hours=usd / price,
            usd=usd,
            why=(
                "No engine whose work the node's agent knows had them. Ranks of a replica that is served "
                "from another node are among them."
            ),
            action="Let the agent find what runs there (discovery); give back those on which nothing does.",
            runbook="GpuIdleHeld",
            queries=("node_gpu_unattributed_cost_usd", "node_gpu_unallocated_cost_usd"),
        )


def _unallocated(measured: Measured) -> Iterator[_Found]:
    """It costs and takes no time."""
    left = measured.now["node_gpu_unallocated_cost_usd"]
    for (cluster, instance, part), usd in left.by("cluster", "instance", "part").items():
        yield _Found(
            kind=UNALLOCATED,
            title=f"{instance}: boards in MIG mode that are not all dealt out",
            subject={"cluster": cluster, "instance": instance, "part": part},
            gpu_hours=0.0,
            usd=usd,
            why="What no instance has of a board is paid, and nothing can run on it.",
            action="Create instances for all of the board, or take it out of MIG mode.",
            runbook="GpuIdleHeld",
            queries=("node_gpu_unallocated_cost_usd",),
        )


def _longest(measured: Measured, reasons: Sequence[str]) -> Mapping[tuple[str, ...], float]:
    """Reasons overlap: of one node, the longest of them."""
    seconds_of = measured.now["node_gpu_clock_limited_seconds"]
    longest = dict.fromkeys(seconds_of.by("cluster", "instance", "part"), 0.0)
    for reason in reasons:
        for node, seconds in seconds_of.by("cluster", "instance", "part", reason=reason).items():
            longest[node] = max(longest[node], seconds)
    return longest
