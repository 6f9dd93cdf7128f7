"""The review as a document: what the JSON file holds, and all that the other formats show.

Money is US dollars, times are hours of one GPU (`gpu_hours`) or seconds, instants are UTC. `None` is what
nobody can tell – no prices, no samples, no such traffic – and is never written as 0. `Review.sources` says
which queries the numbers of a section come from, by their ids in `Review.queries`.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.roofline.bottleneck import BOTTLENECKS

SCHEMA_VERSION: Literal[1] = 1
"""Raised when a reader of the one before would be wrong; fields may be added without."""

UNALLOCATED = "unallocated"
"""Of a board in MIG mode, what no instance has: it is paid and has no class."""
CLASSES: tuple[str, ...] = (*BOTTLENECKS, UNALLOCATED)

AlternativeKind = Literal["fewer_replicas", "other_gpu", "quantized", "disaggregated", "larger_batch"]
Confidence = Literal["measured", "estimate", "low"]
"""`measured`: sums of counters. `estimate`: of a model, whose assumptions stand beside. `low`: of little."""


class Element(BaseModel):
    """Something that the document is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Period(Element):
    """From the first instant up to the second, which is not in it."""

    name: str
    """`2026-11`, or `2026-11-03 – 2026-11-10`."""
    start: datetime
    end: datetime
    hours: float


class Selection(Element):
    """What was asked about."""

    cluster: str | None
    """`None`: all clusters."""
    group_by: str
    """`model`, `namespace`, `gpu`, `cluster`, `engine`, or `label:NAME` of a namespace."""


class Problem(Element):
    """A query that gave nothing, or not all: what it leaves out is in no sum."""

    what: str
    message: str
    queries: tuple[str, ...]
    start: datetime
    end: datetime


class EvidenceShare(Element):
    """How much of the GPUs' time a quantity was known by this evidence."""

    quantity: str
    """`dram_bytes`, `flops`, `dram_active`, `tensor_active`, `sm_active`."""
    evidence: str
    """`gpm`, `dcgm`, `modelled`, `none`."""
    ratio: float


class Gap(Element):
    """Time in which nothing was recorded of anything."""

    start: datetime
    end: datetime
    hours: float


class OfService(Element):
    """About a model as it is served: in which cluster, by which software, on what, for whom."""

    cluster: str
    model: str
    engine: str
    part: str
    namespace: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What tells it from others."""
        return self.cluster, self.model, self.engine, self.part, self.namespace


class Disagreement(OfService):
    """An engine's model moves other bytes than its GPUs measured."""

    ratio: float
    """Modelled ÷ measured; 0.9 to 1.3 is expected."""


class Quality(Element):
    """Whether the numbers can be believed."""

    is_poor: bool
    """Then it is said first, before any number."""
    remarks: tuple[str, ...]
    """What is wrong, in sentences; empty when nothing is."""
    earliest_sample: datetime | None
    """Of what is recorded, at any time."""
    coverage_ratio: float
    """Of the period's five minutes, those in which anything was recorded."""
    node_coverage_ratio: float | None
    """The same of each node between its first and its last; the mean."""
    observed_gpu_hours: float
    unobserved_gpu_hours: float
    """Agents ran, and could not see the GPU."""
    contradicted_gpu_hours: float
    """Profiling counters read 0 while kernels ran."""
    gaps: tuple[Gap, ...]
    """The longest first; of an hour and more."""
    evidence: tuple[EvidenceShare, ...]
    disagreements: tuple[Disagreement, ...]


class Totals(Element):
    """Everything together."""

    nodes: float | None
    """On average over the time that was recorded."""
    gpus: float
    gpu_hours: float
    idle_gpu_hours: float
    idle_held_gpu_hours: float
    """Idle while an engine, a container or a process had it."""
    paid_usd: float | None
    used_usd: float | None
    """While something bounded the GPU, `unknown` included: with the next two it is what was paid."""
    idle_usd: float | None
    unallocated_usd: float | None
    """Of boards in MIG mode, what no instance has."""
    unattributed_usd: float | None
    """Held by no engine that agents know."""
    generation_tokens: float
    prefill_tokens: float
    cached_prompt_tokens: float
    requests: float
    usd_per_million_tokens: float | None
    """Of output, idle and what no engine held included: paid ÷ generated."""
    energy_joules: float | None
    joules_per_million_tokens: float | None
    """Of output; the engines' energy."""


class ClassTime(Element):
    """Where the seconds went, and what they cost."""

    name: str
    """One of `CLASSES`."""
    gpu_hours: float
    ratio: float
    """Of all observed hours."""
    usd: float | None
    previous_ratio: float | None
    by_part: dict[str, float]
    """GPU hours by part."""


