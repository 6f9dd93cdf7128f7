"""What a model's architecture costs: parameters, bytes and FLOPs, from its Hugging Face ``config.json``.

Known here: dense transformers with multi-head or grouped-query attention over the full context, gated
or plain feed-forward layers, tied or untied heads. Everything else raises `UnknownModelError` with the
reason: a wrong number is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import UnknownModelError
from agent.roofline.dtypes import Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of one dense transformer."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    """Width of the feed-forward layer."""
    ffn_matrices: int
    """3 when gated (SwiGLU, GeGLU), else 2."""
    vocabulary: int
    tied_head: bool
    """The LM head is the embedding itself: no parameters of its own, but read all the same."""
    small_parameters: int = 0
    """Norms and biases, all layers: a few parts in 10⁵, read with every step."""

    @property
    def attention_parameters(self) -> int:
        """Of the projections q, k, v and o, all layers."""
        query_and_output = 2 * self.hidden * self.heads * self.head_dim
        key_and_value = 2 * self.hidden * self.kv_heads * self.head_dim
        return self.layers * (query_and_output + key_and_value)

    @property
    def ffn_parameters(self) -> int:
        """Of the feed-forward layers, all layers."""
        return self.layers * self.ffn_matrices * self.hidden * self.ffn

    @property
    def linear_parameters(self) -> int:
        """What each token is multiplied with, the LM head apart."""
        return self.attention_parameters + self.ffn_parameters

    @property
    def head_parameters(self) -> int:
        """Of the LM head, whether it is tied or not."""
        return self.vocabulary * self.hidden

    @property
    def total_parameters(self) -> int:
        """As published: the embedding once more where the head is not tied to it."""
        embeddings = self.head_parameters * (1 if self.tied_head else 2)
        return self.linear_parameters + embeddings + self.small_parameters

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs of one query token over one attended token: score and weighted sum, all layers."""
        return 4 * self.layers * self.heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """An architecture as one replica serves it."""

    name: str
    architecture: Architecture
    weight_dtype: Dtype
    kv_dtype: Dtype
    tensor_parallel: int = 1

    @property
    def step_weight_bytes(self) -> float:
        """Read once a step by the whole replica: every layer and the LM head; the head stays in 16 bit."""
        architecture = self.architecture
        sixteen_bit = architecture.head_parameters + architecture.small_parameters
        return architecture.linear_parameters * self.weight_dtype.bytes_per_weight + sixteen_bit * 2

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value of one token over all ranks; with more ranks than heads, heads are copied."""
        architecture = self.architecture
        heads = max(architecture.kv_heads, self.tensor_parallel)
        return int(2 * architecture.layers * heads * architecture.head_dim * self.kv_dtype.bytes_per_weight)


# --- from config.json --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a ``model_type`` implies beyond its numbers (the library's model code, by family)."""

    gated: bool = True
    tied_by_default: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    norms_per_layer: int = 2
    norm_bias: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "phi3": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "nemotron": Family(gated=False, norm_bias=True),
    # Attention and feed-forward stand side by side behind one norm.
    "falcon": Family(gated=False, tied_by_default=True, norms_per_layer=1, norm_bias=True),
}


def parse_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a ``config.json`` describes.

    Raises `UnknownModelError` for a family, a window or a part that is not known here, and for missing
    or impossible numbers.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise UnknownModelError(f"model_type {model_type!r} is not known (known: {known})")
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise UnknownModelError("sliding-window attention is not known yet")

    hidden = _positive(config, "hidden_size")
    layers = _positive(config, "num_hidden_layers")
    heads = _positive(config, "num_attention_heads")
    kv_heads = _kv_heads(config, heads)
    head_dim = _positive(config, "head_dim") if config.get("head_dim") else hidden // heads
    # Falcon has no key for it: its feed-forward is four times as wide.
    ffn = 4 * hidden if model_type == "falcon" else _positive(config, "intermediate_size")
    if heads % kv_heads:
        raise UnknownModelError(f"{heads} heads cannot share {kv_heads} key-value heads evenly")

    norm = hidden * (2 if family.norm_bias else 1)
    small = norm * (family.norms_per_layer * layers + 1)
    if config.get("attention_bias", family.qkv_bias):
        small += layers * (heads + 2 * kv_heads) * head_dim
    if family.qk_norm:
        small += layers * 2 * head_dim
    return Architecture(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        ffn_matrices=3 if family.gated else 2,
        vocabulary=_positive(config, "vocab_size"),
        tied_head=bool(config.get("tie_word_embeddings", family.tied_by_default)),
        small_parameters=small,
    )


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("model_type") == "falcon" and config.get("multi_query"):
        return 1
    for key in ("num_key_value_heads", "num_kv_heads"):
        if config.get(key) is not None:
            return _positive(config, key)
    return heads


def _positive(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise UnknownModelError(f"{key} must be a whole number above 0, not {value!r}")
    return value
