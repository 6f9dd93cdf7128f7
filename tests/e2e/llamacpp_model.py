"""A small Llama of random weights with a real vocabulary, for a llama-server to serve.

Run by ``install_llamacpp.sh`` in an environment that has gguf and numpy: VOCABULARY.gguf MODEL.gguf
"""

from __future__ import annotations

import os
import sys
from typing import Any

LAYERS, WIDTH, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT = 8, 512, 8, 4, 1536, 4096


def main(vocabulary: str, model: str) -> None:
    """Write the model, and only when it is whole let it be seen under its name."""
    import gguf  # type: ignore[import-not-found,unused-ignore]
    import numpy  # type: ignore[import-not-found,unused-ignore]

    tokenizer = {
        name: field
        for name, field in gguf.GGUFReader(vocabulary).fields.items()
        if name.startswith("tokenizer.")
    }
    tokens = len(tokenizer["tokenizer.ggml.tokens"].data)
    random = numpy.random.default_rng(7)
    kv_width = WIDTH * KV_HEADS // HEADS
    matrices = {"token_embd": (tokens, WIDTH), "output": (tokens, WIDTH)}
    for layer in range(LAYERS):
        for name, shape in {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (kv_width, WIDTH),
            "attn_v": (kv_width, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (FEED_FORWARD, WIDTH),
            "ffn_up": (FEED_FORWARD, WIDTH),
            "ffn_down": (WIDTH, FEED_FORWARD),
        }.items():
            matrices[f"blk.{layer}.{name}"] = shape
    norms = ["output_norm", *(f"blk.{n}.{name}_norm" for n in range(LAYERS) for name in ("attn", "ffn"))]

    writer = gguf.GGUFWriter(f"{model}.part", "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(tokens)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, field in tokenizer.items():
        copy(writer, name, field, gguf.GGUFValueType)
    for name, shape in matrices.items():
        weights = 0.02 * random.standard_normal(shape, dtype=numpy.float32)
        writer.add_tensor(f"{name}.weight", weights.astype(numpy.float16))
    for name in norms:
        writer.add_tensor(f"{name}.weight", numpy.ones(WIDTH, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(f"{model}.part", model)


def copy(writer: Any, name: str, field: Any, types: Any) -> None:
    """One entry of the vocabulary's header as it is."""
    values = [field.parts[index] for index in field.data]
    if field.types[-1] == types.STRING:
        texts = [bytes(value) for value in values]
        if field.types[0] == types.ARRAY:
            writer.add_array(name, texts)
        else:
            writer.add_string(name, texts[0].decode())
    elif field.types[0] == types.ARRAY:
        writer.add_array(name, [value[0].item() for value in values])
    else:
        writer.add_key_value(name, values[0][0].item(), field.types[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
