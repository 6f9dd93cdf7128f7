"""GGUF headers: of public models, written as their files have them, and of enemies."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.gguf import (
    FAMILIES,
    FORMATS,
    MAX_BYTES,
    MAX_KEYS,
    MAX_TENSORS,
    GgufHeader,
    config_of,
    load_gguf_config,
    read_header,
)
from agent.errors import UnknownModelError
from agent.roofline.catalogue import find_config
from agent.roofline.families import parse_architecture
from agent.roofline.models import Attention
from tests.gguf_writer import (
    FLOAT16,
    FLOAT32,
    Q4_K,
    Q6_K,
    Shape,
    array,
    boolean,
    f32,
    header,
    i32,
    pairs_of,
    text,
    u32,
    u64,
    write,
)

Tensors = Mapping[str, tuple[Shape, int]]


def parse(data: bytes) -> GgufHeader:
    return read_header(io.BytesIO(data))


def pairs(architecture: str, **values: int | bytes) -> dict[str, bytes]:
    """Keys of a model; two underscores are a dot, and a plain number is a 32-bit one."""
    return {
        "general.architecture": text(architecture),
        **{
            f"{architecture}.{key.replace('__', '.')}": u32(value) if isinstance(value, int) else value
            for key, value in values.items()
        },
    }


# --- what is kept --------------------------------------------------------------------------------

LLAMA = pairs(
    "llama",
    block_count=2,
    context_length=4096,
    embedding_length=512,
    feed_forward_length=1536,
    attention__head_count=8,
    attention__head_count_kv=4,
    attention__layer_norm_rms_epsilon=f32(1e-5),
    vocab_size=1000,
)


def llama_tensors(form: int = FLOAT16) -> dict[str, tuple[Shape, int]]:
    """Of `LLAMA`, as its file has them."""
    tensors: dict[str, tuple[Shape, int]] = {
        "token_embd.weight": ((512, 1000), form),
        "output_norm.weight": ((512,), FLOAT32),
        "output.weight": ((512, 1000), form),
    }
    for layer in range(2):
        for part, shape in {
            "attn_q": (512, 512),
            "attn_k": (512, 256),
            "attn_v": (512, 256),
            "attn_output": (512, 512),
            "ffn_gate": (512, 1536),
            "ffn_up": (512, 1536),
            "ffn_down": (1536, 512),
        }.items():
            tensors[f"blk.{layer}.{part}.weight"] = (shape, form)
        for part in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{part}.weight"] = ((512,), FLOAT32)
    return tensors


@pytest.mark.parametrize("version", [2, 3])
def test_numbers_and_short_texts_are_kept_and_the_vocabulary_is_counted(version: int) -> None:
    told = {
        **LLAMA,
        "general.name": text("tiny"),
        "general.license": text("all rights " * 100),
        "a.flag": boolean(True),
        "a.negative": i32(-3),
        "a.large": u64(2**63),
        "a.layers": array(map(u32, (1, 2, 3))),
        "tokenizer.ggml.tokens": array(map(text, ("<s>", "é" * 3000, ""))),
        "tokenizer.ggml.scores": array(map(f32, range(5000))),
        "a.last": u32(7),
    }
    read = parse(header(told, version=version))
    assert read.metadata["general.name"] == "tiny"
    assert "general.license" not in read.metadata
    assert [read.metadata[f"a.{key}"] for key in ("flag", "negative", "large", "last")] == [
        True,
        -3,
        2**63,
        7,
    ]
    assert read.metadata["a.layers"] == (1, 2, 3)
    assert read.lengths == {"a.layers": 3, "tokenizer.ggml.tokens": 3, "tokenizer.ggml.scores": 5000}
    assert "tokenizer.ggml.scores" not in read.metadata


def test_weights_are_counted_as_the_architecture_has_them() -> None:
    read = parse(header(LLAMA, llama_tensors()))
    architecture = parse_architecture(config_of(read))
    assert read.parameters == architecture.total_parameters
    norms = 5 * 512
    assert read.weight_bytes == 2 * (architecture.total_parameters - norms) + 4 * norms
    assert read.weight_format == "float16"
    assert config_of(read)["torch_dtype"] == "float16"


def test_blocks_of_several_widths_have_their_mean() -> None:
    tensors = {"a": ((512, 10), Q4_K), "b": ((256, 10), Q6_K)}
    read = parse(header(LLAMA, tensors))
    assert read.weight_bytes == 10 * (2 * 144 + 210)
    assert read.bits_per_weight == pytest.approx(8 * 4980 / 7680)
    assert config_of(read)["quantization_config"] == {
        "quant_method": "gguf",
        "format": "q4_k",
        "bits_per_weight": read.bits_per_weight,
    }


@pytest.mark.parametrize(
    ("form", "bits"),
    [("q8_0", 8.5), ("q4_0", 4.5), ("q4_k", 4.5), ("q6_k", 6.5625), ("iq4_xs", 4.25), ("mxfp4", 4.25)],
)
def test_formats_cost_what_they_are_known_for(form: str, bits: float) -> None:
    (found,) = (each for each in FORMATS.values() if each.name == form)
    assert 8 * found.bytes / found.elements == bits


def test_a_format_from_the_future_costs_only_the_bytes() -> None:
    read = parse(header(LLAMA, {"a": ((512, 10), 999), "b": ((1,), FLOAT32)}))
    assert (read.parameters, read.weight_bytes, read.bits_per_weight) == (5121, None, None)
    assert config_of(read)["quantization_config"]["bits_per_weight"] is None
    assert config_of(read)["num_hidden_layers"] == 2


def test_the_first_of_several_files_knows_the_architecture_and_not_the_whole() -> None:
    read = parse(header({**LLAMA, "split.no": u32(0), "split.count": u32(3)}, {"a": ((256,), Q4_K)}))
    assert (read.parameters, read.weight_bytes, read.bits_per_weight) == (None, None, 4.5)
    assert "tie_word_embeddings" not in config_of(read)


def test_another_of_several_files_says_where_to_look() -> None:
    read = parse(header({"split.no": u32(1), "split.count": u32(3)}))
    with pytest.raises(ValueError, match="first file"):
        config_of(read)


def test_it_is_read_from_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    with path.open("wb") as file:
        write(file, LLAMA, {"a": ((8,), FLOAT32)}, lambda name, count: bytes(4 * count))
    assert load_gguf_config(path)["hidden_size"] == 512
    assert pairs_of(path.read_bytes()) == LLAMA


# --- families ------------------------------------------------------------------------------------

QWEN35 = {
    "block_count": 41,
    "nextn_predict_layers": 1,
    "embedding_length": 2048,
    "attention__head_count": 16,
    "attention__head_count_kv": 2,
    "attention__key_length": 256,
    "attention__value_length": 256,
    "expert_count": 256,
    "expert_used_count": 8,
    "expert_feed_forward_length": 512,
    "expert_shared_feed_forward_length": 512,
    "ssm__conv_kernel": 4,
    "ssm__state_size": 128,
    "ssm__group_count": 16,
    "ssm__time_step_rank": 32,
    "ssm__inner_size": 4096,
    "full_attention_interval": 4,
}

# The keys of a public model's file, its vocabulary, and which of the telling tensors it has.
PUBLIC: Mapping[str, tuple[dict[str, bytes], int, tuple[str, ...]]] = {
    "llama-3.1-8b": (
        pairs(
            "llama",
            block_count=32,
            embedding_length=4096,
            feed_forward_length=14336,
            attention__head_count=32,
            attention__head_count_kv=8,
            rope__dimension_count=128,
        ),
        128256,
        ("output.weight",),
    ),
    "llama-3.2-1b": (
        pairs(
            "llama",
            block_count=16,
            embedding_length=2048,
            feed_forward_length=8192,
            attention__head_count=32,
            attention__head_count_kv=8,
            attention__key_length=64,
        ),
        128256,
        (),
    ),
    "mixtral-8x7b": (
        pairs(
            "llama",
            block_count=32,
            embedding_length=4096,
            feed_forward_length=14336,
            attention__head_count=32,
            attention__head_count_kv=8,
            expert_count=8,
            expert_used_count=2,
        ),
        32000,
        ("output.weight",),
    ),
    "qwen2.5-7b": (
        pairs(
            "qwen2",
            block_count=28,
            embedding_length=3584,
            feed_forward_length=18944,
            attention__head_count=28,
            attention__head_count_kv=4,
        ),
        152064,
        ("output.weight", "blk.0.attn_q.bias"),
    ),
    "qwen3-30b-a3b": (
        pairs(
            "qwen3moe",
            block_count=48,
            embedding_length=2048,
            feed_forward_length=6144,
            attention__head_count=32,
            attention__head_count_kv=4,
            attention__key_length=128,
            expert_count=128,
            expert_used_count=8,
            expert_feed_forward_length=768,
        ),
        151936,
        ("output.weight", "blk.0.attn_q_norm.weight"),
    ),
    "qwen3.5-35b-a3b": (
        pairs("qwen35moe", **QWEN35),
        248320,
        ("output.weight", "blk.0.attn_qkv.weight"),
    ),
    "gemma-2-9b": (
        pairs(
            "gemma2",
            block_count=42,
            embedding_length=3584,
            feed_forward_length=14336,
            attention__head_count=16,
            attention__head_count_kv=8,
            attention__key_length=256,
            attention__sliding_window=4096,
        ),
        256000,
        ("blk.0.attn_q.weight",),
    ),
    "gemma-3-27b": (
        pairs(
            "gemma3",
            block_count=62,
            embedding_length=5376,
            feed_forward_length=21504,
            attention__head_count=32,
            attention__head_count_kv=16,
            attention__key_length=128,
            attention__sliding_window=1024,
        ),
        262208,
        ("blk.0.attn_q_norm.weight",),
    ),
    "phi-4": (
        pairs(
            "phi3",
            block_count=40,
            embedding_length=5120,
            feed_forward_length=17920,
            attention__head_count=40,
            attention__head_count_kv=10,
            attention__sliding_window=0,
        ),
        100352,
        ("output.weight", "blk.0.attn_qkv.weight"),
    ),
    "gpt-oss-20b": (
        pairs(
            "gpt-oss",
            block_count=24,
            embedding_length=2880,
            feed_forward_length=2880,
            attention__head_count=64,
            attention__head_count_kv=8,
            attention__key_length=64,
            attention__sliding_window=128,
            expert_count=32,
            expert_used_count=4,
            expert_feed_forward_length=2880,
        ),
        201088,
        ("output.weight", "blk.0.attn_q.bias"),
    ),
    "glm-4.5-air": (
        pairs(
            "glm4moe",
            block_count=47,
            nextn_predict_layers=1,
            embedding_length=4096,
            feed_forward_length=10944,
            attention__head_count=96,
            attention__head_count_kv=8,
            attention__key_length=128,
            expert_count=128,
            expert_used_count=8,
            expert_shared_count=1,
            expert_feed_forward_length=1408,
            leading_dense_block_count=1,
        ),
        151552,
        ("output.weight", "blk.0.attn_q.bias"),
    ),
    "deepseek-v3": (
        pairs(
            "deepseek2",
            block_count=61,
            embedding_length=7168,
            feed_forward_length=18432,
            attention__head_count=128,
            attention__head_count_kv=1,
            attention__q_lora_rank=1536,
            attention__kv_lora_rank=512,
            attention__key_length=576,
            attention__value_length=512,
            attention__key_length_mla=192,
            attention__value_length_mla=128,
            rope__dimension_count=64,
            expert_count=256,
            expert_used_count=8,
            expert_shared_count=1,
            expert_feed_forward_length=2048,
            leading_dense_block_count=3,
        ),
        129280,
        ("output.weight",),
    ),
}


def with_vocabulary(told: dict[str, bytes], vocabulary: int, telling: tuple[str, ...]) -> bytes:
    tensors = {"token_embd.weight": ((256, vocabulary), FLOAT16)} | dict.fromkeys(telling, ((256,), FLOAT32))
    return header(told, tensors)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_model_is_the_same_from_either_of_its_files(name: str) -> None:
    config = find_config(name)
    assert config is not None
    assert parse_architecture(config_of(parse(with_vocabulary(*PUBLIC[name])))) == parse_architecture(config)


def test_a_window_that_llama_cpp_does_not_heed_is_none() -> None:
    """Phi-3 mini has one of 2047 tokens; Mistral 7B one of 4096."""
    for architecture in ("phi3", "llama"):
        told = {
            key.replace("llama", architecture, 1): value
            for key, value in LLAMA.items()
            if "general" not in key
        }
        told |= pairs(architecture, attention__sliding_window=2047)
        (attention,) = parse_architecture(config_of(parse(header(told)))).attention
        assert isinstance(attention, Attention)
        assert attention.window is None


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(u32(3), id="of three the last sees everything"),
        pytest.param(array(map(boolean, (True, True, False) * 2)), id="one flag a layer"),
    ],
)
def test_which_layers_see_a_window_is_as_the_file_says(pattern: bytes) -> None:
    told = pairs("gemma3", attention__sliding_window=1024, attention__sliding_window_pattern=pattern)
    config = config_of(parse(header({**told, "gemma3.block_count": u32(6)})))
    assert config["layer_types"] == 2 * ["sliding_attention", "sliding_attention", "full_attention"]


def test_layers_that_are_alike_may_each_have_their_number() -> None:
    told = {**LLAMA, "llama.attention.head_count_kv": array(map(u32, (4, 4)))}
    assert config_of(parse(header(told))) == config_of(parse(header(LLAMA)))


def test_a_vocabulary_that_only_the_tokenizer_has_is_counted() -> None:
    told = {key: value for key, value in LLAMA.items() if "vocab" not in key}
    told["tokenizer.ggml.tokens"] = array(map(text, "abc"))
    assert config_of(parse(header(told)))["vocab_size"] == 3


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        pytest.param({}, "without general.architecture", id="no architecture"),
        pytest.param({"general.architecture": u32(1)}, "without general.architecture", id="one in numbers"),
        pytest.param(
            pairs("mamba", block_count=1), "'mamba', which is not known", id="one that is not known"
        ),
        pytest.param(
            {**LLAMA, **pairs("qwen3", block_count=2, expert_count=8)},
            "'qwen3' with experts, which is not known",
            id="experts where there should be none",
        ),
        pytest.param(
            {**LLAMA, "llama.attention.head_count_kv": array(map(u32, (4, 8)))},
            "head_count_kv is not the same for all layers",
            id="layers that differ",
        ),
        pytest.param({**LLAMA, "llama.block_count": u32(2**31)}, "layers", id="billions of layers"),
        pytest.param({**LLAMA, "llama.block_count": f32(2)}, "is no number of anything", id="half a layer"),
        pytest.param(
            {**LLAMA, "llama.embedding_length": i32(-1)}, "is no number of anything", id="fewer than none"
        ),
        pytest.param(
            {**LLAMA, "llama.nextn_predict_layers": u32(2)},
            "of which 2 only draft",
            id="only drafting layers",
        ),
        pytest.param(
            pairs("deepseek2", block_count=3, expert_count=8), "holds no latents", id="latents of old files"
        ),
        pytest.param(pairs("qwen35", block_count=3), "sizes of its linear attention", id="half a hybrid"),
    ],
)
def test_a_model_that_is_not_known_is_refused_with_the_reason(told: dict[str, bytes], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        config_of(parse(header(told)))


def test_every_family_can_be_told_by_the_parser_of_architectures() -> None:
    for family in FAMILIES.values():
        with pytest.raises(UnknownModelError, match="must be a whole number"):
            parse_architecture({"model_type": family.model_type})


# --- hostile files -------------------------------------------------------------------------------


def key_with(value: bytes) -> bytes:
    return header({"a": value})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "ends within", id="an empty file"),
        pytest.param(b"PK\3\4" + bytes(99), "not a GGUF file", id="another format"),
        pytest.param(header({}, version=1), "version 1", id="the first version"),
        pytest.param(header({}, version=4), "version 4", id="one to come"),
        pytest.param(b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian", id="the other byte order"),
        pytest.param(b"GGUF" + struct.pack("<IQQ", 3, 0, MAX_KEYS + 1), "keys", id="too many keys"),
        pytest.param(b"GGUF" + struct.pack("<IQQ", 3, MAX_TENSORS + 1, 0), "tensors", id="too many tensors"),
        pytest.param(header({"k" * 2000: u32(1)}), "bytes in a name", id="a long key"),
        pytest.param(key_with(struct.pack("<I", 77)), "type 77", id="a type that is not known"),
        pytest.param(key_with(struct.pack("<IQ", 8, 2**60)), "bytes in a text", id="a text of an exabyte"),
        pytest.param(
            key_with(struct.pack("<IIQ", 9, 4, 2**62)), "more than 1 GiB", id="an array of exabytes"
        ),
        pytest.param(
            key_with(struct.pack("<IIQ", 9, 4, 2**20)), "ends within", id="an array that is not there"
        ),
        pytest.param(
            key_with(struct.pack("<IIQ", 9, 8, 2**62)), "ends within", id="texts that are not there"
        ),
        pytest.param(key_with(struct.pack("<IIQ", 9, 9, 1)), "type 9", id="an array of arrays"),
        pytest.param(header({}, {"t": ((1,) * 5, 0)}), "dimensions", id="a tensor of five dimensions"),
        pytest.param(header({}, {"t": ((2**40, 2**40), 0)}), "impossible shape", id="a tensor beyond all"),
        pytest.param(header({}, {"t": ((100,), Q4_K)}), "impossible shape", id="half a block"),
        pytest.param(
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * header({"a": u32(1)})[24:],
            "key twice",
            id="a key twice",
        ),
        pytest.param(
            b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + 2 * header({}, {"t": ((1,), 0)})[24:],
            "tensor twice",
            id="a tensor twice",
        ),
    ],
)
def test_an_odd_file_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(data)


class Counting(io.BytesIO):
    """Keeps how much was read of it, and how much at once."""

    total = 0
    largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        self.largest = max(self.largest, size)
        taken = super().read(size)
        self.total += len(taken)
        return taken


def test_a_header_without_end_is_given_up() -> None:
    endless = struct.pack("<IIQ", 9, 8, 2**40) + struct.pack("<Q", 2**16) + bytes(2 * MAX_BYTES)
    file = Counting(key_with(endless))
    with pytest.raises(ValueError, match="more than 16 MiB"):
        read_header(file)
    assert file.total <= MAX_BYTES
    assert file.largest <= 2**16


def test_an_array_of_numbers_is_passed_over_unread() -> None:
    file = Counting(header({"a": array(map(f32, range(100_000))), "b": u32(7)}))
    assert read_header(file).metadata == {"b": 7}
    assert file.total < 200


SOUND = header({**LLAMA, "tokenizer.ggml.tokens": array(map(text, ("a", "b")))}, llama_tensors(Q4_K))


@given(st.integers(0, len(SOUND) - 1))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="ends within"):
        parse(SOUND[:length])


@given(at=st.integers(0, len(SOUND) - 1), spoilt=st.binary(min_size=1, max_size=8))
def test_a_spoilt_file_gives_a_header_or_the_reason(at: int, spoilt: bytes) -> None:
    try:
        config = config_of(parse(SOUND[:at] + spoilt + SOUND[at + len(spoilt) :]))
    except ValueError:
        return
    try:
        parse_architecture(config)
    except UnknownModelError:
        return


NUMBERS = st.one_of(
    st.integers(0, 2**32 - 1).map(u32),
    st.integers(-(2**31), 2**31 - 1).map(i32),
    st.integers(0, 2**64 - 1).map(u64),
    st.floats(width=32).map(f32),
    st.booleans().map(boolean),
    st.text(max_size=5).map(text),
    st.lists(st.integers(0, 9).map(u32), min_size=1, max_size=3).map(array),
)
KEYS = sorted(
    {
        "block_count",
        "vocab_size",
        "nextn_predict_layers",
        *(key for family in FAMILIES.values() for key in family.keys.values()),
        *("embedding_length", "feed_forward_length", "context_length"),
        *(f"attention.{key}" for key in ("head_count", "head_count_kv", "key_length", "sliding_window")),
        *(f"attention.{key}" for key in ("sliding_window_pattern", "kv_lora_rank", "key_length_mla")),
        *("attention.value_length_mla", "rope.dimension_count", "ssm.inner_size"),
    }
)


def sound(family: tuple[str, bool]) -> dict[str, bytes]:
    """A model with eight of everything."""
    own = {"nextn_predict_layers": 0, "expert_count": 8 * family[1], "attention.key_length_mla": 16}
    values = {**dict.fromkeys(KEYS, 8), **own}
    return {
        "general.architecture": text(family[0]),
        **{f"{family[0]}.{key}": u32(value) for key, value in values.items()},
    }


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_of_every_family_is_understood(family: tuple[str, bool]) -> None:
    architecture = parse_architecture(config_of(parse(header(sound(family)))))
    assert architecture.hidden == architecture.vocabulary == 8
    assert bool(architecture.expert_ffn) == family[1]


@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), NUMBERS, max_size=3))
def test_any_numbers_give_an_architecture_or_the_reason(
    family: tuple[str, bool], values: dict[str, bytes]
) -> None:
    told = sound(family) | {f"{family[0]}.{key}": value for key, value in values.items()}
    try:
        parse_architecture(config_of(parse(header(told))))
    except (ValueError, UnknownModelError):
        return