class Batch(Element):
    """Decode's mean batch, against what it is held to."""

    mean: float | None
    ridge: float | None
    """At which decode would reach the ridge; `None` where no batch can."""
    kv_limit: float | None
    """Sequences of the present length that the KV cache holds."""
    max_num_seqs: float | None


class Service(OfService):
    """A model as it is served, and what it did and cost."""

    gpus: float
    """Held, on average over the period."""
    gpu_hours: float
    hours_by_class: dict[str, float]
    """GPU hours; without time that it did not hold."""
    usd: float | None
    """Of GPUs on nodes whose agents see them; these sum to what was paid."""
    remote_usd: float | None
    """Estimate for its GPUs on other nodes; in no sum."""
    idle_usd: float | None
    prefill_usd: float | None
    decode_usd: float | None
    generation_tokens: float
    prefill_tokens: float
    cached_prompt_tokens: float
    requests: float
    usd_per_million_tokens: float | None
    """Of output, idle included, and its GPUs on other nodes."""
    usd_per_million_tokens_without_idle: float | None
    previous_usd_per_million_tokens: float | None
    joules_per_million_tokens: float | None
    previous_joules_per_million_tokens: float | None
    flops: float
    dram_bytes: float
    intensity_flops_per_byte: float | None
    batch: Batch
    weights_ratio: float | None
    """Of the bytes that decode moves, those of weights; the rest is mostly KV cache."""
    preemptions: float


class Group(Element):
    """Services together, as was asked for."""

    name: str
    gpu_hours: float
    hours_by_class: dict[str, float]
    usd: float | None
    ratio: float
    """Of all observed hours."""
    idle_usd: float | None
    generation_tokens: float
    usd_per_million_tokens: float | None
    previous_usd: float | None
    previous_usd_per_million_tokens: float | None


class PartTime(Element):
    """GPUs of one type; `… MIG` are instances of GPUs in MIG mode, which are a share of one."""

    part: str
    gpus: float
    gpu_hours: float
    hours_by_class: dict[str, float]
    paid_usd: float | None
    idle_usd: float | None
    unattributed_usd: float | None
    generation_tokens: float
    usd_per_gpu_hour: float | None
    """Of whole GPUs, over the hours that had a price, without what is unallocated."""
    usd_per_million_tokens: float | None
    energy_joules: float | None
    mean_dram_active_ratio: float | None
    """Measured, over the time for which there was a measurement."""
    mean_tensor_active_ratio: float | None


class Day(Element):
    """One day, or the rest of one."""

    date: date
    coverage_ratio: float
    gpu_hours: float
    hours_by_class: dict[str, float]
    paid_usd: float | None
    idle_usd: float | None
    generation_tokens: float
    usd_per_million_tokens: float | None
    joules_per_million_tokens: float | None


class Trend(OfService):
    """A service, day by day; `None` on days without output."""

    usd_per_million_tokens: tuple[float | None, ...]
    joules_per_million_tokens: tuple[float | None, ...]
    generation_tokens: tuple[float, ...]


class Cell(Element):
    """GPU time that a model spent near one point of the roofline."""

    intensity_flops_per_byte: float
    """The middle of the cell, of the logarithm; cells are a quarter of a decade wide and high."""
    flops_per_second: float
    """Of one GPU."""
    gpu_hours: float


class Roofline(Element):
    """Where a model was, hour by hour, on the roofline of its GPUs."""

    model: str
    part: str
    dtype: str
    """Of the compute roof."""
    roof_flops_per_second: float
    """Of one GPU, by its sheet; as `roof_dram_bytes_per_second`."""
    roof_dram_bytes_per_second: float
    ridge_flops_per_byte: float
    cells: tuple[Cell, ...]
    idle_gpu_hours: float
    """Hours without any work: nowhere on the chart."""


class ClockLoss(Element):
    """GPU time in which something held the clocks down. Reasons overlap, so they do not sum."""

    part: str
    reason: str
    gpu_hours: float
    ratio: float
    """Of this part's observed hours."""


class RequestLoss(OfService):
    """Requests that gave no answer, and work that was done twice."""

    requests: float
    """All that were finished."""
    by_outcome: dict[str, float]
    """Those without a whole answer: `error`, and `abort`, which is often the client's own."""
    rejected: float
    failed_gpu_hours_estimate: float | None
    """If a failed request took as much as any other."""
    preemptions: float
    preempted_gpu_hours_estimate: float | None
    """If each preempted request computed its mean prompt and half its mean answer again."""


