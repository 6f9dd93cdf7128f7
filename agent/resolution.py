"""Which model an engine serves, and where that is known from.

In this order: the configuration, then the catalogue by the served name, else unknown with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import UnknownModelError
from agent.readings import EngineReading
from agent.roofline.catalogue import find_config
from agent.roofline.dtypes import find_dtype
from agent.roofline.families import parse_architecture
from agent.roofline.models import ServedModel
from agent.roofline.quantization import BF16, Quantization, parse_quantization


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What the configuration says of an engine's model."""

    config: Mapping[str, Any] | None = None
    """As of a ``config.json``; `None` leaves it to the served name."""
    weight_dtype: str | None = None
    """`None` leaves it to the ``quantization_config``."""
    kv_dtype: str | None = None
    tensor_parallel: int | None = None
    """`None`: over all GPUs that the engine has here."""
    pipeline_parallel: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The model, or why there is none."""

    served: ServedModel | None = None
    origin: str = "unknown"
    problem: str | None = None


def resolve_model(choice: ModelChoice, reading: EngineReading, *, gpus: int = 0) -> Resolution:
    """The served model of one engine, which has so many GPUs on this node."""
    config, origin = choice.config, "configuration"
    if config is None:
        config, origin = find_config(reading.model), "catalogue"
    if config is None:
        return Resolution(
            problem=f"model {reading.model!r} is not in the catalogue; set model under this engine"
        )
    try:
        architecture, quantization = parse_architecture(config), parse_quantization(config)
    except UnknownModelError as error:
        return Resolution(problem=f"model {reading.model!r}: {error}")
    if choice.weight_dtype is not None and (weights := find_dtype(choice.weight_dtype)) is not None:
        quantization = Quantization(weights=weights, kv_cache=quantization.kv_cache)
    kv_name = choice.kv_dtype or _kv_dtype(reading.kv_dtype)
    kv_dtype = quantization.kv_cache if kv_name is None else find_dtype(kv_name)
    if kv_dtype is None and kv_name is not None:
        return Resolution(problem=f"KV-cache dtype {kv_name!r} is not known; set model.kv_dtype")
    served = ServedModel(
        name=reading.model,
        architecture=architecture,
        weight_dtype=quantization.weights,
        kv_dtype=kv_dtype or BF16,
        part_dtypes=quantization.parts,
        tensor_parallel=choice.tensor_parallel or max(gpus // choice.pipeline_parallel, 1),
        pipeline_parallel=choice.pipeline_parallel,
    )
    problem = None
    if gpus > served.ranks:
        problem = (
            f"it has {gpus} GPUs here, and its model is split over {served.ranks}: check tensor_parallel"
        )
    return Resolution(served=served, origin=origin, problem=problem)


def _kv_dtype(named_by_engine: str | None) -> str | None:
    """``auto`` is what the checkpoint prescribes, else 16 bit, quantized weights or not."""
    if named_by_engine is None or named_by_engine == "auto":
        return None
    return "fp8" if named_by_engine.startswith("fp8") else named_by_engine
