"""Public models by the names they are served under, as the numbers of their ``config.json``.

Figures are those of each model's published configuration; keys are its own. Only what is known exactly is
here: a name with a suffix that is not understood (a quantization, a fine-tune) matches nothing.
"""

from __future__ import annotations

import re
from typing import Any


def _row(
    model_type: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    **further: Any,
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        **further,
    }


def _latent(
    model_type: str,
    layers: int,
    hidden: int,
    heads: int,
    vocabulary: int,
    *,
    dense: tuple[int, int],
    experts: tuple[int, int, int],
    shared: int = 1,
    query_rank: int | None = 1536,
    dims: tuple[int, int, int] = (128, 64, 128),
    **further: Any,
) -> dict[str, Any]:
    """A model of DeepSeek's shape; `dense` is (first layers, their width), `experts` (all, active, width)."""
    nope, rope, value = dims
    return {
        **_row(model_type, layers, hidden, heads, heads, vocabulary),
        "q_lora_rank": query_rank,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": value,
        "first_k_dense_replace": dense[0],
        "intermediate_size": dense[1],
        "n_routed_experts": experts[0],
        "num_experts_per_tok": experts[1],
        "moe_intermediate_size": experts[2],
        "n_shared_experts": shared,
        **further,
    }


_LLAMA_8B = _row("llama", 32, 4096, 32, 8, 128256, intermediate_size=14336)
_LLAMA_70B = _row("llama", 80, 8192, 64, 8, 128256, intermediate_size=28672)
# The dtypes that these checkpoints are published in.
_FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
_MXFP4_EXPERTS = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}

_DEEPSEEK_V3 = _latent(
    "deepseek_v3",
    61,
    7168,
    128,
    129280,
    dense=(3, 18432),
    experts=(256, 8, 2048),
    quantization_config=_FP8_BLOCKS,
)
_GLM_DSA = {"index_topk": 2048, "index_n_heads": 32, "index_head_dim": 128}

