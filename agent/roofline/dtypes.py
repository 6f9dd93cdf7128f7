"""Number formats: what a weight costs to read, and which roof its product runs under."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """One number format of weights."""

    name: str
    bytes_per_weight: float
    """With its scales: a group of 128 int4 weights shares an fp16 scale and a zero point, and so on."""
    compute: str
    """The dtype its matrix products are computed in: int4 weights are widened to bf16 first."""
    aliases: tuple[str, ...] = ()


DTYPES: tuple[Dtype, ...] = (
    Dtype(name="bf16", bytes_per_weight=2.0, compute="bf16", aliases=("bfloat16", "fp16", "float16", "half")),
    Dtype(name="fp32", bytes_per_weight=4.0, compute="fp32", aliases=("float32", "float")),
    Dtype(name="fp8", bytes_per_weight=1.0, compute="fp8", aliases=("fp8_e4m3", "fp8_e5m2", "float8_e4m3fn")),
    Dtype(name="fp8_block", bytes_per_weight=1 + 4 / 128**2, compute="fp8", aliases=("fp8_block_scales",)),
    Dtype(name="int8", bytes_per_weight=1.0, compute="int8"),
    Dtype(
        name="int4",
        bytes_per_weight=0.52,
        compute="bf16",
        aliases=("awq", "gptq", "w4a16_awq", "w4a16_gptq"),
    ),
    Dtype(name="mxfp4", bytes_per_weight=0.5 + 1 / 32, compute="bf16", aliases=("w4a16_mxfp4",)),
    Dtype(name="nvfp4", bytes_per_weight=0.5 + 1 / 16, compute="fp4"),
)
"""Scales: one fp32 a 128×128 block (fp8_block), one byte a 32-group (OCP MX), one fp8 a 16-group (NVFP4)."""

_BY_NAME = {name: dtype for dtype in DTYPES for name in (dtype.name, *dtype.aliases)}


def find_dtype(name: str) -> Dtype | None:
    """The dtype of that name or alias, upper or lower case; `None` when there is none."""
    return _BY_NAME.get(name.lower().removeprefix("torch."))
