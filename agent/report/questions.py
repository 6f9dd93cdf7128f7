"""What is asked: recorded increases, summed. Every number of a review is a sum of these answers.

A question is one recorded series and the labels to keep. It is asked by the day, by the hour, or as a whole;
the sum over the period is the same, and that is the query by which a reader traces a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.report.period import DAY_SECONDS, HOUR_SECONDS

Level = Literal["cluster", "node", "model", "namespace"]
Step = Literal["day", "hour", "whole"]
STEP_SECONDS: Mapping[Step, int | None] = {"day": DAY_SECONDS, "hour": HOUR_SECONDS, "whole": None}

OF_A_SERVICE = ("cluster", "model", "engine", "part", "workload_namespace")
"""What tells services apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A recorded series, and how it is summed."""

    id: str
    what: str
    """For people: what one of its numbers is."""
    unit: str
    level: Level
    record: str
    by: tuple[str, ...]
    step: Step = "day"
    over_time: Literal["sum", "max", "count", "last"] = "sum"
    """How the samples of a series become one. Sums are then summed, of all else the greatest is taken: what
    two jobs recorded at the same time is not recorded twice."""
    matchers: str = ""
    also_before: bool = False
    """Asked of the previous period too."""

    def promql(self, seconds: int, selection: str) -> str:
        """The query of one piece, to be asked as of its end."""
        matchers = ",".join(filter(None, (selection, self.matchers)))
        chosen = f"{self.record}{{{matchers}}}" if matchers else self.record
        # A millisecond less: a sample at the very start is of the time before it.
        window = f"{seconds * 1000 - 1}ms"
        aggregation = "sum" if self.over_time == "sum" else "max"
        grouped = f" by ({', '.join(self.by)})" if self.by else ""
        return f"{aggregation}{grouped} ({self.over_time}_over_time({chosen}[{window}]))"


def _of_gpus(
    name: str,
    what: str,
    unit: str,
    by: Sequence[str],
    *,
    level: Level = "cluster",
    step: Step = "day",
    before: bool = False,
    matchers: str = "",
) -> Question:
    prefix = "node_" if level == "node" else ""
    return Question(
        id=f"{prefix}{name}",
        what=what,
        unit=unit,
        level=level,
        record=f"roofline:{level}:{name}:increase5m",
        by=tuple(by),
        step=step,
        also_before=before,
        matchers=matchers,
    )


def _of_models(
    name: str,
    what: str,
    unit: str,
    further: Sequence[str] = (),
    *,
    step: Step = "day",
    before: bool = False,
    by: Sequence[str] = OF_A_SERVICE,
    prefix: str = "",
) -> Question:
    return Question(
        id=f"{prefix}{name}",
        what=what,
        unit=unit,
        level="model",
        record=f"roofline:model:{name}:increase5m",
        by=(*by, *further),
        step=step,
        also_before=before,
    )


RECORDED_AT_ALL = "roofline:cluster:gpu_observed_seconds:increase5m"

_NODE = ("cluster", "instance", "part")

QUESTIONS: tuple[Question, ...] = (
    # --- GPUs, over all nodes ---
    _of_gpus("gpu_observed_seconds", "GPU time watched, by part", "s", ("part",), before=True),
    _of_gpus("gpu_unobserved_seconds", "GPU time that agents could not see, by part", "s", ("part",)),
    _of_gpus(
        "gpu_bottleneck_seconds",
        "GPU time by what bounded it, and part",
        "s",
        ("part", "bottleneck"),
        before=True,
    ),
    _of_gpus(
        "gpu_bottleneck_cost_usd",
        "what GPUs cost by what bounded them, and part",
        "USD",
        ("part", "bottleneck"),
        before=True,
    ),
    _of_gpus("gpu_cost_usd", "what GPUs cost, by part", "USD", ("part",), before=True),
    _of_gpus("gpu_idle_cost_usd", "what GPUs cost while idle, by part", "USD", ("part",), before=True),
    _of_gpus(
        "gpu_unattributed_cost_usd",
        "what GPUs cost that no engine held, by part",
        "USD",
        ("part",),
        before=True,
    ),
    _of_gpus(
        "gpu_idle_held_seconds", "idle GPU time while somebody held it, by part", "s", ("part",), before=True
    ),
    _of_gpus("gpu_energy_joules", "energy of GPUs, by part", "J", ("part",), before=True),
    _of_gpus(
        "gpu_evidence_seconds",
        "GPU time by quantity, the evidence it was known by, and part",
        "s",
        ("part", "quantity", "evidence"),
    ),
    _of_gpus(
        "gpu_evidence_contradicted_seconds",
        "GPU time in which counters contradicted themselves",
        "s",
        ("part",),
    ),
    _of_gpus("gpu_dram_active_seconds", "GPU time weighted with DRAM activity, by part", "s", ("part",)),
    _of_gpus("gpu_tensor_active_seconds", "GPU time weighted with tensor activity, by part", "s", ("part",)),
    _of_gpus(
        "gpu_clock_limited_seconds",
        "GPU time in which clocks were held down, by reason and part",
        "s",
        ("part", "reason"),
    ),
    _of_gpus("gpu_xid_errors", "XID errors, by number and part", "", ("part", "xid")),
    _of_gpus("gpu_ecc_errors", "ECC errors, by severity and part", "", ("part", "severity")),
    Question(
        id="recorded",
        what="samples recorded of each cluster in each hour",
        unit="",
        level="cluster",
        record=RECORDED_AT_ALL,
        by=("cluster", "part"),
        step="hour",
        over_time="count",
        also_before=True,
    ),
    # --- GPUs, by node ---
    Question(
        id="node_recorded",
        what="samples recorded of each node and part in each hour",
        unit="",
        level="node",
        record="roofline:node:gpu_observed_seconds:increase5m",
        by=("cluster", "instance", "part"),
        over_time="count",
        also_before=True,
    ),
    _of_gpus(
        "gpu_bottleneck_seconds",
        "GPU time of each node, by what bounded it",
        "s",
        (*_NODE, "bottleneck"),
        level="node",
        step="whole",
        before=True,
    ),
    _of_gpus(
        "gpu_cost_usd", "what GPUs of each node cost", "USD", _NODE, level="node", step="whole", before=True
    ),
    Question(
        id="node_priced",
        what="samples recorded of what GPUs of each node cost: none where there is no price",
        unit="",
        level="node",
        record="roofline:node:gpu_cost_usd:increase5m",
        by=_NODE,
        step="whole",
        over_time="count",
        also_before=True,
    ),
    Question(
        id="node_gpu_unallocated_cost_usd",
        what="what boards in MIG mode cost of each node beyond their instances",
        unit="USD",
        level="node",
        record="roofline:node:gpu_bottleneck_cost_usd:increase5m",
        by=_NODE,
        step="whole",
        matchers='bottleneck="unallocated"',
        also_before=True,
    ),
    _of_gpus(
        "gpu_idle_cost_usd",
        "what GPUs of each node cost while idle",
        "USD",
        _NODE,
        level="node",
        step="whole",
    ),
    _of_gpus(
        "gpu_unattributed_cost_usd",
        "what GPUs of each node cost that no engine held",
        "USD",
        _NODE,
        level="node",
        step="whole",
    ),
    _of_gpus(
        "gpu_idle_held_seconds",
        "idle GPU time of each node while somebody held it",
        "s",
        _NODE,
        level="node",
        step="whole",
    ),
    _of_gpus(
        "gpu_unobserved_seconds",
        "GPU time of each node that its agent could not see",
        "s",
        _NODE,
        level="node",
        step="whole",
    ),
    _of_gpus(
        "gpu_clock_limited_seconds",
        "GPU time of each node in which clocks were held down, by reason",
        "s",
        (*_NODE, "reason"),
        level="node",
        step="whole",
    ),
    _of_gpus("gpu_xid_errors", "XID errors of each node", "", (*_NODE, "xid"), level="node", step="whole"),
    _of_gpus(
        "gpu_ecc_errors",
        "uncorrected ECC errors of each node",
        "",
        (*_NODE, "severity"),
        level="node",
        step="whole",
    ),
    # --- engines, by what they serve ---
    _of_models(
        "gpu_bottleneck_seconds",
        "GPU time that engines held, by what bounded it",
        "s",
        ("bottleneck",),
        prefix="model_",
        before=True,
    ),
    _of_models("engine_cost_usd", "what engines cost, by phase", "USD", ("phase", "location"), before=True),
    _of_models("engine_generation_tokens", "output tokens", "tokens", before=True),
    _of_models("engine_prefill_tokens", "prompt tokens computed", "tokens", before=True),
    _of_models(
        "engine_cached_prompt_tokens", "prompt tokens found in the prefix cache", "tokens", before=True
    ),
    _of_models("engine_requests", "requests finished, by outcome", "", ("outcome",), before=True),
    _of_models("engine_rejected_requests", "requests refused because the queue was full", ""),
    _of_models("engine_preemptions", "preemptions", ""),
    _of_models("engine_flops", "FLOPs of the work, modelled", "FLOP", ("phase",)),
    _of_models(
        "engine_dram_bytes", "DRAM traffic of the work, modelled", "bytes", ("phase", "traffic"), step="whole"
    ),
    _of_models("engine_energy_joules", "energy of engines, by phase", "J", ("phase",), before=True),
    _of_models("engine_phase_seconds", "engines' time by phase", "s", ("phase",), step="whole"),
    _of_models(
        "engine_step_seconds", "engines' steps by what they wait for", "s", ("component",), step="whole"
    ),
    _of_models(
        "engine_known_steps", "engine steps for which a quantity was known", "", ("quantity",), step="whole"
    ),
    _of_models("engine_decode_sequence_steps", "decode batch times steps", "", step="whole"),
    _of_models("engine_ridge_sequence_steps", "batch at the ridge times steps", "", step="whole"),
    _of_models(
        "engine_kv_limited_sequence_steps", "batch that the KV cache holds times steps", "", step="whole"
    ),
    _of_models("engine_agreement_steps", "modelled over measured bytes times steps", "", step="whole"),
    *(
        _of_models(name, what, "", by=("cluster", "model", "slo"), before=True)
        for name, what in (
            ("engine_slo_events", "events for which an objective counts"),
            ("engine_slo_good_events", "events that met their objective"),
        )
    ),
    Question(
        id="slo_objective",
        what="the share of events that is to meet the objective",
        unit="ratio",
        level="model",
        record="roofline:model:slo_objective:max",
        by=("cluster", "model", "slo"),
        step="whole",
        over_time="last",
    ),
    Question(
        id="engines",
        what="engines, by how they serve",
        unit="",
        level="model",
        record="roofline:model:engines:count",
        by=(*OF_A_SERVICE, "tensor_parallel", "pipeline_parallel", "weight_dtype", "kv_dtype"),
        step="whole",
    ),
    Question(
        id="max_num_seqs",
        what="the largest batch that an engine was allowed",
        unit="",
        level="model",
        record="roofline:model:engine_max_num_seqs:max",
        by=OF_A_SERVICE,
        step="whole",
        over_time="max",
    ),
    # --- by the hour: the roofline, and the busiest hour ---
    _of_models("engine_flops", "FLOPs of the work, by the hour", "FLOP", step="hour", prefix="hourly_"),
    _of_models(
        "engine_dram_bytes", "DRAM traffic of the work, by the hour", "bytes", step="hour", prefix="hourly_"
    ),
    Question(
        id="hourly_busy_seconds",
        what="GPU time that engines held and that was not idle, by the hour",
        unit="s",
        level="model",
        record="roofline:model:gpu_bottleneck_seconds:increase5m",
        by=OF_A_SERVICE,
        step="hour",
        matchers='bottleneck!="idle"',
    ),
    _of_models("engine_requests", "requests finished, by the hour", "", step="hour", prefix="hourly_"),
)

BY_ID: Mapping[str, Question] = {question.id: question for question in QUESTIONS}
