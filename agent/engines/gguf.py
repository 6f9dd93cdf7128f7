"""The header of a GGUF file, versions 2 and 3: the model of a llama.cpp server, as of a ``config.json``.

The one thing to know: the file is not trusted. Of its header, which is mostly the tokenizer's, numbers and
short texts are kept; all else is passed over, and no length that it names is allocated before it is known
to be small. What is odd raises `ValueError` with the reason.

Layout and block sizes: the format's specification, and the sources of llama.cpp b11434. What a key means
for a family of models is what llama.cpp makes of it, which is not always what the model's makers meant.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MAX_BYTES = 16 * 2**20
"""Read of one header; a vocabulary of half a million texts and their merges take about that."""
MAX_SKIPPED_BYTES = 2**30
"""Of one array of numbers, over which the file is wound on."""
MAX_KEYS = 10_000
"""Files have some fifty."""
MAX_TENSORS = 20_000
"""Files have some thousand."""
MAX_NAME_BYTES = 1024
"""Of a key, and of a tensor's name."""
MAX_TEXT_BYTES = 256
"""Of a text that is kept; licences and templates are longer."""
MAX_LAYERS = 1024
MAX_SIZE = 2**32
"""Of whatever an architecture has so many of."""
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 2**48
"""Of one tensor."""

Value = int | float | bool | str | tuple[int | float | bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a tensor's numbers are stored: blocks of so many, each of so many bytes."""

    name: str
    elements: int
    bytes: int


FORMATS: Mapping[int, Format] = {
    number: Format(name=name, elements=elements, bytes=size)
    for number, name, elements, size in (
        (0, "float32", 1, 4),
        (1, "float16", 1, 2),
        (2, "q4_0", 32, 18),
        (3, "q4_1", 32, 20),
        (6, "q5_0", 32, 22),
        (7, "q5_1", 32, 24),
        (8, "q8_0", 32, 34),
        (9, "q8_1", 32, 36),
        (10, "q2_k", 256, 84),
        (11, "q3_k", 256, 110),
        (12, "q4_k", 256, 144),
        (13, "q5_k", 256, 176),
        (14, "q6_k", 256, 210),
        (15, "q8_k", 256, 292),
        (16, "iq2_xxs", 256, 66),
        (17, "iq2_xs", 256, 74),
        (18, "iq3_xxs", 256, 98),
        (19, "iq1_s", 256, 50),
        (20, "iq4_nl", 32, 18),
        (21, "iq3_s", 256, 110),
        (22, "iq2_s", 256, 82),
        (23, "iq4_xs", 256, 136),
        (24, "int8", 1, 1),
        (25, "int16", 1, 2),
        (26, "int32", 1, 4),
        (27, "int64", 1, 8),
        (28, "float64", 1, 8),
        (29, "iq1_m", 256, 56),
        (30, "bfloat16", 1, 2),
        (34, "tq1_0", 256, 54),
        (35, "tq2_0", 256, 66),
        (39, "mxfp4", 32, 17),
        (40, "nvfp4", 64, 36),
        (41, "q1_0", 128, 18),
        (42, "q2_0", 64, 18),
    )
}
"""By the number that the file has for it; numbers that are missing are no longer in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor, without its numbers."""

    shape: tuple[int, ...]
    """The fastest dimension first: a matrix is (inputs, outputs)."""
    format: Format | None
    """`None` for one that is not known here."""

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """What they take; `None` where the format is not known."""
        return None if self.format is None else self.elements // self.format.elements * self.format.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a header says, without long texts, and without arrays longer than a model has layers."""

    metadata: Mapping[str, Value]
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Of all arrays, those included that are not in `metadata`."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """All tensors of the model are in this file, not in others beside it."""
        return self.metadata.get("split.count", 1) in (0, 1)

    @property
    def parameters(self) -> int | None:
        """Of the whole model; `None` where this file is a part of it."""
        return sum(tensor.elements for tensor in self.tensors.values()) if self.is_whole else None

    @property
    def weight_bytes(self) -> int | None:
        """Of the whole model; `None` where this file is a part of it, or a format is not known."""
        sizes = self._sizes()
        return sum(sizes) if self.is_whole and sizes is not None else None

    @property
    def bits_per_weight(self) -> float | None:
        """The mean over the tensors of this file, with their scales; `None` where a format is not known."""
        elements = sum(tensor.elements for tensor in self.tensors.values())
        sizes = self._sizes()
        return 8 * sum(sizes) / elements if elements and sizes is not None else None

    @property
    def weight_format(self) -> str | None:
        """In which most of the weights are."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.format.name if tensor.format else ""] += tensor.elements
        return max(counts, key=lambda name: counts[name], default="") or None

    def _sizes(self) -> list[int] | None:
        """Of the tensors of this file, in bytes; `None` where a format is not known."""
        sizes = [tensor.bytes for tensor in self.tensors.values()]
        known = [size for size in sizes if size is not None]
        return known if len(known) == len(sizes) else None


# --- reading -----------------------------------------------------------------------------------------

_NUMBERS: Mapping[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}.items()
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}
_TEXT, _ARRAY = 8, 9
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]


