"""Keys from bytes, however a network cuts them up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.terminal.keys import NAMES, parse_keys


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ("q",)),
        (b"jk/", ("j", "k", "/")),
        (b"\x1b[A\x1bOB", ("up", "down")),
        (b"\x1b[5~\x1b[6~", ("page up", "page down")),
        (b"\r\n\x7f\x08", ("enter", "enter", "backspace", "backspace")),
        ("é🙂".encode(), ("é", "🙂")),
        (b"\x1b[1;5Cx", ("x",)),
        (b"\x1b[200~y", ("y",)),
        (b"\xff\xc3(x", ("(", "x")),
        (b"\x00\x01q", ("q",)),
        (b"\x1bx", ("escape", "x")),
        (b"\x1b\x1b[A", ("escape", "up")),
    ],
)
def test_what_is_sent_is_these_keys(sent: bytes, keys: tuple[str, ...]) -> None:
    assert parse_keys(sent, complete=True) == (keys, b"")


@pytest.mark.parametrize("sent", [b"\x1b", b"\x1b[", b"\x1b[1;", b"\x1bO", "é".encode()[:1]])
def test_what_may_go_on_is_waited_for(sent: bytes) -> None:
    assert parse_keys(b"j" + sent, complete=False) == (("j",), sent)


def test_escape_alone_is_a_key_once_nothing_follows() -> None:
    assert parse_keys(b"\x1b", complete=True) == (("escape",), b"")


def test_a_sequence_without_end_is_not_waited_for_for_ever() -> None:
    keys, rest = parse_keys(b"\x1b[" + b"1" * 100, complete=False)
    assert (keys, rest) == (("escape",), b"")


@pytest.mark.parametrize("sequence", NAMES)
def test_a_key_that_comes_byte_by_byte_is_that_key(sequence: bytes) -> None:
    keys: tuple[str, ...] = ()
    held = b""
    for byte in sequence:
        more, held = parse_keys(held + bytes([byte]), complete=False)
        keys += more
    assert (keys, held) == ((NAMES[sequence],), b"")


@given(st.binary(max_size=60), st.booleans())
def test_whatever_is_sent_gives_keys_and_nothing_that_acts(sent: bytes, complete: bool) -> None:
    keys, rest = parse_keys(sent, complete=complete)
    assert all(key.isprintable() for key in keys)
    assert sent.endswith(rest)
    assert not (complete and rest)
