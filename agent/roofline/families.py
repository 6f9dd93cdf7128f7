"""From a Hugging Face ``config.json`` to an `Architecture`: one reader a family of models.

Each reader knows its family's keys and what they leave unsaid. A family that is not here, or a part that a
reader does not know, raises `UnknownModelError` with the reason: a wrong number is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.errors import UnknownModelError
from agent.roofline.models import Architecture, Attention, DenseFfn, ExpertFfn, LatentAttention, Recurrent

Config = Mapping[str, Any]

MAX_LAYERS = 4096
MAX_NUMBER = 2**31
"""What a ``config.json`` says beyond these is of no model, and would take for ever or overflow."""


def parse_architecture(config: Config) -> Architecture:
    """The architecture that a ``config.json`` describes; of a multimodal model, its language part.

    Raises `UnknownModelError` for what is not known here, and for missing or impossible numbers.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {"model_type": config.get("model_type"), **text}
    model_type = config.get("model_type")
    reader = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if reader is None:
        known = ", ".join(sorted(FAMILIES))
        raise UnknownModelError(f"model_type {model_type!r} is not known (known: {known})")
    architecture = reader(config)
    for group in architecture.expert_ffn:
        if group.active > group.experts:
            raise UnknownModelError(f"{group.active} experts of {group.experts} cannot be active at once")
    return architecture


# --- numbers -----------------------------------------------------------------------------------------


def _positive(config: Config, *keys: str, default: int | None = None) -> int:
    """The first of these keys that is there."""
    for key in keys:
        value = config.get(key)
        if value is not None:
            return _within(1, MAX_NUMBER, key, value)
    return _within(1, MAX_NUMBER, keys[0], default)


def _count(config: Config, key: str) -> int:
    """A number that may be 0, and is where nothing is said."""
    value = config.get(key)
    return 0 if value is None else _within(0, MAX_NUMBER, key, value)


def _layers(config: Config) -> int:
    return _within(1, MAX_LAYERS, "num_hidden_layers", config.get("num_hidden_layers"))