def read_header(file: BinaryIO) -> GgufHeader:
    """The header at the beginning of a buffered file that can be wound on.

    `ValueError` says what is wrong with it, `OSError` comes from the file.
    """
    cursor = _Cursor(file)
    if cursor.take(4) != b"GGUF":
        raise ValueError("not a GGUF file")
    version = cursor.number(_U32)
    if version not in (2, 3):
        raise ValueError(
            "a big-endian GGUF file" if version > 0xFFFF else f"a GGUF file of version {version}"
        )
    tensors, keys = cursor.count(MAX_TENSORS, "tensors"), cursor.count(MAX_KEYS, "keys")
    metadata: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(keys):
        key, kind = cursor.name(), cursor.number(_U32)
        if key in metadata or key in lengths:
            raise ValueError("a GGUF file with a key twice")
        if kind == _ARRAY:
            lengths[key], value = cursor.array()
        else:
            value = cursor.value(kind)
        if value is not None:
            metadata[key] = value
    return GgufHeader(metadata=metadata, lengths=lengths, tensors=_read_tensors(cursor, tensors))


def _read_tensors(cursor: _Cursor, count: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for _ in range(count):
        name, dimensions = cursor.name(), cursor.number(_U32)
        if name in tensors or dimensions > MAX_DIMENSIONS:
            raise ValueError("a GGUF file with a tensor twice, or of too many dimensions")
        shape = tuple(cursor.number(_U64) for _ in range(dimensions))
        tensor = Tensor(shape=shape, format=FORMATS.get(cursor.number(_U32)))
        cursor.take(_U64.size)  # where its numbers are
        block = tensor.format.elements if tensor.format else 1
        if tensor.elements > MAX_ELEMENTS or (shape and shape[0] % block):
            raise ValueError("a GGUF file with a tensor of an impossible shape")
        tensors[name] = tensor
    return tensors


class _Cursor:
    """Goes once through a header, and not further than `MAX_BYTES`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_BYTES

    def take(self, size: int) -> bytes:
        """The next so many bytes."""
        self._left -= size
        if self._left < 0:
            raise ValueError(f"a GGUF file with a header of more than {MAX_BYTES >> 20} MiB")
        taken = self._file.read(size)
        if len(taken) < size:
            raise ValueError("a GGUF file that ends within its header")
        return taken

    def number(self, layout: struct.Struct) -> Any:
        (number,) = layout.unpack(self.take(layout.size))
        return number

    def count(self, most: int, what: str) -> int:
        """How many of something follow."""
        count: int = self.number(_U64)
        if count > most:
            raise ValueError(f"a GGUF file with more than {most} {what}")
        return count

    def name(self) -> str:
        return self.take(self.count(MAX_NAME_BYTES, "bytes in a name")).decode("utf-8", "replace")

    def text(self) -> str | None:
        """The next text; `None` if it is too long to be kept."""
        size = self.count(MAX_BYTES, "bytes in a text")
        # Passed over in pieces: small ones are in the file's own buffer, and a large one is not kept.
        for _ in range(size // _PIECE_BYTES):
            self.take(_PIECE_BYTES)
        rest = self.take(size % _PIECE_BYTES)
        return rest.decode("utf-8", "replace") if size <= MAX_TEXT_BYTES else None

    def value(self, kind: int) -> Value | None:
        """A number or a text; `None` for one that is not kept."""
        if kind == _TEXT:
            return self.text()
        return _kept(self.number(_layout(kind)))

    def array(self) -> tuple[int, Value | None]:
        """The length of an array, and its numbers if they are few."""
        kind, length = self.number(_U32), self.number(_U64)
        if kind == _TEXT:
            for _ in range(length):  # each takes eight bytes at least, so it ends
                self.text()
            return length, None
        layout = _layout(kind)
        if length > MAX_LAYERS:  # none that is one a layer
            self._wind_on(length * layout.size)
            return length, None
        numbers = [_kept(number) for (number,) in layout.iter_unpack(self.take(length * layout.size))]
        return length, None if None in numbers else tuple(n for n in numbers if n is not None)

    def _wind_on(self, size: int) -> None:
        if size > MAX_SKIPPED_BYTES:
            raise ValueError("a GGUF file with an array of more than 1 GiB")
        self._file.seek(size - 1, 1)
        self.take(1)  # fails where the file has no such place


_PIECE_BYTES = 4096


def _layout(kind: int) -> struct.Struct:
    layout = _NUMBERS.get(kind)
    if layout is None:
        raise ValueError(f"a GGUF file with a value of type {kind}")
    return layout


def _kept(number: float) -> int | float | bool | None:
    return number if math.isfinite(number) else None


# --- as of a config.json -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a family is called in a ``config.json``, and where its numbers are."""

    model_type: str
    keys: Mapping[str, str] = field(default_factory=dict)
    """Beyond those of all families: by the name in a ``config.json`` the file's, after its prefix."""
    further: Callable[[GgufHeader, str], Mapping[str, Any]] = lambda header, prefix: {}
    """What no table can say; it is given the prefix of the keys."""


EVERY_FAMILY: Mapping[str, str] = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
EXPERTS: Mapping[str, str] = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
ROUTED: Mapping[str, str] = {
    **EXPERTS,
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "first_k_dense_replace": "leading_dense_block_count",
}
LOCAL: Mapping[str, str] = {"num_local_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
"""Of families whose `intermediate_size` is that of an expert."""
DELTA_NET: Mapping[str, str] = {
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_key_head_dim": "ssm.state_size",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "full_attention_interval": "full_attention_interval",
}
SHARED: Mapping[str, str] = {"shared_expert_intermediate_size": "expert_shared_feed_forward_length"}


def config_of(header: GgufHeader) -> dict[str, Any]:
    """The architecture, with the keys of a ``config.json``, and its quantization.

    Raises `ValueError` for a family that is not known here, and for layers that are not alike.
    """
    prefix, family = _family(header)
    config: dict[str, Any] = {"model_type": family.model_type, "vocab_size": _vocabulary(header, prefix)}
    for name, key in {**EVERY_FAMILY, **family.keys}.items():
        value = _size(header, f"{prefix}.{key}")
        if value is not None:
            config[name] = value
    config["num_hidden_layers"] = _layers(header, prefix)
    return {**config, **_seen_in_tensors(header), **_quantization(header), **family.further(header, prefix)}


def load_gguf_config(path: Path) -> dict[str, Any]:
    """The same of the file there. Raises `OSError`, or `ValueError` that says why there is none."""
    with path.open("rb") as file:
        return config_of(read_header(file))


def _family(header: GgufHeader) -> tuple[str, Family]:
    """The prefix of its keys, and the family."""
    architecture = header.metadata.get("general.architecture")
    if header.metadata.get("split.no", 0) != 0:
        raise ValueError("a part of a model whose first file has the architecture")
    if not isinstance(architecture, str):
        raise ValueError("a GGUF file without general.architecture")
    with_experts = bool(_size(header, f"{architecture}.expert_count"))
    family = FAMILIES.get((architecture, with_experts))
    if family is None:
        known = ", ".join(sorted({name for name, _ in FAMILIES}))
        kind = f"{architecture!r} with experts" if with_experts else repr(architecture)
        raise ValueError(f"a GGUF file of architecture {kind}, which is not known (known: {known})")
    return architecture, family


def _size(header: GgufHeader, key: str) -> int | None:
    """The number of something; where each layer has its own, the one that all have."""
    value = header.metadata.get(key)
    if isinstance(value, tuple):
        if len(set(value)) != 1:
            raise ValueError(f"a GGUF file whose {key} is not the same for all layers")
        value = value[0]
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SIZE:
        raise ValueError(f"a GGUF file whose {key} is no number of anything")
    return value


def _layers(header: GgufHeader, prefix: str) -> int:
    """Without those that only draft the next tokens."""
    layers = _size(header, f"{prefix}.block_count") or 0
    drafting = _size(header, f"{prefix}.nextn_predict_layers") or 0
    if not 0 <= drafting < layers <= MAX_LAYERS:
        raise ValueError(f"a GGUF file with {layers} layers, of which {drafting} only draft")
    return layers - drafting


def _vocabulary(header: GgufHeader, prefix: str) -> int | None:
    """As the embedding has it, which may be padded; else as it is said, else as the tokenizer has it."""
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and len(embedding.shape) == 2:
        return embedding.shape[1]
    said = _size(header, f"{prefix}.vocab_size")
    return header.lengths.get("tokenizer.ggml.tokens") if said is None else said


def _seen_in_tensors(header: GgufHeader) -> dict[str, Any]:
    """What no key says, where the tensors that would show it are in this file."""
    seen: dict[str, Any] = {}
    if header.is_whole and "token_embd.weight" in header.tensors:
        seen["tie_word_embeddings"] = "output.weight" not in header.tensors
    if any(name.startswith("blk.0.") for name in header.tensors):
        seen["attention_bias"] = any(f"blk.0.attn_{part}.bias" in header.tensors for part in ("q", "qkv"))
        seen["use_qk_norm"] = "blk.0.attn_q_norm.weight" in header.tensors
    return seen


def _quantization(header: GgufHeader) -> dict[str, Any]:
    """Its dtype; of blocks, which files mix in several widths, the mean, where all of them are known."""
    if not header.tensors:
        return {}
    name, bits = header.weight_format, header.bits_per_weight
    if name in ("float16", "bfloat16", "float32"):
        return {"torch_dtype": name}
    return {"quantization_config": {"quant_method": "gguf", "format": name, "bits_per_weight": bits}}


def _windows(header: GgufHeader, prefix: str) -> dict[str, Any]:
    """Which layers see only a window: one flag a layer, or of how many the last one sees everything.

    Only of families for which llama.cpp heeds it: Phi-3 and Mistral see everything there.
    """
    found: dict[str, Any] = {}
    window = _size(header, f"{prefix}.attention.sliding_window")
    if window is not None:
        found["sliding_window"] = window
    key = f"{prefix}.attention.sliding_window_pattern"
    pattern = header.metadata.get(key)
    if pattern is not None and not isinstance(pattern, tuple):
        every = _size(header, key) or 0
        pattern = tuple(layer % every < every - 1 for layer in range(_layers(header, prefix)) if every)
    if pattern:
        found["layer_types"] = ["sliding_attention" if behind else "full_attention" for behind in pattern]
    return found


def _latent(header: GgufHeader, prefix: str) -> dict[str, Any]:
    """Latent attention; files from before it was run as such have no ``key_length_mla``."""
    ranks = {
        "q_lora_rank": _size(header, f"{prefix}.attention.q_lora_rank"),
        "kv_lora_rank": _size(header, f"{prefix}.attention.kv_lora_rank"),
    }
    keys, values, rope = (
        _size(header, f"{prefix}.{key}")
        for key in ("attention.key_length_mla", "attention.value_length_mla", "rope.dimension_count")
    )
    if keys is None or rope is None:
        raise ValueError("a GGUF file without attention.key_length_mla: its cache holds no latents")
    return {**ranks, "qk_nope_head_dim": keys - rope, "qk_rope_head_dim": rope, "v_head_dim": values}


def _delta_net(header: GgufHeader, prefix: str) -> dict[str, Any]:
    inner, heads = (_size(header, f"{prefix}.ssm.{key}") for key in ("inner_size", "time_step_rank"))
    if not inner or not heads:
        raise ValueError("a GGUF file without the sizes of its linear attention")
    return {"linear_value_head_dim": inner // heads}


FAMILIES: Mapping[tuple[str, bool], Family] = {
    ("llama", False): Family(model_type="llama"),
    ("llama", True): Family(model_type="mixtral", keys=LOCAL),
    ("mistral3", False): Family(model_type="mistral"),
    ("phi3", False): Family(model_type="phi3"),
    ("nemotron", False): Family(model_type="nemotron"),
    ("qwen2", False): Family(model_type="qwen2"),
    ("qwen3", False): Family(model_type="qwen3"),
    ("gemma2", False): Family(model_type="gemma2", further=_windows),
    ("gemma3", False): Family(model_type="gemma3_text", further=_windows),
    ("qwen2moe", True): Family(model_type="qwen2_moe", keys={**EXPERTS, **SHARED}),
    ("qwen3moe", True): Family(model_type="qwen3_moe", keys=EXPERTS),
    ("qwen35", False): Family(model_type="qwen3_5_text", keys=DELTA_NET, further=_delta_net),
    ("qwen35moe", True): Family(
        model_type="qwen3_5_moe_text", keys={**DELTA_NET, **EXPERTS, **SHARED}, further=_delta_net
    ),
    ("glm4moe", True): Family(model_type="glm4_moe", keys=ROUTED),
    ("minimax-m2", True): Family(
        model_type="minimax_m2", keys={**LOCAL, "intermediate_size": "expert_feed_forward_length"}
    ),
    ("gpt-oss", True): Family(
        model_type="gpt_oss",
        keys={**LOCAL, "intermediate_size": "expert_feed_forward_length"},
        further=_windows,
    ),
    ("deepseek2", True): Family(model_type="deepseek_v3", keys=ROUTED, further=_latent),
}
"""By architecture, and whether it has experts."""
