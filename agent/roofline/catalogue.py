"""Public models by the names they are served under, as the numbers of their ``config.json``.

Figures are those of each model's published configuration. Only what is known exactly is here: a name
with a suffix that is not understood (a quantization, a fine-tune) matches nothing.
"""

from __future__ import annotations

import re
from typing import Any

# model_type, layers, hidden, feed-forward, heads, key-value heads, head size, vocabulary, tied head
_ROWS: dict[str, tuple[str, int, int, int, int, int, int, int, bool]] = {
    "llama-3.2-1b": ("llama", 16, 2048, 8192, 32, 8, 64, 128256, True),
    "llama-3.2-3b": ("llama", 28, 3072, 8192, 24, 8, 128, 128256, True),
    "llama-3-8b": ("llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
    "llama-3.1-8b": ("llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
    "llama-3-70b": ("llama", 80, 8192, 28672, 64, 8, 128, 128256, False),
    "llama-3.1-70b": ("llama", 80, 8192, 28672, 64, 8, 128, 128256, False),
    "llama-3.3-70b": ("llama", 80, 8192, 28672, 64, 8, 128, 128256, False),
    "llama-3.1-405b": ("llama", 126, 16384, 53248, 128, 8, 128, 128256, False),
    "mistral-nemo-2407": ("mistral", 40, 5120, 14336, 32, 8, 128, 131072, False),
    "qwen2.5-7b": ("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, False),
    "qwen2.5-72b": ("qwen2", 80, 8192, 29568, 64, 8, 128, 152064, False),
    "qwen3-0.6b": ("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, True),
    "qwen3-8b": ("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, False),
    "qwen3-32b": ("qwen3", 64, 5120, 25600, 64, 8, 128, 151936, False),
    "phi-4": ("phi3", 40, 5120, 17920, 40, 10, 128, 100352, False),
    "minitron-8b": ("nemotron", 32, 4096, 16384, 48, 8, 128, 256000, False),
    "falcon-7b": ("falcon", 32, 4544, 18176, 71, 1, 64, 65024, True),
}

# Tuning changes the numbers in the weights, not how many there are.
_TUNED = re.compile(r"-(instruct|chat|it|base|hf)$")


def find_config(served_name: str) -> dict[str, Any] | None:
    """The configuration of the public model of that name: ``org/Llama-3.1-8B-Instruct``, ``llama-3.1-8b``.

    `None` when the name is not exactly one that is known.
    """
    name = served_name.rstrip("/").rsplit("/", 1)[-1].lower().removeprefix("meta-")
    while (shorter := _TUNED.sub("", name)) != name:
        name = shorter
    name = name.replace("mistral-nemo-instruct", "mistral-nemo").replace("mistral-nemo-base", "mistral-nemo")
    row = _ROWS.get(name)
    if row is None:
        return None
    model_type, layers, hidden, ffn, heads, kv_heads, head_dim, vocabulary, tied = row
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


def known_names() -> tuple[str, ...]:
    """The names in the catalogue, sorted."""
    return tuple(sorted(_ROWS))
