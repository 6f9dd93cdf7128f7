"""Capacity planning: what one replica of a model does on GPUs that nobody has rented yet.

The same arithmetic as the live agent's, with the traffic assumed instead of measured. Two times are given for
each step. The *bound* is the roof itself, which nothing can pass. The *expected* one divides it by what
kernels were measured to achieve and adds collectives and the small kernels of each layer; it does not know
the host, which adds a few per cent on one GPU and 20 % and more on eight.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

from agent.errors import AgentError, UnknownModelError
from agent.roofline.catalogue import find_config, known_names
from agent.roofline.cost import usd_per_million_tokens
from agent.roofline.dtypes import DTYPES, Dtype, find_dtype
from agent.roofline.families import parse_architecture
from agent.roofline.gpus import GpuSpec, find_gpu, known_gpu_names
from agent.roofline.models import PARTS, Architecture, ServedModel
from agent.roofline.quantization import BF16, Quantization, parse_quantization
from agent.roofline.roof import Roof
from agent.roofline.step import AllReduce, StepConstants, constants_for, decode_time, prefill_time
from agent.roofline.workload import TokenWork, decode_step, ridge_batch, workload
from agent.units import GIGA

Phase = Literal["decode", "prefill"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Bottleneck = Literal["memory_bandwidth", "compute", "interconnect", "kernel_latency"]

BACKENDS = ("vllm", "sglang", "trtllm")
MEMORY_USED_RATIO = 0.9
"""Of a GPU's memory that an engine takes (vLLM's ``gpu_memory_utilization``)."""
OVERHEAD_BYTES = 1.5e9
"""On each GPU, beside weights and cache: context, graphs, activations, communication buffers."""


class SplitError(AgentError):
    """A model that cannot be divided over GPUs in that way."""


_COUNTS = (
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "batch",
    "context",
    "prompt_length",
    "output_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One set-up and the work it is asked to do."""

    model: str
    gpu: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    """Ranks that divide the experts; above `tensor_parallel`, attention is copied (data parallel)."""
    phase: Phase = "decode"
    batch: int = 32
    """Sequences in flight, over the whole replica."""
    context: int = 2048
    """Tokens before the decoded one, on average."""
    prompt_tokens: int | None = None
    """Of each prompt; `None` makes it as long as the context."""
    output_tokens: int = 256
    weight_dtype: str | None = None
    """`None` leaves it to the model's own configuration."""
    kv_dtype: str | None = None
    backend: str = "vllm"
    usd_per_hour: float | None = None
    """Of one GPU; `None` takes the typical price, where there is one."""

    @property
    def prompt_length(self) -> int:
        """Tokens of each prompt."""
        return self.context if self.prompt_tokens is None else self.prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One step of the replica, in seconds."""

    bound: float
    memory_bandwidth: float
    compute: float
    interconnect: float
    kernel_latency: float
    intensity_flops_per_byte: float

    @property
    def expected(self) -> float:
        """The sum of the parts."""
        return self.memory_bandwidth + self.compute + self.interconnect + self.kernel_latency

    @property
    def parts(self) -> dict[Bottleneck, float]:
        """By what they wait for."""
        return {
            "memory_bandwidth": self.memory_bandwidth,
            "compute": self.compute,
            "interconnect": self.interconnect,
            "kernel_latency": self.kernel_latency,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a set-up is expected to do."""

    point: Point
    model: ServedModel
    spec: GpuSpec
    gpus: int
    """All of the replica."""
    step: StepTime
    """Of the point's phase."""
    roof: Roof
    """Of one GPU, at `compute_dtype`."""
    compute_dtype: str
    """What the products are computed in."""
    ridge_batch: float | None
    """Decode batch from which compute would bound; `None` when no batch reaches it at this context."""
    tokens_per_second: float
    """Of the phase: prompt tokens in prefill, generated tokens in decode; over the whole replica."""
    weight_bytes: float
    """In memory, over all GPUs."""
    kv_limited_batch: int
    """Sequences of the context's length that fit beside the weights; 0 when even those do not fit."""
    gpus_needed: int | None
    """Of this part, for the weights and the batch's cache; `None` when its memory is not known."""
    usd_per_hour: float | None
    """Of one GPU."""
    ttft: StepTime
    """One prompt alone: the least time to its first token."""
    tpot: StepTime
    """A decode step at this batch and context: the time between a sequence's tokens."""
    notes: tuple[str, ...] = ()
    """What the numbers do not say by themselves."""
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    """The ``config.json`` that stood in for the catalogue's row."""

    def vary(self, *, all_reduce: Mapping[int, AllReduce] | None = None, **choices: Any) -> Plan:
        """The plan of the same model with some of the point's fields chosen otherwise."""
        return plan(replace(self.point, **choices), config=self.config, all_reduce=all_reduce)

    @property
    def ridge_flops_per_byte(self) -> float:
        """Where the two roofs meet."""
        return self.roof.ridge_flops_per_byte

    @property
    def flops_per_second(self) -> float:
        """Of each GPU while the step runs, as expected: below the roof as the step is above its bound."""
        at_roof = self.roof.attainable(self.step.intensity_flops_per_byte)
        return at_roof * self.step.bound / self.step.expected

    @property
    def arithmetic_intensity_flops_per_byte(self) -> float:
        """Of the phase."""
        return self.step.intensity_flops_per_byte

    @property
    def bottleneck(self) -> Bottleneck:
        """The largest part of the expected step."""
        parts = self.step.parts
        return max(parts, key=lambda name: parts[name])

    @property
    def step_seconds_bound(self) -> float:
        """Bytes ÷ bandwidth or FLOPs ÷ peak of one GPU, the larger: no step is shorter."""
        return self.step.bound

    @property
    def step_seconds_expected(self) -> float:
        """With measured kernels' efficiency, collectives and small kernels; without the host."""
        return self.step.expected

    @property
    def fits(self) -> bool:
        """Whether weights and the batch's cache have room."""
        return self.point.batch <= self.kv_limited_batch

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Of the phase, all GPUs paid and never idle; `None` without a price."""
        return self._usd(self.tokens_per_second)

    @property
    def usd_per_million_tokens_floor(self) -> float | None:
        """The same if the step took no longer than its bound."""
        return self._usd(self.tokens_per_second * self.step.expected / self.step.bound)

    def _usd(self, tokens_per_second: float) -> float | None:
        if self.usd_per_hour is None:
            return None
        return usd_per_million_tokens(
            gpus=self.gpus, usd_per_hour=self.usd_per_hour, tokens_per_second=tokens_per_second
        )


def plan(
    point: Point,
    *,
    config: Mapping[str, Any] | None = None,
    all_reduce: Mapping[int, AllReduce] | None = None,
) -> Plan:
    """Evaluate one point.

    `config` is a ``config.json`` in place of the catalogue's row, `all_reduce` another link than the part's.
    Raises `AgentError` for a name that is not known, with those that resemble it, or an impossible split.
    """
    setup = _set_up(point, config, all_reduce)
    spec, model = setup.spec, setup.model
    decode = setup.step("decode", batch=point.batch, length=point.context)
    ttft = setup.step("prefill", batch=1, length=point.prompt_length)
    if point.phase == "decode":
        step, tokens = decode, float(point.batch)
    else:
        step = setup.step("prefill", batch=point.batch, length=point.prompt_length)
        tokens = float(point.batch * point.prompt_length)
    weight_bytes = setup.groups * model.weight_bytes
    sequence_bytes = model.kv_bytes(point.context) + model.state_bytes
    usable = spec.memory_gigabytes * GIGA * MEMORY_USED_RATIO - OVERHEAD_BYTES
    room = setup.gpus * usable - weight_bytes
    limited = max(math.floor(room / sequence_bytes), 0)
    price = spec.typical_usd_per_hour if point.usd_per_hour is None else point.usd_per_hour
    ridge = ridge_batch(
        model, ridge_flops_per_byte=setup.roof.ridge_flops_per_byte, context_tokens=point.context
    )
    return Plan(
        point=point,
        model=model,
        spec=spec,
        gpus=setup.gpus,
        step=step,
        roof=setup.roof,
        compute_dtype=setup.compute_dtype,
        ridge_batch=None if ridge is None else setup.groups * ridge,
        tokens_per_second=tokens / step.expected,
        weight_bytes=weight_bytes,
        kv_limited_batch=limited,
        gpus_needed=(
            math.ceil((weight_bytes + point.batch * sequence_bytes) / usable) if usable > 0 else None
        ),
        usd_per_hour=price,
        ttft=ttft,
        tpot=decode,
        notes=(*setup.notes, *_memory_notes(point, room=room, limited=limited)),
        config=config,
    )


def _memory_notes(point: Point, *, room: float, limited: int) -> Iterable[str]:
    if room < 0:
        yield "the weights do not fit: take more GPUs or a smaller dtype"
    elif point.batch > limited:
        yield f"a batch of {point.batch} does not fit beside the weights: {limited} at this context"


@dataclass(frozen=True, slots=True, kw_only=True)
class _SetUp:
    """The names of a point, resolved."""

    model: ServedModel
    """As one of the groups serves it that hold the experts together."""
    spec: GpuSpec
    roof: Roof
    compute_dtype: str
    constants: StepConstants
    notes: tuple[str, ...]

    @property
    def groups(self) -> int:
        """Copies of attention and dense parts; the experts are divided over all of them."""
        return self.model.expert_groups

    @property
    def gpus(self) -> int:
        return self.model.ranks * self.groups

    def step(self, phase: Phase, *, batch: int, length: int) -> StepTime:
        """One step; `length` is of the context or of the prompts.

        A pipeline has one share of the batch in each stage, and a step is a way through all. Groups that
        hold the experts together have a share each, all at once.
        """
        in_stage = max(batch / self.model.pipeline_parallel, 1.0) / self.groups
        tokens = (
            decode_step(batch=in_stage, context_tokens=length)
            if phase == "decode"
            else _prefill_step(prompts=in_stage, prompt_tokens=length)
        )
        work = workload(self.model, tokens)
        share = work.decode if phase == "decode" else work.prefill
        time_of = decode_time if phase == "decode" else prefill_time
        parts = time_of(self.model, work, tokens, self.roof, self.constants)
        ranks = self.model.tensor_parallel
        return StepTime(
            bound=max(
                share.bytes / ranks / self.roof.dram_bytes_per_second,
                share.flops / ranks / self.roof.flops_per_second,
            ),
            memory_bandwidth=parts.memory,
            compute=parts.compute,
            interconnect=parts.interconnect,
            kernel_latency=parts.kernels,
            intensity_flops_per_byte=share.flops / share.bytes,
        )


def _prefill_step(*, prompts: float, prompt_tokens: float) -> TokenWork:
    """One step that prefills whole prompts and nothing else."""
    return TokenWork(
        prompts=prompts,
        prefill_tokens=prompts * prompt_tokens,
        prefill_logits=prompts,
        prefill_only_steps=1,
        prefill_only_ratio=1,
    )


# --- names --------------------------------------------------------------------------------------------


def _set_up(
    point: Point, config: Mapping[str, Any] | None, all_reduce: Mapping[int, AllReduce] | None
) -> _SetUp:
    spec = gpu_named(point.gpu)
    if point.backend not in BACKENDS:
        raise AgentError(_unknown("backend", point.backend, BACKENDS))
    if point.phase not in PHASES:
        raise AgentError(_unknown("phase", point.phase, PHASES))
    for name in _COUNTS:
        if getattr(point, name) < 1:
            raise AgentError(f"{name} must be at least 1, not {getattr(point, name)}")
    architecture, quantization = (
        _catalogued(point.model)
        if config is None
        else (parse_architecture(config), parse_quantization(config))
    )
    if point.weight_dtype is not None:
        quantization = _chosen(dtype_named(point.weight_dtype), architecture, quantization)
    kv_dtype = quantization.kv_cache or BF16
    if point.kv_dtype is not None:
        kv_dtype = dtype_named(point.kv_dtype)
    model = ServedModel(
        name=point.model,
        architecture=architecture,
        weight_dtype=quantization.weights,
        kv_dtype=kv_dtype,
        part_dtypes=quantization.parts,
        tensor_parallel=point.tensor_parallel,
        pipeline_parallel=point.pipeline_parallel,
        expert_parallel=point.expert_parallel,
    )
    _check_split(point, architecture)
    largest = _largest_dtype(model)
    compute = spec.compute_dtype(largest)
    roof = spec.roof(compute)
    if roof is None:
        raise AgentError(f"no peak of {spec.name} is known in {compute}")
    constants = constants_for(
        spec.name, dtype=compute, moe=bool(architecture.expert_ffn), backend=point.backend
    )
    if all_reduce is not None:
        constants = replace(constants, all_reduce=all_reduce)
    return _SetUp(
        model=model,
        spec=spec,
        roof=roof,
        compute_dtype=compute,
        constants=constants,
        notes=(
            *_widened_note(spec, largest, compute),
            *_all_reduce_note(point, spec, constants),
            *_all_to_all_note(model),
        ),
    )


@lru_cache
def _catalogued(name: str) -> tuple[Architecture, Quantization]:
    config = find_config(name)
    if config is None:
        raise UnknownModelError(
            _unknown("model", name, known_names()) + "; the path of a config.json works too"
        )
    return parse_architecture(config), parse_quantization(config)


def gpu_named(name: str) -> GpuSpec:
    """The part of that name; raises `AgentError` with those that resemble it."""
    spec = find_gpu(name)
    if spec is None:
        raise AgentError(_unknown("gpu", name, known_gpu_names()))
    return spec


def dtype_named(name: str) -> Dtype:
    """The dtype of that name or alias; raises `AgentError` with those that resemble it."""
    dtype = find_dtype(name)
    if dtype is None:
        raise AgentError(_unknown("dtype", name, [n for d in DTYPES for n in (d.name, *d.aliases)]))
    return dtype


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    by_folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_folded, n=4, cutoff=0.4)
    offered = [by_folded[each] for each in near] or sorted(by_folded.values())[:12]
    return f"{kind} {name!r} is not known; is it one of {', '.join(offered)}?"


def _chosen(dtype: Dtype, architecture: Architecture, own: Quantization) -> Quantization:
    """A dtype that was asked for, in place of the checkpoint's own. MXFP4 is a format of experts."""
    if dtype.name == "mxfp4" and architecture.expert_ffn:
        return Quantization(weights=BF16, parts={"experts": dtype}, kv_cache=own.kv_cache)
    return Quantization(weights=dtype, kv_cache=own.kv_cache)


