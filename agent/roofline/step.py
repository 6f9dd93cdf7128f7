"""Where an engine's step goes: shares that sum to the time it was busy.

A threshold ("below 60 % of bandwidth is not memory-bound") fails as soon as a model is split over
GPUs. So, as in top-down analysis (Yasin 2014), the measured step time is divided: what memory and
compute must take at their achievable rates, what collectives and small kernels take, and the residual,
which is the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from agent.roofline.dtypes import find_dtype
from agent.roofline.models import ServedModel
from agent.roofline.roof import Roof
from agent.roofline.workload import PhaseWork, TokenWork, Workload

Component = Literal["memory_bandwidth", "compute", "interconnect", "kernel_latency", "host", "unexplained"]
COMPONENTS: tuple[Component, ...] = (
    "memory_bandwidth",
    "compute",
    "interconnect",
    "kernel_latency",
    "host",
    "unexplained",
)

OVERPREDICTED_RATIO = -0.15
"""A residual below this share of the step: the model says more than there was time for, so it is wrong."""

MICRO = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce:
    """The time of one all-reduce: latency + bytes ÷ rate."""

    latency_seconds: float
    bytes_per_second: float


OVERLAP_LOSS = 0.3
"""The loss that predicts models that were left out best, of all parts alike (docs/accuracy.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConstants:
    """What one part achieves with one kind of model on one engine."""

    decode_dram_efficiency: float
    """η: DRAM bytes/s of decode kernels ÷ peak."""
    prefill_compute_efficiency: float
    """η_c: FLOP/s of prefill kernels ÷ dense peak."""
    kernel_latency_per_layer_seconds: float
    """κ: norms, element-wise kernels and partial waves of one layer in a step."""
    overlap_loss: float = OVERLAP_LOSS
    """ω: the part of a decoding step's shorter side, memory or compute, that comes on top of the longer one.
    A tile waits for its bytes before it computes, so that neither hides the other wholly."""
    all_reduce: Mapping[int, AllReduce] = field(default_factory=dict)
    """By the number of GPUs."""
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Achieved:
    """What kernels of one kind were measured to achieve: one row of the table of constants."""

    parts: tuple[str, ...] = ()
    """By catalogue name; none stands for every part without a row of its own."""
    narrow: bool = False
    """Matrix products in 8 or 4 bit."""
    experts: bool = False
    backend: str = "vllm"
    """Whose kernels; engines without a row of their own take vLLM's."""
    dram: float
    """η."""
    compute: float
    """η_c."""
    layer_microseconds: float
    """κ."""
    origin: str

    @property
    def kind(self) -> tuple[bool, bool]:
        """What the model must be for this row to speak of it."""
        return self.narrow, self.experts


_A100 = ("A100-SXM4-80GB", "A100-SXM4-40GB")
_H100 = ("H100-SXM5-80GB",)
_H200 = ("H200-SXM",)
_L40S = ("L40S",)
_B200 = ("B200",)
_PRO_6000 = ("RTX-PRO-6000-BW-Server",)

FITTED = "fitted to the kernels of measured_steps.csv (aiconfigurator 0.12.0); make accuracy does it again"
BETWEEN = "set between what kernels say and what whole servers leave room for: docs/accuracy.md"
_LARGER = "fitted to kernels of aiconfigurator 0.12.0 that are not in measured_steps.csv"
_AS_SGLANG = "as on SGLang: vLLM's were not measured, and whole servers refute TRT-LLM's (docs/accuracy.md)"

ACHIEVED: tuple[Achieved, ...] = (
    # Dense, products in 16 bit.
    Achieved(dram=0.81, compute=0.70, layer_microseconds=30, origin=FITTED),
    Achieved(parts=_A100, dram=0.75, compute=0.77, layer_microseconds=65, origin=FITTED),
    Achieved(parts=_H100, dram=0.93, compute=0.67, layer_microseconds=39, origin=FITTED),
    Achieved(parts=_H200, dram=0.89, compute=0.72, layer_microseconds=39, origin=FITTED),
    Achieved(parts=_L40S, dram=0.78, compute=0.52, layer_microseconds=0, origin=FITTED),
    Achieved(parts=_B200, dram=0.89, compute=0.64, layer_microseconds=38, origin=_LARGER),
    # No η_c of this one is known: as of any other.
    Achieved(parts=_PRO_6000, dram=0.81, compute=0.70, layer_microseconds=24, origin=_LARGER),
    # Dense, products in 8 or 4 bit.
    Achieved(narrow=True, dram=0.77, compute=0.53, layer_microseconds=46, origin=FITTED),
    Achieved(narrow=True, parts=_H100, dram=0.86, compute=0.49, layer_microseconds=40, origin=BETWEEN),
    Achieved(narrow=True, parts=_H200, dram=0.79, compute=0.60, layer_microseconds=37, origin=BETWEEN),
    Achieved(narrow=True, parts=_L40S, dram=0.74, compute=0.39, layer_microseconds=40, origin=FITTED),
    Achieved(narrow=True, parts=_B200, dram=0.89, compute=0.50, layer_microseconds=38, origin=BETWEEN),
    Achieved(
        narrow=True,
        parts=_H100,
        backend="trtllm",
        dram=0.72,
        compute=0.47,
        layer_microseconds=55,
        origin=BETWEEN,
    ),
    # Experts, products in 16 bit.
    Achieved(experts=True, dram=0.91, compute=0.60, layer_microseconds=60, origin=FITTED),
    # Experts, products in 8 or 4 bit. No prefill of them was measured: η_c is set.
    Achieved(narrow=True, experts=True, dram=0.80, compute=0.45, layer_microseconds=87, origin=_AS_SGLANG),
    Achieved(
        narrow=True,
        experts=True,
        backend="sglang",
        dram=0.80,
        compute=0.45,
        layer_microseconds=87,
        origin=FITTED,
    ),
)
"""The one table of η, η_c and κ."""


def _all_reduce(**by_degree: tuple[float, float]) -> dict[int, AllReduce]:
    """From (latency in µs, rate in GB/s)."""
    return {
        int(degree.removeprefix("tp")): AllReduce(latency_seconds=alpha * MICRO, bytes_per_second=beta * 1e9)
        for degree, (alpha, beta) in by_degree.items()
    }


_PCIE = _all_reduce(tp2=(5.4, 19), tp4=(11.4, 3), tp8=(13.9, 1.22))
_NVLINK_AMPERE = _all_reduce(tp2=(6.0, 120), tp4=(6.2, 111), tp8=(7.4, 97))

ALL_REDUCE: Mapping[str, Mapping[int, AllReduce]] = {
    **dict.fromkeys(_A100, _NVLINK_AMPERE),
    **dict.fromkeys(_H100, _all_reduce(tp2=(4.3, 242), tp4=(5.1, 184), tp8=(6.1, 192))),
    **dict.fromkeys(_H200, _all_reduce(tp2=(4.4, 259), tp4=(5.1, 193), tp8=(6.0, 204))),
    **dict.fromkeys(_B200, _all_reduce(tp2=(7.5, 390), tp4=(8.1, 310), tp8=(9.2, 295))),
    "GB200": _all_reduce(tp2=(5.1, 177), tp4=(5.9, 282)),
    **dict.fromkeys(_PRO_6000, _all_reduce(tp2=(4.5, 38), tp4=(14.7, 18), tp8=(29, 12))),
}
"""By part; others take those of L40S over PCIe. Fitted to aiconfigurator's tables of vLLM's all-reduce, 8 kB
to 128 MB, but for the A100's pair, which is set beside its four, and the eight L40S, which go through the two
rows of measured_steps.csv."""


@cache
def constants_for(
    gpu_name: str, *, dtype: str = "bf16", moe: bool = False, backend: str = "vllm"
) -> StepConstants:
    """The constants of a part for models of this weight dtype, with or without experts, on this engine.

    `backend` is ``vllm``, ``sglang`` or ``trtllm``. What has no row takes the nearest: the engine's on any
    part, then vLLM's on this part, then vLLM's on any part.
    """
    found = find_dtype(dtype)
    narrow = (found.compute if found is not None else dtype) not in ("bf16", "fp32")
    rows = [row for row in ACHIEVED if row.kind == (narrow, moe)]
    for engine in (backend, "vllm"):
        for parts in (gpu_name, None):
            for row in rows:
                if row.backend == engine and (parts in row.parts if parts else not row.parts):
                    return StepConstants(
                        decode_dram_efficiency=row.dram,
                        prefill_compute_efficiency=row.compute,
                        kernel_latency_per_layer_seconds=row.layer_microseconds * MICRO,
                        all_reduce=ALL_REDUCE.get(gpu_name, _PCIE),
                        origin=row.origin,
                    )
    raise AssertionError("each kind has a row for any part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Where the busy time of a span went, in seconds."""

    memory_bandwidth: float = 0.0
    compute: float = 0.0
    interconnect: float = 0.0
    kernel_latency: float = 0.0
    host: float = 0.0
    unexplained: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    carried_seconds: float | None = 0.0
    """Of the prefill, what rode on decoding steps and made them longer; `None` where no part was modelled."""
    residual_ratio: float | None = None
    """What the modelled parts leave of the busy time; far below 0 they were too large."""

    @property
    def components(self) -> dict[Component, float]:
        """Seconds by component; they sum to `busy_seconds`."""
        return {
            "memory_bandwidth": self.memory_bandwidth,
            "compute": self.compute,
            "interconnect": self.interconnect,
            "kernel_latency": self.kernel_latency,
            "host": self.host,
            "unexplained": self.unexplained,
        }

    @property
    def busy_seconds(self) -> float:
        """The sum of the components, and of the phases."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def shares(self) -> dict[Component, float]:
        """Components ÷ busy time; all 0 when nothing was done."""
        busy = self.busy_seconds
        return {name: seconds / busy if busy > 0 else 0.0 for name, seconds in self.components.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTime:
    """What one phase must take at the achievable rates, in seconds."""

    memory: float
    compute: float
    interconnect: float
    kernels: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.memory + self.compute + self.interconnect + self.kernels


def attribute(
    *,
    model: ServedModel,
    work: Workload,
    tokens: TokenWork,
    decode_step_seconds: float,
    window_seconds: float,
    roof: Roof | None,
    constants: StepConstants,
    alone: bool = True,
) -> Attribution:
    """Divide the busy time of a window.

    `decode_step_seconds` is the measured mean of the steps that decode. Steps that only prefill are in
    no engine's latency between tokens, so theirs is what the model says. Busy time is never more than the
    window. Without a roof the decoding steps stay unexplained; and so does what is left over where the
    engine is not `alone` on its GPU: it may be the host, or the neighbour's turn. With speculation it may be
    the host, or the model that guesses, of which no page tells.
    """
    decode_busy = tokens.decode_steps * decode_step_seconds
    if roof is None:
        return _unexplained(
            min(decode_busy, window_seconds), prefill_ratio=work.prefill.flops / (work.flops or 1.0)
        )
    decode = decode_time(model, work, tokens, roof, constants)
    prefill = prefill_time(model, work, tokens, roof, constants)
    alone_ratio = _prefill_alone_ratio(tokens, decode_busy - decode.total, prefill.total)
    busy = min(decode_busy + prefill.total * alone_ratio, window_seconds)
    if busy <= 0:
        return Attribution()
    modelled = decode.total + prefill.total
    residual = busy - modelled
    if residual < OVERPREDICTED_RATIO * busy:
        return _unexplained(busy, prefill_ratio=prefill.total / modelled, residual_ratio=residual / busy)
    # A small lack is the constants' own error: the parts share what there is. What is left over is the
    # host's, and makes the decoding steps longer.
    scale = min(busy / modelled, 1.0) if modelled > 0 else 1.0
    prefill_seconds = prefill.total * scale if tokens.decode_steps > 0 else busy
    hosts = alone and tokens.draft_tokens == 0
    return Attribution(
        memory_bandwidth=(decode.memory + prefill.memory) * scale,
        compute=(decode.compute + prefill.compute) * scale,
        interconnect=(decode.interconnect + prefill.interconnect) * scale,
        kernel_latency=(decode.kernels + prefill.kernels) * scale,
        host=max(residual, 0.0) if hosts else 0.0,
        unexplained=0.0 if hosts else max(residual, 0.0),
        prefill_seconds=prefill_seconds,
        decode_seconds=busy - prefill_seconds,
        residual_ratio=residual / busy,
        carried_seconds=prefill_seconds * (1 - alone_ratio),
    )


def _prefill_alone_ratio(tokens: TokenWork, spare_seconds: float, prefill_seconds: float) -> float:
    """Share of the prefill that no decoding step carried: at least what the counters say, and the clock.

    Steps that compute only a part of a prompt are in no counter. But what the decoding steps carry makes
    them longer, so that at most what they had to spare, over their own work, was carried.
    """
    if prefill_seconds <= 0:
        return tokens.prefill_only_ratio
    carried_ratio = min(max(spare_seconds, 0.0) / prefill_seconds, 1.0)
    return max(tokens.prefill_only_ratio, 1 - carried_ratio)


def _unexplained(busy: float, *, prefill_ratio: float, residual_ratio: float | None = None) -> Attribution:
    return Attribution(
        unexplained=busy,
        prefill_seconds=busy * prefill_ratio,
        decode_seconds=busy * (1 - prefill_ratio),
        carried_seconds=None,
        residual_ratio=residual_ratio,
    )


def decode_time(
    model: ServedModel, work: Workload, tokens: TokenWork, roof: Roof, constants: StepConstants
) -> PhaseTime:
    """What the decoding steps must take; the latencies of a mixed step are theirs."""
    memory, compute = _roof_seconds(model, work.decode, roof, constants)
    loss = constants.overlap_loss
    sides = (memory, loss * compute) if memory >= compute else (loss * memory, compute)
    return _phase_time(model, sides, tokens.verified_tokens, tokens.decode_steps, constants)


def prefill_time(
    model: ServedModel, work: Workload, tokens: TokenWork, roof: Roof, constants: StepConstants
) -> PhaseTime:
    """What the prefill must take.

    An expert's few tokens wait for its weights, so in a mixture the two sides add up instead of one hiding
    the other.
    """
    memory, compute = _roof_seconds(model, work.prefill, roof, constants)
    if not model.architecture.expert_ffn:
        memory, compute = (memory, 0.0) if memory >= compute else (0.0, compute)
    return _phase_time(model, (memory, compute), tokens.prefill_tokens, tokens.prefill_only_steps, constants)


def _phase_time(
    model: ServedModel,
    roof_seconds: tuple[float, float],
    tokens: float,
    steps: float,
    constants: StepConstants,
) -> PhaseTime:
    memory, compute = roof_seconds
    return PhaseTime(
        memory=memory,
        compute=compute,
        interconnect=_all_reduce_seconds(model, tokens, steps, constants)
        + _all_to_all_seconds(model, tokens, steps, constants),
        kernels=steps * model.architecture.layers * constants.kernel_latency_per_layer_seconds,
    )


def _roof_seconds(
    model: ServedModel, work: PhaseWork, roof: Roof, constants: StepConstants
) -> tuple[float, float]:
    """Seconds on the memory side and on the compute side, at the achievable rates."""
    ranks = model.tensor_parallel  # the stages of a pipeline run one after another
    memory = work.bytes / ranks / (roof.dram_bytes_per_second * constants.decode_dram_efficiency)
    compute = work.flops / ranks / (roof.flops_per_second * constants.prefill_compute_efficiency)
    return memory, compute


def _all_reduce_seconds(model: ServedModel, tokens: float, steps: float, constants: StepConstants) -> float:
    """Two all-reduces a layer and one for the embedding, of 16-bit activations.

    Only one in a layer whose experts are held together with other replicas: its results come back by
    all-to-all.
    """
    if model.tensor_parallel == 1:
        return 0.0
    architecture = model.architecture
    _, link = _nearest_link(model.tensor_parallel, constants)
    messages = 2 * architecture.layers + 1
    if model.expert_groups > 1:
        messages -= sum(group.layers for group in architecture.expert_ffn)
    message_bytes = tokens * architecture.hidden * 2
    return messages * (steps * link.latency_seconds + message_bytes / link.bytes_per_second)


def _all_to_all_seconds(model: ServedModel, tokens: float, steps: float, constants: StepConstants) -> float:
    """Tokens to their experts and back in each layer, in 16 bit, where replicas hold the experts together.

    An estimate: no all-to-all was measured. It is taken to have the latency of the part's all-reduce, and its
    rate on the wire, where an all-reduce over n GPUs sends 2(n − 1)/n of its message. A token goes to each
    rank at most once.
    """
    if model.expert_groups == 1:
        return 0.0
    architecture, ranks = model.architecture, model.expert_parallel
    degree, link = _nearest_link(ranks, constants)
    wire_bytes_per_second = link.bytes_per_second * 2 * (degree - 1) / degree
    token_bytes = architecture.hidden * 2 * (ranks - 1) / ranks
    sent_bytes = tokens / model.tensor_parallel * token_bytes
    return sum(
        2
        * group.layers
        * (steps * link.latency_seconds + sent_bytes * min(group.active, ranks) / wire_bytes_per_second)
        for group in architecture.expert_ffn
    )


def _nearest_link(ranks: int, constants: StepConstants) -> tuple[int, AllReduce]:
    """The all-reduce over so many GPUs, or the nearest number that was measured, with that number."""
    fitted = constants.all_reduce or _PCIE
    degree = min(fitted, key=lambda known: abs(known - ranks))
    return degree, fitted[degree]
