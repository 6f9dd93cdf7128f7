"""GGUF files as the tests need them: any header, sound or not, and tensors behind it."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

Shape = tuple[int, ...]
"""The fastest dimension first."""

FLOAT32, FLOAT16, Q4_K, Q6_K = 0, 1, 12, 14
"""Formats of tensors."""
ALIGNMENT = 32
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9

# --- values, with the number of their type in front --------------------------------------------------


def u32(number: int) -> bytes:
    return struct.pack("<II", 4, number)


def u64(number: int) -> bytes:
    return struct.pack("<IQ", 10, number)


def i32(number: int) -> bytes:
    return struct.pack("<Ii", 5, number)


def f32(number: float) -> bytes:
    return struct.pack("<If", 6, number)


def boolean(flag: bool) -> bytes:
    return struct.pack("<I?", 7, flag)


def text(words: str) -> bytes:
    return struct.pack("<I", _TEXT) + name(words)


def array(items: Iterable[bytes], *, kind: int | None = None) -> bytes:
    """Of values that are all of the type of the first; `kind` for one that has none."""
    listed = list(items)
    number = struct.unpack_from("<I", listed[0])[0] if kind is None else kind
    return struct.pack("<IIQ", _ARRAY, number, len(listed)) + b"".join(item[4:] for item in listed)


def name(words: str) -> bytes:
    """A text without its type: of keys, and of tensors."""
    encoded = words.encode()
    return struct.pack("<Q", len(encoded)) + encoded


# --- files -------------------------------------------------------------------------------------------


def header(
    pairs: Mapping[str, bytes],
    tensors: Mapping[str, tuple[Shape, int]] | None = None,
    *,
    version: int = 3,
    sizes: Mapping[str, int] | None = None,
) -> bytes:
    """A header; `sizes` are those of the tensors' numbers, where these follow."""
    tensors = tensors or {}
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(pairs))]
    parts += [name(key) + value for key, value in pairs.items()]
    offset = 0
    for key, (shape, form) in tensors.items():
        parts.append(name(key) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, form, offset))
        offset += padded((sizes or {}).get(key, 0))
    return b"".join(parts)


def write(
    file: BinaryIO,
    pairs: Mapping[str, bytes],
    tensors: Mapping[str, tuple[Shape, int]],
    numbers: Callable[[str, int], bytes],
) -> None:
    """A whole file; `numbers` gives those of a tensor, of which there are so many."""
    data = {key: numbers(key, math.prod(shape)) for key, (shape, _) in tensors.items()}
    head = header(pairs, tensors, sizes={key: len(written) for key, written in data.items()})
    for part in (head, *data.values()):
        file.write(part.ljust(padded(len(part)), b"\0"))


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def pairs_of(whole: bytes) -> dict[str, bytes]:
    """The keys of a file with their values as they stand there."""
    (count,) = struct.unpack_from("<Q", whole, 16)
    pairs, at = {}, 24
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", whole, at)
        value_at = at + 8 + size
        key = whole[at + 8 : value_at].decode()
        at = _end_of_value(whole, value_at)
        pairs[key] = whole[value_at:at]
    return pairs


def _end_of_value(whole: bytes, at: int) -> int:
    (kind,), count, at = struct.unpack_from("<I", whole, at), 1, at + 4
    if kind == _ARRAY:
        kind, count = struct.unpack_from("<IQ", whole, at)
        at += 12
    if kind != _TEXT:
        return at + count * _SIZES[kind]
    for _ in range(count):
        at += 8 + struct.unpack_from("<Q", whole, at)[0]
    return at
