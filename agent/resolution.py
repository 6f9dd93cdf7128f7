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
from agent.roofline.models import ServedModel, parse_architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What the configuration says of an engine's model."""

    config: Mapping[str, Any] | None = None
    """As of a ``config.json``; `None` leaves it to the served name."""
    weight_dtype: str = "bf16"
    kv_dtype: str | None = None
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The model, or why there is none."""

    served: ServedModel | None = None
    origin: str = "unknown"
    problem: str | None = None


def resolve_model(choice: ModelChoice, reading: EngineReading) -> Resolution:
    """The served model of one engine."""
    config, origin = choice.config, "configuration"
    if config is None:
        config, origin = find_config(reading.model), "catalogue"
    if config is None:
        return Resolution(
            problem=f"model {reading.model!r} is not in the catalogue; set model under this engine"
        )
    kv_name = choice.kv_dtype or _kv_dtype(reading.kv_dtype)
    weight_dtype, kv_dtype = find_dtype(choice.weight_dtype), find_dtype(kv_name)
    if weight_dtype is None or kv_dtype is None:
        return Resolution(problem=f"KV-cache dtype {kv_name!r} is not known; set model.kv_dtype")
    try:
        architecture = parse_architecture(config)
    except UnknownModelError as error:
        return Resolution(problem=f"model {reading.model!r}: {error}")
    served = ServedModel(
        name=reading.model,
        architecture=architecture,
        weight_dtype=weight_dtype,
        kv_dtype=kv_dtype,
        tensor_parallel=choice.tensor_parallel,
    )
    return Resolution(served=served, origin=origin)


def _kv_dtype(named_by_engine: str | None) -> str:
    """``auto`` is the model's own dtype, 16 bit for every model here, quantized weights or not."""
    if named_by_engine is None or named_by_engine == "auto":
        return "bf16"
    return "fp8" if named_by_engine.startswith("fp8") else named_by_engine