CONFIGS: dict[str, dict[str, Any]] = {
    # Meta
    "llama-3.2-1b": _row(
        "llama", 16, 2048, 32, 8, 128256, head_dim=64, intermediate_size=8192, tie_word_embeddings=True
    ),
    "llama-3.2-3b": _row(
        "llama", 28, 3072, 24, 8, 128256, head_dim=128, intermediate_size=8192, tie_word_embeddings=True
    ),
    "llama-3-8b": _LLAMA_8B,
    "llama-3.1-8b": _LLAMA_8B,
    "llama-3-70b": _LLAMA_70B,
    "llama-3.1-70b": _LLAMA_70B,
    "llama-3.3-70b": _LLAMA_70B,
    "llama-3.1-405b": _row("llama", 126, 16384, 128, 8, 128256, intermediate_size=53248),
    "llama-4-scout-17b-16e": _row(
        "llama4_text",
        48,
        5120,
        40,
        8,
        202048,
        head_dim=128,
        intermediate_size=8192,
        num_local_experts=16,
        num_experts_per_tok=1,
        interleave_moe_layer_step=1,
        attention_chunk_size=8192,
    ),
    "llama-4-maverick-17b-128e": _row(
        "llama4_text",
        48,
        5120,
        40,
        8,
        202048,
        head_dim=128,
        intermediate_size=8192,
        intermediate_size_mlp=16384,
        num_local_experts=128,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
        attention_chunk_size=8192,
    ),
    # Mistral
    "mistral-7b-v0.1": _row("mistral", 32, 4096, 32, 8, 32000, intermediate_size=14336, sliding_window=4096),
    "mistral-nemo-2407": _row("mistral", 40, 5120, 32, 8, 131072, head_dim=128, intermediate_size=14336),
    "mixtral-8x7b-v0.1": _row(
        "mixtral",
        32,
        4096,
        32,
        8,
        32000,
        intermediate_size=14336,
        num_local_experts=8,
        num_experts_per_tok=2,
    ),
    "mixtral-8x22b-v0.1": _row(
        "mixtral",
        56,
        6144,
        48,
        8,
        32000,
        intermediate_size=16384,
        num_local_experts=8,
        num_experts_per_tok=2,
    ),
    # Alibaba
    "qwen2.5-7b": _row("qwen2", 28, 3584, 28, 4, 152064, intermediate_size=18944),
    "qwen2.5-72b": _row("qwen2", 80, 8192, 64, 8, 152064, intermediate_size=29568),
    "qwen3-0.6b": _row(
        "qwen3", 28, 1024, 16, 8, 151936, head_dim=128, intermediate_size=3072, tie_word_embeddings=True
    ),
    "qwen3-8b": _row("qwen3", 36, 4096, 32, 8, 151936, head_dim=128, intermediate_size=12288),
    "qwen3-32b": _row("qwen3", 64, 5120, 64, 8, 151936, head_dim=128, intermediate_size=25600),
    "qwen3-30b-a3b": _row(
        "qwen3_moe",
        48,
        2048,
        32,
        4,
        151936,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "qwen3-235b-a22b": _row(
        "qwen3_moe",
        94,
        4096,
        64,
        4,
        151936,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=1536,
    ),
    "qwen3.5-35b-a3b": _row(
        "qwen3_5_moe_text",
        40,
        2048,
        16,
        2,
        248320,
        head_dim=256,
        num_experts=256,
        num_experts_per_tok=8,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
        full_attention_interval=4,
        attn_output_gate=True,
        linear_num_key_heads=16,
        linear_num_value_heads=32,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_conv_kernel_dim=4,
    ),
    # DeepSeek and of its shape
    "deepseek-v2-lite": _latent(
        "deepseek_v2",
        27,
        2048,
        16,
        102400,
        dense=(1, 10944),
        experts=(64, 6, 1408),
        shared=2,
        query_rank=None,
    ),
    "deepseek-v2": _latent(
        "deepseek_v2", 60, 5120, 128, 102400, dense=(1, 12288), experts=(160, 6, 1536), shared=2
    ),
    "deepseek-v3": _DEEPSEEK_V3,
    "deepseek-r1": _DEEPSEEK_V3,
    "kimi-k2": _latent(
        "kimi_k2",
        61,
        7168,
        64,
        163840,
        dense=(1, 18432),
        experts=(384, 8, 2048),
        quantization_config=_FP8_BLOCKS,
    ),
    "glm-5": _latent(
        "glm_moe_dsa",
        78,
        6144,
        64,
        154880,
        dense=(3, 12288),
        experts=(256, 8, 2048),
        query_rank=2048,
        dims=(192, 64, 256),
        **_GLM_DSA,
    ),
    # Zhipu
    "glm-4.5-air": _row(
        "glm4_moe",
        46,
        4096,
        96,
        8,
        151552,
        head_dim=128,
        attention_bias=True,
        use_qk_norm=False,
        intermediate_size=10944,
        moe_intermediate_size=1408,
        n_routed_experts=128,
        num_experts_per_tok=8,
        n_shared_experts=1,
        first_k_dense_replace=1,
    ),
    "glm-4.5": _row(
        "glm4_moe",
        92,
        5120,
        96,
        8,
        151552,
        head_dim=128,
        attention_bias=True,
        use_qk_norm=True,
        intermediate_size=12288,
        moe_intermediate_size=1536,
        n_routed_experts=160,
        num_experts_per_tok=8,
        n_shared_experts=1,
        first_k_dense_replace=3,
    ),
    # Google
    "gemma-2-9b": _row(
        "gemma2", 42, 3584, 16, 8, 256000, head_dim=256, intermediate_size=14336, sliding_window=4096
    ),
    "gemma-2-27b": _row(
        "gemma2", 46, 4608, 32, 16, 256000, head_dim=128, intermediate_size=36864, sliding_window=4096
    ),
    "gemma-3-12b": _row(
        "gemma3_text", 48, 3840, 16, 8, 262208, head_dim=256, intermediate_size=15360, sliding_window=1024
    ),
    "gemma-3-27b": _row(
        "gemma3_text", 62, 5376, 32, 16, 262208, head_dim=128, intermediate_size=21504, sliding_window=1024
    ),
    "gemma-4-26b-a4b": _row(
        "gemma4_text",
        30,
        2816,
        16,
        8,
        262144,
        head_dim=256,
        global_head_dim=512,
        num_global_key_value_heads=2,
        attention_k_eq_v=True,
        intermediate_size=2112,
        sliding_window=1024,
        enable_moe_block=True,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
    ),
    # OpenAI
    "gpt-oss-20b": _row(
        "gpt_oss",
        24,
        2880,
        64,
        8,
        201088,
        head_dim=64,
        intermediate_size=2880,
        num_local_experts=32,
        num_experts_per_tok=4,
        sliding_window=128,
        quantization_config=_MXFP4_EXPERTS,
    ),
    "gpt-oss-120b": _row(
        "gpt_oss",
        36,
        2880,
        64,
        8,
        201088,
        head_dim=64,
        intermediate_size=2880,
        num_local_experts=128,
        num_experts_per_tok=4,
        sliding_window=128,
        quantization_config=_MXFP4_EXPERTS,
    ),
    # Microsoft
    "phi-3-mini-4k": _row("phi3", 32, 3072, 32, 32, 32064, intermediate_size=8192, sliding_window=2047),
    "phi-4": _row("phi3", 40, 5120, 40, 10, 100352, intermediate_size=17920),
    # NVIDIA
    "minitron-8b": _row("nemotron", 32, 4096, 48, 8, 256000, head_dim=128, intermediate_size=16384),
    "nemotron-h-56b": _row(
        "nemotron_h",
        118,
        8192,
        64,
        8,
        131072,
        attention_head_dim=128,
        intermediate_size=32768,
        mamba_num_heads=256,
        mamba_head_dim=64,
        n_groups=8,
        ssm_state_size=256,
        conv_kernel=4,
        hybrid_override_pattern="M" * 54 + "*" * 10 + "-" * 54,
    ),
    "nemotron-3-nano-30b-a3b": _row(
        "nemotron_h",
        52,
        2688,
        32,
        2,
        131072,
        head_dim=128,
        mamba_num_heads=64,
        mamba_head_dim=64,
        n_groups=8,
        ssm_state_size=128,
        conv_kernel=4,
        hybrid_override_pattern="M" * 23 + "*" * 6 + "E" * 23,
        n_routed_experts=128,
        num_experts_per_tok=6,
        moe_intermediate_size=1856,
        moe_shared_expert_intermediate_size=3712,
        mamba_ssm_cache_dtype="float32",
    ),
    # Others
    "falcon-7b": _row("falcon", 32, 4544, 71, 71, 65024, multi_query=True),
    "minimax-m2.5": _row(
        "minimax_m2",
        62,
        3072,
        48,
        8,
        200064,
        head_dim=128,
        intermediate_size=1536,
        num_local_experts=256,
        num_experts_per_tok=8,
        use_qk_norm=True,
    ),
}
"""The order of layers in a hybrid does not matter here, so a pattern lists its kinds one after another."""

# Tuning changes the numbers in the weights, not how many there are.
_TUNED = re.compile(r"-(instruct|chat|it|base|hf|pt|text|bf16|v0\.[23])$")
_DATED = re.compile(r"-(0324|0528|0905|2501|2507)$")
_SPELLED: dict[str, str] = {
    "mistral-nemo-instruct-2407": "mistral-nemo-2407",
    "mistral-nemo-base-2407": "mistral-nemo-2407",
    "mixtral-8x7b": "mixtral-8x7b-v0.1",
    "mixtral-8x7b-instruct-v0.1": "mixtral-8x7b-v0.1",
    "mixtral-8x22b": "mixtral-8x22b-v0.1",
    "mixtral-8x22b-instruct-v0.1": "mixtral-8x22b-v0.1",
    "mistral-7b-instruct-v0.1": "mistral-7b-v0.1",
    "llama-4-scout": "llama-4-scout-17b-16e",
    "llama-4-maverick": "llama-4-maverick-17b-128e",
    "nemotron-4-minitron-8b": "minitron-8b",
    "falcon-7b(mqa)": "falcon-7b",
    "mistral-nemo-12b": "mistral-nemo-2407",
    "phi-4-14b": "phi-4",
}


def find_config(served_name: str) -> dict[str, Any] | None:
    """The configuration of the public model of that name: ``org/Llama-3.1-8B-Instruct``, ``llama-3.1-8b``.

    `None` when the name is not exactly one that is known.
    """
    name = served_name.rstrip("/").rsplit("/", 1)[-1].lower().removeprefix("meta-")
    while True:
        name = _SPELLED.get(name, name)
        if name in CONFIGS:
            return CONFIGS[name]
        shorter = _DATED.sub("", _TUNED.sub("", name))
        if shorter == name:
            return None
        name = shorter


def known_names() -> tuple[str, ...]:
    """The names in the catalogue, sorted."""
    return tuple(sorted(CONFIGS))
