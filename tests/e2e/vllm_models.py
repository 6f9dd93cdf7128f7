"""Two small models with random weights, alike but for their feed-forward: one is dense, one a mixture."""

from __future__ import annotations

from dataclasses import dataclass

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 256, 16, 8, 2, 32
"""Narrow, so that a CPU is quick; deep, so that a step takes the 10 ms that it takes on a GPU."""
VOCABULARY, MAX_MODEL_LEN = 1024, 4096
BYTES_PER_NUMBER = 2
"""Weights, activations and cache are bfloat16."""

ATTENTION_PARAMETERS = LAYERS * HIDDEN * (2 * HEADS * HEAD_DIM + 2 * KV_HEADS * HEAD_DIM)
HEAD_PARAMETERS = HIDDEN * VOCABULARY
NORM_PARAMETERS = HIDDEN * (2 * LAYERS + 1)

TOKENIZER: dict[str, object] = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "model": {
        "type": "WordLevel",
        "vocab": {f"w{number}": number for number in range(VOCABULARY)},
        "unk_token": "w2",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """One of them. A dense model is taken as one expert that every token goes through, without a router."""

    architecture: str
    model_type: str
    ffn: int
    """Width of an expert."""
    experts: int = 1
    active: int = 1
    """Experts that a token goes through."""

    @property
    def expert_parameters(self) -> int:
        """Of one expert, all layers."""
        return LAYERS * 3 * HIDDEN * self.ffn

    @property
    def router_parameters(self) -> int:
        """All layers."""
        return LAYERS * HIDDEN * self.experts if self.experts > 1 else 0

    def config(self) -> dict[str, object]:
        """For its ``config.json``."""
        mixture = {"num_local_experts": self.experts, "num_experts_per_tok": self.active}
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "hidden_size": HIDDEN,
            "intermediate_size": self.ffn,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": MAX_MODEL_LEN,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": 0,
            "eos_token_id": 1,
            **(mixture if self.experts > 1 else {}),
        }


DENSE = TinyModel(architecture="LlamaForCausalLM", model_type="llama", ffn=688)
MIXTURE = TinyModel(architecture="MixtralForCausalLM", model_type="mixtral", ffn=512, experts=8, active=2)
