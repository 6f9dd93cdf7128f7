"""In which dtype a checkpoint keeps which parts, from the ``quantization_config`` of its ``config.json``.

Every method has its own keys; one reader each. A method that is not here raises `UnknownModelError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.errors import UnknownModelError
from agent.roofline.dtypes import Dtype, find_dtype
from agent.roofline.models import Part

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The dtypes of a checkpoint."""

    weights: Dtype
    """Of the large matrices."""
    parts: Mapping[Part, Dtype] = field(default_factory=dict)
    """Parts that were left in, or put into, another one."""
    kv_cache: Dtype | None = None
    """Where the checkpoint prescribes it."""


def _named(name: str) -> Dtype:
    dtype = find_dtype(name)
    if dtype is None:
        raise UnknownModelError(f"dtype {name!r} is not known")
    return dtype


BF16 = _named("bf16")


def _whole(given: Config, *keys: str, default: int) -> int:
    """The first of these keys that says something."""
    value = next((said for key in keys if (said := given.get(key))), default)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise UnknownModelError(f"{keys[0]} must be a whole number, not {value!r}") from None


# What a pattern of modules that were not converted names, by part.
_MODULES: tuple[tuple[Part, re.Pattern[str]], ...] = (
    ("attention", re.compile(r"self_attn|attention|\battn")),
    ("shared_experts", re.compile(r"shared_expert")),
    ("experts", re.compile(r"(?<!shared_)experts")),
    ("recurrent", re.compile(r"mixer|linear_attn|mamba|conv1d")),
)


def parse_quantization(config: Config) -> Quantization:
    """The dtypes that a ``config.json`` tells of; unquantized, its own dtype.

    Raises `UnknownModelError` for a method or a width that is not known.
    """
    given = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(given, Mapping):
        text = config.get("text_config")
        if isinstance(text, Mapping) and text.get("quantization_config"):
            return parse_quantization(text)
        return Quantization(weights=_named(str(config.get("torch_dtype") or config.get("dtype") or "bf16")))
    method = str(given.get("quant_method") or given.get("quant_algo") or "").lower()
    reader = METHODS.get(method)
    if reader is None:
        raise UnknownModelError(f"quantization {method!r} is not known (known: {', '.join(sorted(METHODS))})")
    found = reader(given)
    ignored = _ignored(given, _whole(config, "num_hidden_layers", default=0))
    return replace(found, parts={**dict.fromkeys(ignored, BF16), **found.parts})


def _ignored(given: Config, layers: int) -> Iterable[Part]:
    """Parts that stayed in 16 bit: named by a pattern, or one by one in most of the layers."""
    names: list[str] = []
    for key in ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules"):
        listed = given.get(key) or []
        if not isinstance(listed, list):
            raise UnknownModelError(f"{key} must be a list, not {listed!r}")
        names += map(str, listed)
    for part, pattern in _MODULES:
        named = [name for name in names if pattern.search(name)]
        wild = any("*" in name or name.startswith("re:") or not re.search(r"\.\d+\.", name) for name in named)
        numbered = {found[1] for name in named if (found := re.search(r"layers\.(\d+)\.", name))}
        if named and (wild or (layers and len(numbered) > layers / 2)):
            yield part


# --- one reader a method -----------------------------------------------------------------------------


def _fp8(given: Config) -> Quantization:
    return Quantization(weights=_named("fp8_block" if given.get("weight_block_size") else "fp8"))


def _integer(given: Config) -> Quantization:
    """AWQ, GPTQ: integers that are widened to 16 bit before the product."""
    bits, group = _whole(given, "bits", "w_bit", default=4), _whole(given, "group_size", default=128)
    return Quantization(weights=_grouped(bits, group))


def _grouped(bits: int, group: int) -> Dtype:
    """Integer weights in groups that share a 16-bit scale and a zero point; -1 is one group a row."""
    if bits not in (4, 8):
        raise UnknownModelError(f"weights of {bits} bits are not known")
    scales = (2 + bits / 8) / group if group > 0 else 0.0
    return Dtype(name=f"int{bits}", bytes_per_weight=bits / 8 + scales, compute="bf16")


def _compressed_tensors(given: Config) -> Quantization:
    listed = given.get("config_groups")
    groups = (
        [group for group in listed.values() if isinstance(group, Mapping)]
        if isinstance(listed, Mapping)
        else []
    )
    weights = [group.get("weights") for group in groups]
    if not weights or not isinstance(weights[0], Mapping):
        raise UnknownModelError("compressed-tensors without config_groups.*.weights")
    first, activations = weights[0], groups[0].get("input_activations")
    bits, kind = _whole(first, "num_bits", default=0), first.get("type")
    if (bits, kind) == (8, "float"):
        dtype = _named("fp8_block" if first.get("block_structure") else "fp8")
    elif (bits, kind) == (8, "int"):
        dtype = _named("int8")
    elif (bits, kind) == (4, "float"):
        dtype = _named("nvfp4" if _whole(first, "group_size", default=16) == 16 else "mxfp4")
    elif (bits, kind) == (4, "int"):
        dtype = _grouped(4, _whole(first, "group_size", default=128))
    else:
        raise UnknownModelError(f"compressed-tensors weights of {bits} bits, type {kind!r}")
    if not activations:  # only the weights are small: the product is in 16 bit
        dtype = replace(dtype, compute="bf16")
    scheme = given.get("kv_cache_scheme")
    kv = _named("fp8") if isinstance(scheme, Mapping) and scheme.get("num_bits") == 8 else None
    return Quantization(weights=dtype, kv_cache=kv)


def _mxfp4(given: Config) -> Quantization:
    """Of the gpt-oss models: the experts alone."""
    return Quantization(weights=BF16, parts={"experts": _named("mxfp4")})


def _modelopt(given: Config) -> Quantization:
    inner = given.get("quantization")
    if isinstance(inner, Mapping):
        given = inner
    algorithm = str(given.get("quant_algo") or "").upper()
    dtypes = {"FP8": "fp8", "NVFP4": "nvfp4", "FP8_PB_WO": "fp8_block"}
    if algorithm not in dtypes:
        raise UnknownModelError(f"modelopt quant_algo {algorithm!r} is not known")
    kv = _named("fp8") if str(given.get("kv_cache_quant_algo") or "").upper() == "FP8" else None
    return Quantization(weights=_named(dtypes[algorithm]), kv_cache=kv)


def _bitsandbytes(given: Config) -> Quantization:
    if given.get("load_in_4bit"):
        return Quantization(weights=Dtype(name="int4", bytes_per_weight=0.5 + 4 / 64, compute="bf16"))
    return Quantization(weights=replace(_named("int8"), compute="bf16"))


def _gguf(given: Config) -> Quantization:
    """Blocks of several widths, widened to 16 bit: one mean over all, the head among them."""
    bits = given.get("bits_per_weight")
    if isinstance(bits, bool) or not isinstance(bits, int | float) or not 1 <= bits <= 32:
        raise UnknownModelError("GGUF weights of an unknown width")
    dtype = Dtype(name=str(given.get("format") or "gguf"), bytes_per_weight=bits / 8, compute="bf16")
    return Quantization(weights=dtype, parts={"head": dtype})


METHODS: Mapping[str, Callable[[Config], Quantization]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "awq": _integer,
    "gptq": _integer,
    "compressed-tensors": _compressed_tensors,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "bitsandbytes": _bitsandbytes,
    "gguf": _gguf,
}
