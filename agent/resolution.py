"""Which model an engine serves, how it is run, and where that is known from.

Each fact by itself, from the first that tells it: the configuration, the engine's own interface, the
engine's process, then the catalogue by the served name. What nobody tells is unknown, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, Literal

from agent.errors import UnknownModelError
from agent.readings import EngineReading, ModelFacts
from agent.roofline.catalogue import find_config
from agent.roofline.dtypes import Dtype, find_dtype
from agent.roofline.families import parse_architecture
from agent.roofline.models import ServedModel
from agent.roofline.quantization import BF16, Quantization, parse_quantization

ModelOrigin = Literal["configuration", "engine", "process", "catalogue", "unknown"]
NOT_QUANTIZED = ("auto", "none", "bf16", "bfloat16", "fp16", "f16", "float16", "half")
"""How engines word it that weights are as in the checkpoint."""
WEIGHT_BYTES_TOLERANCE = 0.25
"""Engines pad, copy small parts to every rank and count in GiB; beyond this it is another model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The model, or why there is none."""

    served: ServedModel | None = None
    origin: ModelOrigin = "unknown"
    """Where the architecture is known from."""
    problem: str | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)
    """All that is said of it, the configuration first."""


def merge_facts(*sayings: ModelFacts) -> ModelFacts:
    """Field by field the first that says something."""
    return reduce(_merge_two, sayings, ModelFacts())


_FACTS = tuple(fact.name for fact in fields(ModelFacts))


def _merge_two(first: ModelFacts, second: ModelFacts) -> ModelFacts:
    return ModelFacts(
        **{
            name: getattr(second, name) if (said := getattr(first, name)) in (None, ()) else said
            for name in _FACTS
        }
    )


def resolve_model(
    configured: ModelFacts, reading: EngineReading, *, process: ModelFacts | None = None, gpus: int = 0
) -> Resolution:
    """The served model of one engine, which has so many GPUs on this node."""
    process = process or ModelFacts()
    said = merge_facts(configured, reading.facts, process)
    return replace(_resolve(said, configured, reading, process, gpus), facts=said)


def _resolve(
    said: ModelFacts, configured: ModelFacts, reading: EngineReading, process: ModelFacts, gpus: int
) -> Resolution:
    name = reading.model or next(iter(said.served_names), None) or said.path or ""
    origin, config = next(_configs(configured, reading, process), (None, None))
    if origin is None or config is None:
        return Resolution(problem=f"model {name!r} is not in the catalogue; set model under this engine")
    try:
        architecture, quantization = parse_architecture(config), parse_quantization(config)
        weights = _weight_dtype(said, configured, quantization, config)
    except UnknownModelError as error:
        return Resolution(problem=f"model {name!r}: {error}")
    kv_name = None if said.kv_dtype == "auto" else said.kv_dtype
    kv_dtype = quantization.kv_cache if kv_name is None else _find_kv_dtype(kv_name)
    if kv_dtype is None and kv_name is not None:
        return Resolution(problem=f"KV-cache dtype {kv_name!r} is not known; set model.kv_dtype")
    pipeline_parallel = said.pipeline_parallel or 1
    served = ServedModel(
        name=name,
        architecture=architecture,
        weight_dtype=weights,
        kv_dtype=kv_dtype or BF16,
        part_dtypes=quantization.parts if weights is quantization.weights else {},
        tensor_parallel=said.tensor_parallel or max(gpus // pipeline_parallel, 1),
        pipeline_parallel=pipeline_parallel,
        expert_parallel=said.expert_parallel or 1,
    )
    return Resolution(served=served, origin=origin, problem=_doubt(served, said, gpus))


def _configs(
    configured: ModelFacts, reading: EngineReading, process: ModelFacts
) -> Iterator[tuple[ModelOrigin, Mapping[str, Any]]]:
    """All that can be had of the architecture, as of a ``config.json``, the best first."""
    candidates: tuple[tuple[ModelOrigin, Mapping[str, Any] | None], ...] = (
        ("configuration", configured.config),
        ("engine", reading.facts.config or _published(reading.facts.path)),
        ("process", process.config or _published(process.path)),
        *(("catalogue", find_config(name)) for name in (reading.model, *reading.facts.served_names)),
    )
    return ((origin, config) for origin, config in candidates if config is not None)


def _published(path: str | None) -> Mapping[str, Any] | None:
    """Of the public model of that name on a hub; what a directory is called says little of what is in it."""
    return find_config(path) if path is not None and not path.startswith((".", "/", "~")) else None


def _weight_dtype(
    said: ModelFacts, configured: ModelFacts, quantization: Quantization, config: Mapping[str, Any]
) -> Dtype:
    """The checkpoint's, unless the configuration says otherwise or the engine converts it as it loads it."""
    if configured.weight_dtype is not None and (named := find_dtype(configured.weight_dtype)) is not None:
        return named
    method = (said.weight_dtype or "auto").lower().removeprefix("torch.")
    if quantization.weights is not BF16 or method in NOT_QUANTIZED:
        return quantization.weights
    named = find_dtype(method)
    if named is not None:
        return named
    if said.weight_bytes and said.parameters:
        # It says what its weights take: as those of llama.cpp, whose formats mix blocks of several widths.
        return Dtype(name=method, bytes_per_weight=said.weight_bytes / said.parameters, compute="bf16")
    raise UnknownModelError(
        f"its weights are quantized by {method!r}, which is not known; set model.weight_dtype"
    )


def _find_kv_dtype(name: str) -> Dtype | None:
    return find_dtype("fp8" if name.startswith("fp8") else name)


def _doubt(served: ServedModel, said: ModelFacts, gpus: int) -> str | None:
    """What does not fit together."""
    if gpus > served.ranks:
        return f"it has {gpus} GPUs here, and its model is split over {served.ranks}: check tensor_parallel"
    if said.weight_bytes and abs(served.weight_bytes / said.weight_bytes - 1) > WEIGHT_BYTES_TOLERANCE:
        held, modelled = said.weight_bytes / 1e9, served.weight_bytes / 1e9
        return (
            f"its weights take {held:.1f} GB, and the model's would take {modelled:.1f} GB: check the model"
        )
    return None
