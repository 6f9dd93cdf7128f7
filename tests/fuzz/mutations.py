"""Inputs that are nearly right: recorded ones, spoilt in the ways in which their format can be.

Everything is drawn from one `Random`, so that a seed is a case; hypothesis' own shrinks them as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from random import Random
from typing import Any

MAX_BYTES = 64 * 1024
"""Of an input: what is longer only takes longer."""

NUMBERS = (
    *("NaN", "nan", "+Inf", "-Inf", "Infinity", "0", "-0", "-1", "1", "1e-400", "1e400", "1e30", "9e29"),
    *(
        "9007199254740993",
        "18446744073709551616",
        "-9223372036854775808",
        "1_000",
        "0x1F",
        "1e",
        ".",
        "+",
        "",
    ),
    *("١٢٣", "1" * 400, "0" * 400 + "1", "1 2", "1 # {} 1", "true", "1.7976931348623157e308", "½", "1,5"),
)
TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "\n",
        "\r\n",
        "\\",
        '"',
        "\\n",
        '\\"',
        "{",
        "}",
        "=",
        ",",
        "#",
        "'",
        "\ufeff",
        "\u202e",
    ),
    *("\ud800", "é", "日本語", "🙂", "a" * 200, "../" * 40, "%s%n", "${x}", "$(x)", "-", "--", "null", "~"),
    *("🙂" * 130, "\u0301" * 200, "__proto__", "127.0.0.1", "[::1]", "a:b@c", "\x1b[31m", "0", "-1"),
)
TOKENS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b"\n",
    b"\r",
    b"\0",
    b"=",
    b",",
    b" ",
    b"#",
    b":",
    b"-",
    b"&a",
    b"*a",
)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# --- any bytes -------------------------------------------------------------------------------------


def flip(dice: Random, data: bytes) -> bytes:
    """Some bytes are others."""
    spoilt = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        if spoilt:
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
    return bytes(spoilt)


def cut(dice: Random, data: bytes) -> bytes:
    """Its beginning, or its end."""
    at = dice.randint(0, len(data))
    return data[:at] if dice.random() < 0.7 else data[at:]


def cut_within(dice: Random, data: bytes) -> bytes:
    """Its beginning, up to somewhere within a line."""
    return data[: dice.randint(0, len(data))].rstrip(b"\n")


def drop(dice: Random, data: bytes) -> bytes:
    """A stretch is not there."""
    start = dice.randint(0, len(data))
    return data[:start] + data[start + dice.randint(1, 200) :]


def repeat(dice: Random, data: bytes) -> bytes:
    """A stretch is there again and again."""
    start = dice.randint(0, len(data))
    stretch = data[start : start + dice.randint(1, 64)]
    return data[:start] + stretch * dice.choice((2, 3, 50)) + data[start:]


def insert(dice: Random, data: bytes) -> bytes:
    """Something that means something stands where nothing should."""
    at = dice.randint(0, len(data))
    token = dice.choice((*TOKENS, _bytes(dice.choice(TEXTS)), _bytes(dice.choice(NUMBERS))))
    return data[:at] + token * dice.choice((1, 1, 1, 3, 2000)) + data[at:]


# --- lines -----------------------------------------------------------------------------------------


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True) or [b"\n"]


def lines_dropped(dice: Random, data: bytes) -> bytes:
    """Many lines are not there."""
    share = dice.random()
    return b"".join(line for line in _lines(data) if dice.random() < share)


def lines_twice(dice: Random, data: bytes) -> bytes:
    """Lines stand again elsewhere."""
    lines = _lines(data)
    for _ in range(dice.randint(1, 5)):
        lines.insert(dice.randint(0, len(lines)), dice.choice(lines))
    return b"".join(lines)


def lines_moved(dice: Random, data: bytes) -> bytes:
    """Lines stand elsewhere."""
    lines = _lines(data)
    for _ in range(dice.randint(1, 5)):
        lines.insert(dice.randint(0, len(lines)), lines.pop(dice.randrange(len(lines))))
    return b"".join(lines)


def few_families(dice: Random, data: bytes, most: int = 4) -> bytes:
    """A few of its families, whole."""
    families = [list(lines) for _, lines in groupby(_lines(data), lambda line: line.partition(b"{")[0])]
    chosen = set(dice.sample(range(len(families)), min(most, len(families))))
    return b"".join(line for number in sorted(chosen) for line in families[number])


def number_changed(dice: Random, data: bytes) -> bytes:
    """The last word of a line is another number."""
    lines = _lines(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(lines))
        head, space, _ = lines[at].rstrip(b"\n").rpartition(b" ")
        lines[at] = head + space + _bytes(dice.choice(NUMBERS)) + b"\n"
    return b"".join(lines)


def label_changed(dice: Random, data: bytes) -> bytes:
    """What stands in quotes is something else."""
    parts = data.split(b'"')
    if len(parts) > 2:
        for _ in range(dice.randint(1, 3)):
            parts[2 * dice.randrange((len(parts) - 1) // 2) + 1] = _bytes(dice.choice(TEXTS))
    return b'"'.join(parts)


# --- JSON ------------------------------------------------------------------------------------------


def _hostile_json(dice: Random) -> Any:
    kind = dice.randrange(8)
    if kind == 0:
        return dice.choice((None, True, False, [], {}, [[]], [None], {"": None}))
    if kind == 1:
        return dice.choice((0, -1, 1, 10**18, 10**400, 2**63, 0.5, -0.0, 1e308, float("nan"), float("inf")))
    if kind == 2:
        return [_hostile_json(dice) for _ in range(dice.randint(0, 3))]
    if kind == 3:
        nested: Any = dice.choice((0, "x", None))
        for _ in range(dice.choice((3, 50, 200))):
            nested = [nested] if dice.random() < 0.5 else {"a": nested}
        return nested
    return dice.choice(TEXTS)


def json_changed(dice: Random, data: bytes) -> bytes:
    """Somewhere in the document stands something else; no JSON is left alone."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return flip(dice, data)
    for _ in range(dice.randint(1, 4)):
        document = _changed(dice, document)
    return json.dumps(document, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def _changed(dice: Random, document: Any) -> Any:
    if isinstance(document, dict) and document and dice.random() < 0.9:
        key = dice.choice(list(document))
        chance = dice.random()
        if chance < 0.1:
            return {name: value for name, value in document.items() if name != key}
        if chance < 0.15:
            return {**document, dice.choice(TEXTS): document[key]}
        return {**document, key: _changed(dice, document[key])}
    if isinstance(document, list) and document and dice.random() < 0.9:
        at = dice.randrange(len(document))
        changed = [*document]
        if dice.random() < 0.1:
            return changed * 3
        changed[at] = _changed(dice, document[at])
        return changed
    return _hostile_json(dice)


def deep(dice: Random, data: bytes) -> bytes:
    """Brackets in brackets, more than anybody holds."""
    depth = dice.choice((10, 300, 2000))
    opening, closing = dice.choice(
        ((b"[", b"]"), (b'{"a":', b"}"), (b"{a: ", b"}"), (b"- ", b""), (b"? ", b""))
    )
    return opening * depth + (data[:20] if dice.random() < 0.3 else b"1") + closing * depth


# --- what befits which format ------------------------------------------------------------------------

Mutation = Callable[[Random, bytes], bytes]

ANY: tuple[Mutation, ...] = (flip, cut, drop, repeat, insert)
PAGE = (*ANY, lines_dropped, lines_twice, lines_moved, number_changed, number_changed, label_changed)
JSON = (*ANY, json_changed, json_changed, json_changed, json_changed, deep, label_changed)
WHOLE = (lines_twice, lines_moved)
"""All of it is there."""
LACKING = (*WHOLE, cut_within, lines_dropped, lines_dropped, few_families)
"""What is left is true."""
TRUE = (WHOLE, LACKING)
YAML = (*ANY, lines_dropped, lines_twice, lines_moved, number_changed, deep)
ROWS = (*ANY, lines_dropped, lines_twice, number_changed)


def splice(dice: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one, and the end of another."""
    return data[: dice.randint(0, len(data))] + other[dice.randint(0, len(other)) :]


FEW_RATIO = 0.9
"""Of the pages; what is wrong with one shows in a few of its families, and soon."""


def mutate(dice: Random, seeds: Sequence[bytes], mutations: Sequence[Mutation]) -> bytes:
    """One case: a seed, spoilt once or a few times."""
    data = dice.choice(seeds)
    if mutations is PAGE and dice.random() < FEW_RATIO:
        data = few_families(dice, data)
    if mutations not in TRUE and dice.random() < 0.1:
        data = splice(dice, data, dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 2, 3))):
        data = dice.choice(mutations)(dice, data)
    return data[:MAX_BYTES]