class FaultCount(Element):
    """Reports of broken hardware."""

    part: str
    kind: str
    """`xid 79`, `ecc uncorrected`."""
    count: float


class Losses(Element):
    """Hours that did nothing for anybody."""

    clocks: tuple[ClockLoss, ...]
    requests: tuple[RequestLoss, ...]
    faults: tuple[FaultCount, ...]
    unobserved_gpu_hours: float


class Attainment(Element):
    """How much of what users wanted they got."""

    model: str
    cluster: str
    slo: str
    """`ttft` (requests) or `inter_token` (tokens)."""
    events: float
    good: float
    ratio: float
    objective_ratio: float | None
    previous_ratio: float | None
    budget_spent_ratio: float | None
    """Bad events ÷ those that the objective allows; above 1 it was missed."""
    worst_day: date | None
    worst_day_ratio: float | None

    @property
    def is_missed(self) -> bool | None:
        """Whether more was bad than the objective allows; `None` where that cannot be told."""
        return None if self.objective_ratio is None else self.ratio < self.objective_ratio


class Alternative(Element):
    """The same traffic, served otherwise."""

    kind: AlternativeKind
    what: str
    """A sentence."""
    gpu: str
    gpus: int
    weight_dtype: str
    batch: float
    usd_per_gpu_hour: float | None
    price_origin: str
    """`measured` (paid in its cluster), `paid in other clusters`, or where the typical price comes from."""
    usd: float | None
    """For the whole period."""
    savings_usd: float | None
    savings_ratio: float | None
    token_seconds: float
    """Expected between two tokens."""
    present_token_seconds: float | None
    """The same formula's for today's set-up."""
    confidence: Confidence
    because: str
    """Of the confidence: what it rests on, and what would make it wrong."""


class RightSizing(OfService):
    """What a model could be served by, for the traffic that it had."""

    gpus: float
    usd: float | None
    busiest_hour_requests_per_second: float
    mean_requests_per_second: float
    prompt_tokens: float
    """Of a mean request, with the cached ones."""
    output_tokens: float
    refused: str
    """Why nothing is proposed; empty when something is."""
    alternatives: tuple[Alternative, ...]
    """Those of typical prices last, else the most saved first."""


class Offender(Element):
    """Something that wastes, and what to do about it."""

    rank: int
    kind: str
    """Of `clocks_heat` and `clocks_power` the hours are in other entries too, and they have no `usd`."""
    title: str
    subject: dict[str, str]
    """Labels that say which: `cluster`, `model`, `namespace`, `part`, `instance`."""
    gpu_hours: float
    usd: float | None
    """Of these hours."""
    ratio: float
    """Of all observed hours."""
    savings_usd: float | None
    """What the planner expects to save in such a month, of all that the service cost: said once of each."""
    confidence: Confidence
    why: str
    action: str
    runbook: str
    """The alert's name."""
    runbook_url: str
    queries: tuple[str, ...]


class Identity(Element):
    """Two ways to one number."""

    name: str
    left: float
    right: float
    error_ratio: float
    """Of the larger."""
    holds: bool
    """Within 1 %: recorded increases are extrapolated to whole intervals, each by itself."""


class Query(Element):
    """Where numbers come from."""

    id: str
    what: str
    unit: str
    promql: str
    """Gives the same sum when asked as of `at`."""
    at: datetime


class Review(Element):
    """What was paid, what it did, where the seconds went, and what to do about it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    agent_version: str
    generated_at: datetime
    source: str
    """Which server was asked; without credentials."""
    period: Period
    previous: Period | None
    """What it is compared with; `None` when nothing was recorded then."""
    selection: Selection
    is_complete: bool
    """Whether every query was answered, for the whole period."""
    problems: tuple[Problem, ...]
    quality: Quality
    summary: tuple[str, ...] = Field(min_length=1)
    totals: Totals
    previous_totals: Totals | None
    previous_coverage_ratio: float | None
    """Of the period before; where it is much below this one's, only quotients can be compared."""
    classes: tuple[ClassTime, ...]
    parts: tuple[PartTime, ...]
    services: tuple[Service, ...]
    """By what they cost, the most first."""
    groups: tuple[Group, ...]
    days: tuple[Day, ...]
    trends: tuple[Trend, ...]
    rooflines: tuple[Roofline, ...]
    losses: Losses
    slos: tuple[Attainment, ...]
    right_sizing: tuple[RightSizing, ...]
    offenders: tuple[Offender, ...]
    identities: tuple[Identity, ...]
    sources: dict[str, tuple[str, ...]]
    """By the name of the section: the ids of its queries."""
    queries: tuple[Query, ...]
