"""Where an engine's step goes: shares that sum to the time it was busy.

A threshold ("below 60 % of bandwidth is not memory-bound") fails as soon as a model is split over
GPUs. So, as in top-down analysis (Yasin 2014), the measured step time is divided: what memory and
compute must take at their achievable rates, what collectives and small kernels take, and the residual,
which is the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConstants:
    """What one GPU part achieves, fitted to measured kernels (aiconfigurator 0.12.0, vLLM tables)."""

    decode_dram_efficiency: float = 0.80
    """η: DRAM bytes/s of decode kernels ÷ peak."""
    prefill_compute_efficiency: float = 0.65
    """η_c: FLOP/s of prefill kernels ÷ dense peak."""
    kernel_latency_per_layer_seconds: float = 40 * MICRO
    """κ: norms, element-wise kernels and partial waves of one layer in a decode step."""
    all_reduce: Mapping[int, AllReduce] = field(default_factory=dict)
    """By tensor-parallel degree."""


def _all_reduce(**by_degree: tuple[float, float]) -> dict[int, AllReduce]:
    return {
        int(degree.removeprefix("tp")): AllReduce(latency_seconds=alpha * MICRO, bytes_per_second=beta * 1e9)
        for degree, (alpha, beta) in by_degree.items()
    }


_PCIE = _all_reduce(tp2=(5.4, 19), tp4=(11.4, 3), tp8=(17.7, 1))
_NVLINK_HOPPER = _all_reduce(tp2=(4.3, 242), tp4=(5.1, 184), tp8=(6.1, 192))
_NVLINK_AMPERE = _all_reduce(tp2=(6.0, 120), tp4=(6.2, 111), tp8=(7.4, 97))

DEFAULT_CONSTANTS = StepConstants(all_reduce=_PCIE)

CONSTANTS: Mapping[str, StepConstants] = {
    "H100-SXM5-80GB": StepConstants(
        decode_dram_efficiency=0.877,
        prefill_compute_efficiency=0.68,
        kernel_latency_per_layer_seconds=37.5 * MICRO,
        all_reduce=_NVLINK_HOPPER,
    ),
    "H200-SXM": StepConstants(
        decode_dram_efficiency=0.826,
        prefill_compute_efficiency=0.71,
        kernel_latency_per_layer_seconds=36.3 * MICRO,
        all_reduce=_all_reduce(tp2=(4.4, 259), tp4=(5.1, 193), tp8=(6.0, 204)),
    ),
    "A100-SXM4-80GB": StepConstants(
        decode_dram_efficiency=0.705,
        prefill_compute_efficiency=0.79,
        kernel_latency_per_layer_seconds=59.1 * MICRO,
        all_reduce=_NVLINK_AMPERE,
    ),
    "A100-SXM4-40GB": StepConstants(
        decode_dram_efficiency=0.705,
        prefill_compute_efficiency=0.79,
        kernel_latency_per_layer_seconds=59.1 * MICRO,
        all_reduce=_NVLINK_AMPERE,
    ),
    "L40S": StepConstants(
        decode_dram_efficiency=0.75,
        prefill_compute_efficiency=0.55,
        kernel_latency_per_layer_seconds=0.0,
        all_reduce=_PCIE,
    ),
}
"""By catalogue name. The A100's TP2 row is interpolated; parts without a row take the defaults."""


def constants_for(gpu_name: str) -> StepConstants:
    """The constants of a part, or the defaults."""
    return CONSTANTS.get(gpu_name, DEFAULT_CONSTANTS)


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
class _PhaseTime:
    """What one phase must take at the achievable rates, in seconds."""

    memory: float
    compute: float
    interconnect: float
    kernels: float

    @property
    def total(self) -> float:
        return self.memory + self.compute + self.interconnect + self.kernels


def attribute(
    *,
    model: ServedModel,
    work: Workload,
    tokens: TokenWork,
    prefill_only_ratio: float,
    decode_step_seconds: float,
    window_seconds: float,
    roof: Roof | None,
    constants: StepConstants,
    alone: bool = True,
) -> Attribution:
    """Divide the busy time of a window.

    `decode_step_seconds` is the measured mean of the steps that decode. Steps that only prefill are in
    no engine's latency between tokens, so theirs is what the model says: `prefill_only_ratio` of the
    prefill work was done in them. Busy time is never more than the window. Without a roof the decoding
    steps stay unexplained; and so does what is left over where the engine is not `alone` on its GPU: it
    may be the host, or the neighbour's turn.
    """
    decode_busy = tokens.decode_steps * decode_step_seconds
    if roof is None:
        return _unexplained(
            min(decode_busy, window_seconds), prefill_ratio=work.prefill.flops / (work.flops or 1.0)
        )
    decode = _phase_time(model, work.decode, tokens.decode_tokens, tokens.decode_steps, roof, constants)
    prefill = _phase_time(
        model, work.prefill, tokens.prefill_tokens, tokens.prefill_only_steps, roof, constants
    )
    busy = min(decode_busy + prefill.total * prefill_only_ratio, window_seconds)
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
    return Attribution(
        memory_bandwidth=(decode.memory + prefill.memory) * scale,
        compute=(decode.compute + prefill.compute) * scale,
        interconnect=(decode.interconnect + prefill.interconnect) * scale,
        kernel_latency=(decode.kernels + prefill.kernels) * scale,
        host=max(residual, 0.0) if alone else 0.0,
        unexplained=0.0 if alone else max(residual, 0.0),
        prefill_seconds=prefill_seconds,
        decode_seconds=busy - prefill_seconds,
        residual_ratio=residual / busy,
    )


def _unexplained(busy: float, *, prefill_ratio: float, residual_ratio: float | None = None) -> Attribution:
    return Attribution(
        unexplained=busy,
        prefill_seconds=busy * prefill_ratio,
        decode_seconds=busy * (1 - prefill_ratio),
        residual_ratio=residual_ratio,
    )


def _phase_time(
    model: ServedModel, work: PhaseWork, tokens: float, steps: float, roof: Roof, constants: StepConstants
) -> _PhaseTime:
    """What one phase must take; `steps` are those it pays for (a mixed step is paid for by decode)."""
    memory, compute = _roof_seconds(model, work, roof, constants)
    return _PhaseTime(
        memory=memory,
        compute=compute,
        interconnect=_all_reduce_seconds(model, tokens, steps, constants),
        kernels=steps * model.architecture.layers * constants.kernel_latency_per_layer_seconds,
    )


def _roof_seconds(
    model: ServedModel, work: PhaseWork, roof: Roof, constants: StepConstants
) -> tuple[float, float]:
    """Seconds on the memory side and on the compute side: the larger hides the other."""
    ranks = model.tensor_parallel
    memory = work.bytes / ranks / (roof.dram_bytes_per_second * constants.decode_dram_efficiency)
    compute = work.flops / ranks / (roof.flops_per_second * constants.prefill_compute_efficiency)
    return (memory, 0.0) if memory >= compute else (0.0, compute)


def _all_reduce_seconds(model: ServedModel, tokens: float, steps: float, constants: StepConstants) -> float:
    """Two all-reduces a layer and one for the embedding, of 16-bit activations."""
    if model.tensor_parallel == 1:
        return 0.0
    fitted = constants.all_reduce or _PCIE
    degree = min(fitted, key=lambda known: abs(known - model.tensor_parallel))
    messages = 2 * model.architecture.layers + 1
    link = fitted[degree]
    message_bytes = tokens * model.architecture.hidden * 2
    return messages * (steps * link.latency_seconds + message_bytes / link.bytes_per_second)
