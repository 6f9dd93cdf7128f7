"""The measurements, each beside what the agent's own functions say of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from agent.roofline.dtypes import Dtype, find_dtype
from agent.roofline.gpus import GpuSpec, find_gpu
from agent.roofline.models import ServedModel
from agent.roofline.roof import Roof
from agent.roofline.step import (
    Attribution,
    PhaseTime,
    StepConstants,
    attribute,
    constants_for,
    decode_time,
    prefill_time,
)
from agent.roofline.workload import PhaseWork, TokenWork, Workload, decode_step, workload
from tests.roofline.test_models import FACTS, served

Row = dict[str, str]

PARTS = {
    "a100_sxm": "A100-SXM4-80GB",
    "h100_sxm": "H100-SXM5-80GB",
    "h200_sxm": "H200-SXM",
    "l40s": "L40S",
    "b200_sxm": "B200",
}

# What a server's precision says of the weights. The cache is in 8 bit on all of them, as the published bytes
# of a step show.
PRECISIONS = {"fp8": "fp8", "fp4": "nvfp4"}


def dtype(name: str) -> Dtype:
    found = find_dtype(name)
    assert found is not None, name
    return found


def gpu(system: str) -> GpuSpec:
    spec = find_gpu(PARTS[system])
    assert spec is not None, system
    return spec


def model_of(row: Row, weights: str, kv_cache: str) -> ServedModel:
    """As it was served; of gpt-oss the experts alone are narrow."""
    name, narrow = row["model"], dtype(weights)
    if name.startswith("gpt-oss"):
        return served(
            name,
            weight_dtype=dtype("bf16"),
            part_dtypes={"experts": dtype("mxfp4")},
            kv_dtype=dtype(kv_cache),
            tensor_parallel=int(row["tp"]),
        )
    return served(name, weight_dtype=narrow, kv_dtype=dtype(kv_cache), tensor_parallel=int(row["tp"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that one set of constants speaks of."""

    part: str
    narrow: bool
    experts: bool
    backend: str

    @property
    def kind(self) -> str:
        return f"{'experts' if self.experts else 'dense'}, {'8 or 4' if self.narrow else '16'} bit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measurement and the work that was done in it."""

    row: Row
    model: ServedModel
    tokens: TokenWork
    work: Workload
    roof: Roof
    seconds: float

    @property
    def group(self) -> Group:
        return Group(
            part=PARTS[self.row["system"]],
            narrow=self.model.weight_dtype.compute not in ("bf16", "fp32"),
            experts=bool(self.model.architecture.expert_ffn),
            backend=self.row["backend"],
        )

    @property
    def constants(self) -> StepConstants:
        """Those that the agent takes."""
        return constants_for(
            self.group.part,
            dtype=self.model.weight_dtype.name,
            moe=self.group.experts,
            backend=self.group.backend,
        )

    def at_peak(self, work: PhaseWork) -> tuple[float, float]:
        """Seconds for the bytes at peak bandwidth, and for the FLOPs at peak rate, on each GPU."""
        ranks = self.model.tensor_parallel
        return (
            work.bytes / ranks / self.roof.dram_bytes_per_second,
            work.flops / ranks / self.roof.flops_per_second,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Measured):
    """A step measured kernel by kernel."""

    @property
    def is_decode(self) -> bool:
        return self.row["phase"] == "decode"

    @property
    def phase_work(self) -> PhaseWork:
        return self.work.decode if self.is_decode else self.work.prefill

    @property
    def bound_seconds(self) -> float:
        return max(self.at_peak(self.phase_work))

    def time(self, constants: StepConstants) -> PhaseTime:
        """What the agent says with these constants."""
        modelled = decode_time if self.is_decode else prefill_time
        return modelled(self.model, self.work, self.tokens, self.roof, constants)

    def error(self, constants: StepConstants) -> float:
        """Predicted ÷ measured − 1."""
        return self.time(constants).total / self.seconds - 1

    @property
    def collective_seconds(self) -> float:
        """As measured; where they were counted with the experts, as modelled."""
        if self.row["model"].startswith("DeepSeek"):
            return self.time(self.constants).interconnect
        return float(self.row["comm_ms"]) / 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Server(Measured):
    """The mean time between tokens of a running server, with as many requests as it was sent at once."""

    decode: PhaseWork
    """Of the decoding alone; `work` is a mean step, with its part of the prefill of new requests."""

    @property
    def bound_seconds(self) -> float:
        """For the decoding alone: what is certain, however the server mixes prefill in."""
        return max(self.at_peak(self.decode))

    @property
    def attribution(self) -> Attribution:
        return attribute(
            model=self.model,
            work=self.work,
            tokens=self.tokens,
            decode_step_seconds=self.seconds,
            window_seconds=self.seconds,
            roof=self.roof,
            constants=self.constants,
        )

    @property
    def residual_ratio(self) -> float:
        """What is left of the step for the host."""
        residual = self.attribution.residual_ratio
        assert residual is not None
        return residual

    @property
    def kv_cache_demand_ratio(self) -> float:
        """The cache that all requests want at the end, ÷ what 90 % of memory leaves beside the weights."""
        tokens = float(self.row["isl"]) + float(self.row["osl"])
        wanted = self.tokens.decode_tokens * self.model.kv_bytes(tokens)
        memory = gpu(self.row["system"]).memory_gigabytes * 1e9 * self.model.ranks
        return wanted / (0.9 * memory - self.model.weight_bytes)


def _rows(name: str) -> Iterator[Row]:
    return iter(csv.DictReader((FACTS / name).read_text().splitlines()))


def _roof(row: Row, model: ServedModel) -> Roof:
    roof = gpu(row["system"]).roof(model.weight_dtype.compute)
    assert roof is not None
    return roof


def _step(row: Row) -> Step:
    model, batch = model_of(row, row["weight_quant"], row["kv_dtype"]), float(row["batch"])
    tokens = decode_step(batch=batch, context_tokens=float(row["context_len"]))
    if row["phase"] == "prefill":
        tokens = TokenWork(
            prompts=batch,
            prefill_tokens=batch * float(row["isl"]),
            prefill_logits=batch,
            prefill_only_steps=1,
            prefill_only_ratio=1,
        )
    return Step(
        row=row,
        model=model,
        tokens=tokens,
        work=workload(model, tokens),
        roof=_roof(row, model),
        seconds=float(row["step_latency_ms"]) / 1e3,
    )


def _server(row: Row) -> Server:
    blocks = row["model"].startswith("DeepSeek") and row["precision"] == "fp8"
    model = model_of(row, "fp8_block" if blocks else PRECISIONS[row["precision"]], "fp8")
    batch, prompt, output = (float(row[key]) for key in ("concurrency", "isl", "osl"))
    context = prompt + output / 2
    tokens = TokenWork(
        decode_tokens=batch,
        decode_steps=1,
        decode_context=context,
        prompts=batch / output,
        prefill_tokens=batch * prompt / output,
        prefill_logits=batch / output,
    )
    return Server(
        row=row,
        model=model,
        tokens=tokens,
        work=workload(model, tokens),
        decode=workload(model, decode_step(batch=batch, context_tokens=context)).decode,
        roof=_roof(row, model),
        seconds=float(row["tpot_ms"]) / 1e3,
    )


@cache
def steps() -> tuple[Step, ...]:
    """All 125."""
    return tuple(_step(row) for row in _rows("measured_steps.csv"))


@cache
def servers() -> tuple[Server, ...]:
    """All 845."""
    return tuple(_server(row) for row in _rows("measured_servers.csv"))