def _within(least: int, most: int, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        above = "above 0" if least else "not below 0"
        raise UnknownModelError(f"{key} must be a whole number {above}, not {value!r}")
    if value > most:
        raise UnknownModelError(f"{key} is {value}, and no model has more than {most}")
    return value


def _heads(config: Config) -> tuple[int, int, int]:
    """Heads, key-value heads, head size."""
    heads = _positive(config, "num_attention_heads")
    kv_heads = _positive(config, "num_key_value_heads", "num_kv_heads", default=heads)
    head_dim = _positive(config, "head_dim", default=_positive(config, "hidden_size") // heads)
    if heads % kv_heads:
        raise UnknownModelError(f"{heads} heads cannot share {kv_heads} key-value heads evenly")
    return heads, kv_heads, head_dim


def _tied(config: Config, *, default: bool = False) -> bool:
    return bool(config.get("tie_word_embeddings", default))


def _windowed(config: Config, windowed: int, *, window: int | None, **further: Any) -> tuple[Attention, ...]:
    """Attention layers, so many of which see only a window."""
    layers = _layers(config)
    heads, kv_heads, head_dim = _heads(config)
    shape: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, **further}
    groups = []
    if layers > windowed:
        groups.append(Attention(layers=layers - windowed, **shape))
    if windowed and window:
        groups.append(Attention(layers=windowed, window=window, **shape))
    return tuple(groups)


def _windowed_layers(config: Config, *, pattern: Callable[[int], bool]) -> int:
    """How many layers see a window: as ``layer_types`` says, else by the family's pattern."""
    said = _typed_layers(config, "sliding_attention", "chunked_attention")
    return sum(1 for layer in range(_layers(config)) if pattern(layer)) if said is None else said


def _typed_layers(config: Config, *kinds: str) -> int | None:
    """How many layers are of these kinds by ``layer_types``; `None` without it."""
    types, layers = config.get("layer_types"), _layers(config)
    if not isinstance(types, list):
        return None
    if len(types) > layers:
        raise UnknownModelError(f"layer_types has {len(types)} layers, num_hidden_layers {layers}")
    return sum(1 for kind in types if kind in kinds)


def _window(config: Config) -> int | None:
    """How far its attention sees back, where that is limited."""
    return (_count(config, "sliding_window") or None) if config.get("use_sliding_window", True) else None


# --- dense -------------------------------------------------------------------------------------------


def _dense(
    *,
    gated: bool = True,
    tied: bool = False,
    norms_per_layer: int = 2,
    norm_bias: bool = False,
    qkv_bias: bool = False,
    qk_norm: bool = False,
    windowed: Callable[[Config], int] | None = None,
) -> Callable[[Config], Architecture]:
    """A reader of a family with one attention and one feed-forward a layer."""

    def read(config: Config) -> Architecture:
        layers, hidden = _layers(config), _positive(config, "hidden_size")
        heads, kv_heads, head_dim = _heads(config)
        window = _window(config)
        behind = windowed(config) if windowed is not None else layers
        small = hidden * (2 if norm_bias else 1) * (norms_per_layer * layers + 1)
        if config.get("attention_bias", qkv_bias):
            small += layers * (heads + 2 * kv_heads) * head_dim
        if qk_norm:
            small += layers * 2 * head_dim
        return Architecture(
            hidden=hidden,
            vocabulary=_positive(config, "vocab_size"),
            tied_head=_tied(config, default=tied),
            attention=_windowed(config, behind if window else 0, window=window),
            dense_ffn=(
                DenseFfn(
                    layers=layers, width=_positive(config, "intermediate_size"), matrices=3 if gated else 2
                ),
            ),
            small_parameters=small,
        )

    return read


def _falcon(config: Config) -> Architecture:
    """Attention and feed-forward side by side behind one norm; the feed-forward is four times as wide."""
    kv_heads = 1 if config.get("multi_query") else config.get("num_kv_heads")
    full = {
        **config,
        "num_key_value_heads": kv_heads or config.get("num_key_value_heads"),
        "intermediate_size": 4 * _positive(config, "hidden_size"),
    }
    return _dense(gated=False, tied=True, norms_per_layer=1, norm_bias=True)(full)


def _gemma2_windows(config: Config) -> int:
    return _windowed_layers(config, pattern=lambda layer: layer % 2 == 0)


def _gemma3_windows(config: Config) -> int:
    every = _positive(config, "sliding_window_pattern", default=6)
    return _windowed_layers(config, pattern=lambda layer: (layer + 1) % every != 0)


# --- mixtures of experts -----------------------------------------------------------------------------


def _expert_layers(config: Config) -> int:
    """Layers with experts where a family leaves some out: every n-th, the first ones, or a list."""
    layers = _layers(config)
    step = _positive(config, "decoder_sparse_step", "moe_layer_freq", default=1)
    first, listed = _count(config, "first_k_dense_replace"), config.get("mlp_only_layers") or []
    if not isinstance(listed, list):
        raise UnknownModelError(f"mlp_only_layers must be a list, not {listed!r}")
    plain = {layer for layer in listed if isinstance(layer, int)}
    if first:
        return sum(1 for layer in range(first, layers) if layer % step == 0)
    return sum(1 for layer in range(layers) if layer not in plain and (layer + 1) % step == 0)


def _mixture(
    *,
    qk_norm: bool = False,
    qk_norm_whole: bool = False,
    expert_width: tuple[str, ...] = ("moe_intermediate_size",),
    shared: Callable[[Config, int], tuple[int, bool]] = lambda config, width: (0, False),
) -> Callable[[Config], Architecture]:
    """A reader of a family with grouped-query attention and experts."""

    def read(config: Config) -> Architecture:
        layers, hidden = _layers(config), _positive(config, "hidden_size")
        heads, kv_heads, head_dim = _heads(config)
        width = _positive(config, *expert_width)
        shared_width, gate = shared(config, width)
        with_experts = _expert_layers(config)
        small = hidden * (2 * layers + 1)
        if config.get("attention_bias"):
            small += layers * (heads + 2 * kv_heads) * head_dim
        if config.get("use_qk_norm", qk_norm):
            small += layers * head_dim * ((heads + kv_heads) if qk_norm_whole else 2)
        window = _window(config)
        return Architecture(
            hidden=hidden,
            vocabulary=_positive(config, "vocab_size"),
            tied_head=_tied(config),
            attention=_windowed(config, layers if window else 0, window=window),
            dense_ffn=_plain_layers(config, layers - with_experts),
            expert_ffn=(
                ExpertFfn(
                    layers=with_experts,
                    experts=_positive(config, "num_local_experts", "num_experts", "n_routed_experts"),
                    active=_positive(config, "num_experts_per_tok"),
                    width=width,
                    shared_width=shared_width,
                    shared_gate=gate,
                ),
            ),
            small_parameters=small,
        )

    return read


def _plain_layers(config: Config, layers: int) -> tuple[DenseFfn, ...]:
    return (DenseFfn(layers=layers, width=_positive(config, "intermediate_size")),) if layers else ()


def _counted_shared(config: Config, width: int) -> tuple[int, bool]:
    """So many shared experts of an expert's own width."""
    return _count(config, "n_shared_experts") * width, False


def _gated_shared(config: Config, width: int) -> tuple[int, bool]:
    """One shared expert of its own width, behind a gate."""
    own = _count(config, "shared_expert_intermediate_size")
    return own, own > 0


def _deepseek(config: Config) -> Architecture:
    """Latent attention, and experts after the first layers."""
    layers, hidden = _layers(config), _positive(config, "hidden_size")
    query_rank = _count(config, "q_lora_rank") or None
    kv_rank = _positive(config, "kv_lora_rank")
    width = _positive(config, "moe_intermediate_size")
    with_experts = _expert_layers(config)
    return Architecture(
        hidden=hidden,
        vocabulary=_positive(config, "vocab_size"),
        tied_head=_tied(config),
        attention=(
            LatentAttention(
                layers=layers,
                heads=_positive(config, "num_attention_heads"),
                query_rank=query_rank,
                kv_rank=kv_rank,
                nope_dim=_positive(config, "qk_nope_head_dim"),
                rope_dim=_positive(config, "qk_rope_head_dim"),
                value_dim=_positive(config, "v_head_dim"),
                top_k=_count(config, "index_topk") or None,
                index_heads=_count(config, "index_n_heads"),
                index_dim=_count(config, "index_head_dim"),
            ),
        ),
        dense_ffn=_plain_layers(config, layers - with_experts),
        expert_ffn=(
            ExpertFfn(
                layers=with_experts,
                experts=_positive(config, "n_routed_experts"),
                active=_positive(config, "num_experts_per_tok"),
                width=width,
                shared_width=_counted_shared(config, width)[0],
            ),
        ),
        small_parameters=hidden * (2 * layers + 1) + layers * (kv_rank + (query_rank or 0)),
    )


def _gpt_oss(config: Config) -> Architecture:
    """Every other layer sees a window of 128; all projections and experts have biases, heads have sinks."""
    layers, hidden = _layers(config), _positive(config, "hidden_size")
    heads, kv_heads, head_dim = _heads(config)
    experts, width = _positive(config, "num_local_experts"), _positive(config, "intermediate_size")
    behind = _windowed_layers(config, pattern=lambda layer: layer % 2 == 0)
    biases = (heads + 2 * kv_heads) * head_dim + hidden + heads + experts * (1 + 2 * width + hidden)
    return Architecture(
        hidden=hidden,
        vocabulary=_positive(config, "vocab_size"),
        tied_head=_tied(config),
        attention=_windowed(config, behind, window=_positive(config, "sliding_window", default=128)),
        expert_ffn=(
            ExpertFfn(
                layers=layers,
                experts=experts,
                active=_positive(config, "num_experts_per_tok", "experts_per_token"),
                width=width,
            ),
        ),
        small_parameters=hidden * (2 * layers + 1) + layers * biases,
    )


def _llama4(config: Config) -> Architecture:
    """Three of four layers see their own chunk; experts in every n-th layer, one of which is shared."""
    layers, hidden = _layers(config), _positive(config, "hidden_size")
    width = _positive(config, "intermediate_size")
    step = _positive(config, "interleave_moe_layer_step", default=1)
    with_experts = layers // step
    behind = _windowed_layers(config, pattern=lambda layer: (layer + 1) % 4 != 0)
    plain = layers - with_experts
    return Architecture(
        hidden=hidden,
        vocabulary=_positive(config, "vocab_size"),
        tied_head=_tied(config),
        attention=_windowed(config, behind, window=_positive(config, "attention_chunk_size", default=8192)),
        dense_ffn=(
            (DenseFfn(layers=plain, width=_positive(config, "intermediate_size_mlp")),) if plain else ()
        ),
        expert_ffn=(
            ExpertFfn(
                layers=with_experts,
                experts=_positive(config, "num_local_experts"),
                active=_positive(config, "num_experts_per_tok"),
                width=width,
                shared_width=width,
            ),
        ),
        small_parameters=hidden * (2 * layers + 1),
    )


def _gemma4(config: Config) -> Architecture:
    """Local layers with a window, global ones with larger heads whose keys are their values.

    Each layer has a dense feed-forward, and beside it experts where ``enable_moe_block`` says so.
    """
    layers, hidden = _layers(config), _positive(config, "hidden_size")
    heads, kv_heads, head_dim = _heads(config)
    behind = _windowed_layers(config, pattern=lambda layer: (layer + 1) % 6 != 0)
    experts: tuple[ExpertFfn, ...] = ()
    if config.get("enable_moe_block"):
        experts = (
            ExpertFfn(
                layers=layers,
                experts=_positive(config, "num_experts"),
                active=_positive(config, "top_k_experts"),
                width=_positive(config, "moe_intermediate_size"),
            ),
        )
    return Architecture(
        hidden=hidden,
        vocabulary=_positive(config, "vocab_size"),
        tied_head=_tied(config, default=True),
        attention=(
            Attention(
                layers=layers - behind,
                heads=heads,
                kv_heads=_positive(config, "num_global_key_value_heads", default=kv_heads),
                head_dim=_positive(config, "global_head_dim", default=head_dim),
                keys_are_values=bool(config.get("attention_k_eq_v")),
            ),
            Attention(
                layers=behind,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                window=_positive(config, "sliding_window"),
            ),
        ),
        dense_ffn=(DenseFfn(layers=layers, width=_positive(config, "intermediate_size")),),
        expert_ffn=experts,
        small_parameters=hidden * (4 * layers + 1),
    )


# --- hybrids: layers with a state --------------------------------------------------------------------


def _qwen35(config: Config) -> Architecture:
    """Gated delta nets, and full attention with an output gate in every fourth layer."""
    layers, hidden = _layers(config), _positive(config, "hidden_size")
    heads, kv_heads, head_dim = _heads(config)
    typed = _typed_layers(config, "full_attention")
    full = layers // _positive(config, "full_attention_interval", default=4) if typed is None else typed
    keys, values = _positive(config, "linear_num_key_heads"), _positive(config, "linear_num_value_heads")
    key_dim, value_dim = _positive(config, "linear_key_head_dim"), _positive(config, "linear_value_head_dim")
    kernel = _positive(config, "linear_conv_kernel_dim", default=4)
    key_width, value_width = keys * key_dim, values * value_dim
    delta_net = (
        hidden * (2 * key_width + 2 * value_width)
        + 2 * hidden * values
        + (2 * key_width + value_width) * kernel
        + value_width * hidden
    )
    small = hidden * (2 * layers + 1) + full * 2 * head_dim + (layers - full) * (2 * values + value_dim)
    experts: tuple[ExpertFfn, ...] = ()
    dense: tuple[DenseFfn, ...] = ()
    if config.get("num_experts"):
        shared, gate = _gated_shared(config, 0)
        experts = (
            ExpertFfn(
                layers=layers,
                experts=_positive(config, "num_experts"),
                active=_positive(config, "num_experts_per_tok"),
                width=_positive(config, "moe_intermediate_size"),
                shared_width=shared,
                shared_gate=gate,
            ),
        )
    else:
        dense = (DenseFfn(layers=layers, width=_positive(config, "intermediate_size")),)
    return Architecture(
        hidden=hidden,
        vocabulary=_positive(config, "vocab_size"),
        tied_head=_tied(config),
        attention=(
            Attention(
                layers=full,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                output_gate=bool(config.get("attn_output_gate", True)),
            ),
        ),
        recurrent=(
            Recurrent(
                layers=layers - full,
                parameters_per_layer=delta_net,
                state_elements_per_layer=values * key_dim * value_dim,
            ),
        ),
        dense_ffn=dense,
        expert_ffn=experts,
        small_parameters=small,
    )


def _nemotron_h(config: Config) -> Architecture:
    """A string says what each layer is: M Mamba-2, * attention, - feed-forward, E experts; one a layer."""
    pattern = config.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or not pattern or set(pattern) - set("M*-E"):
        raise UnknownModelError(f"hybrid_override_pattern {pattern!r} is not known")
    hidden = _positive(config, "hidden_size")
    heads = _positive(config, "num_attention_heads")
    head_dim = _positive(config, "attention_head_dim", "head_dim", default=hidden // heads)
    mamba_heads, mamba_dim = _positive(config, "mamba_num_heads"), _positive(config, "mamba_head_dim")
    groups, state = _positive(config, "n_groups"), _positive(config, "ssm_state_size")
    kernel = _positive(config, "conv_kernel", default=4)
    inner, mixed = mamba_heads * mamba_dim, 2 * groups * state
    mamba = hidden * (2 * inner + mixed + mamba_heads) + (inner + mixed) * kernel + inner * hidden
    # Without a word the state is kept in the model's own 16 bit.
    state_bytes = 4 if config.get("mamba_ssm_cache_dtype") == "float32" else 2
    small = hidden * (len(pattern) + 1)
    small += pattern.count("M") * (3 * mamba_heads + inner + inner + mixed)
    experts: tuple[ExpertFfn, ...] = ()
    if "E" in pattern:
        experts = (
            ExpertFfn(
                layers=pattern.count("E"),
                experts=_positive(config, "n_routed_experts"),
                active=_positive(config, "num_experts_per_tok"),
                width=_positive(config, "moe_intermediate_size"),
                matrices=2,
                shared_width=_count(config, "moe_shared_expert_intermediate_size"),
            ),
        )
    dense: tuple[DenseFfn, ...] = ()
    if "-" in pattern:
        dense = (
            DenseFfn(layers=pattern.count("-"), width=_positive(config, "intermediate_size"), matrices=2),
        )
    return Architecture(
        hidden=hidden,
        vocabulary=_positive(config, "vocab_size"),
        tied_head=_tied(config),
        attention=(
            Attention(
                layers=pattern.count("*"),
                heads=heads,
                kv_heads=_positive(config, "num_key_value_heads", default=heads),
                head_dim=head_dim,
            ),
        ),
        recurrent=(
            Recurrent(
                layers=pattern.count("M"),
                parameters_per_layer=mamba,
                state_elements_per_layer=mamba_heads * mamba_dim * state,
                state_element_bytes=state_bytes,
            ),
        ),
        dense_ffn=dense,
        expert_ffn=experts,
        small_parameters=small,
    )


# --- the table ---------------------------------------------------------------------------------------

_GEMMA3 = _dense(tied=True, norms_per_layer=4, qk_norm=True, windowed=_gemma3_windows)
_QWEN2_MOE = _mixture(shared=_gated_shared)

FAMILIES: Mapping[str, Callable[[Config], Architecture]] = {
    "llama": _dense(),
    "mistral": _dense(),
    "phi3": _dense(),
    "qwen2": _dense(qkv_bias=True),
    "qwen3": _dense(qk_norm=True),
    "nemotron": _dense(gated=False, norm_bias=True),
    "falcon": _falcon,
    "gemma2": _dense(tied=True, norms_per_layer=4, windowed=_gemma2_windows),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gemma4": _gemma4,
    "gemma4_text": _gemma4,
    "mixtral": _mixture(expert_width=("intermediate_size",)),
    "qwen2_moe": _QWEN2_MOE,
    "qwen3_moe": _mixture(qk_norm=True),
    "qwen3_5_moe": _qwen35,
    "qwen3_5_moe_text": _qwen35,
    "qwen3_5": _qwen35,
    "qwen3_5_text": _qwen35,
    "glm4_moe": _mixture(shared=_counted_shared),
    "minimax_m2": _mixture(expert_width=("intermediate_size",), qk_norm=True, qk_norm_whole=True),
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "deepseek_v32": _deepseek,
    "kimi_k2": _deepseek,
    "glm_moe_dsa": _deepseek,
    "gpt_oss": _gpt_oss,
    "llama4": _llama4,
    "llama4_text": _llama4,
    "nemotron_h": _nemotron_h,
}