def _largest_dtype(model: ServedModel) -> Dtype:
    """That of the part with most parameters, experts as a rule: its products decide the roof."""
    parts = model.architecture.parameters
    largest = max((part for part in PARTS if part != "head"), key=lambda part: parts[part])
    return model.part_dtypes.get(largest, model.weight_dtype)


def _widened_note(spec: GpuSpec, dtype: Dtype, compute: str) -> Iterable[str]:
    if compute != dtype.compute:
        yield f"{spec.name} has no {dtype.compute} path: {dtype.name} weights are widened to {compute}"


def _all_reduce_note(point: Point, spec: GpuSpec, constants: StepConstants) -> Iterable[str]:
    ranks = point.tensor_parallel
    if ranks > 1 and ranks not in constants.all_reduce:
        known = ", ".join(map(str, sorted(constants.all_reduce)))
        yield (
            f"an all-reduce over {ranks} × {spec.name} was not measured: it is taken as over the nearest of "
            f"{known} GPUs"
        )


def _all_to_all_note(model: ServedModel) -> Iterable[str]:
    if model.expert_groups > 1:
        yield (
            f"how long tokens take to experts on {model.expert_parallel} GPUs and back was not measured: "
            "they are taken to travel as fast as an all-reduce"
        )


def _check_split(point: Point, architecture: Architecture) -> None:
    """Raises `SplitError` where the model cannot be divided as the point asks."""
    tensor, stages, expert = point.tensor_parallel, point.pipeline_parallel, point.expert_parallel
    for group in architecture.attention:
        if group.heads % tensor:
            raise SplitError(
                f"tensor_parallel {tensor} does not divide the {group.heads} heads of {point.model}"
            )
    if stages > architecture.layers:
        raise SplitError(f"pipeline_parallel is {stages}, but {point.model} has {architecture.layers} layers")
    if expert == 1:
        return
    if not architecture.expert_ffn:
        raise SplitError(f"expert_parallel is {expert}, but {point.model} has no experts")
    if tensor % expert and expert % tensor:
        raise SplitError(f"expert_parallel {expert} and tensor_parallel {tensor} do not divide each other")
