"""Keys, from the bytes that terminals send for them.

A printable character is its own name; the others are words. What is no key that means anything here is passed
over whole, so that no part of it is taken for another key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMES: Mapping[bytes, str] = {
    b"\r": "enter",
    b"\n": "enter",
    b"\t": "tab",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\x0c": "redraw",
    b"\x15": "clear",
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b[7~": "home",
    b"\x1b[8~": "end",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[Z": "back tab",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1bOM": "enter",
}
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~])")
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?")
_MAX_BEGUN = 32
"""No sequence is longer."""


def parse_keys(sent: bytes, *, complete: bool) -> tuple[tuple[str, ...], bytes]:
    """The keys, and what may be the beginning of another one; nothing is when all has come: `complete`."""
    keys: list[str] = []
    while sent:
        if sent[0] == 0x1B:
            if (sequence := _SEQUENCE.match(sent)) is not None:
                if (name := NAMES.get(sequence[0])) is not None:
                    keys.append(name)
                sent = sent[sequence.end() :]
                continue
            begun = _BEGUN.fullmatch(sent)
            if begun is not None and not complete and len(sent) < _MAX_BEGUN:
                return tuple(keys), sent
            keys.append("escape")
            # Of a sequence that does not end nothing is a key.
            sent = b"" if begun is not None else sent[1:]
            continue
        character, length = _character(sent)
        if character is None and not complete and length > len(sent):
            return tuple(keys), sent
        name = NAMES.get(sent[:1], character or "")
        if name and (len(name) > 1 or name.isprintable()):
            keys.append(name)
        sent = sent[length if character is not None else 1 :]
    return tuple(keys), b""


def _character(sent: bytes) -> tuple[str | None, int]:
    """The first character in UTF-8, and how many bytes it has; `None` where it is none, or not all of it."""
    first = sent[0]
    length = 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    try:
        return sent[:length].decode(), length
    except UnicodeDecodeError:
        return None, length
