"""Addresses at which something can be asked."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.sources.addresses import is_reachable, parse_address, url_host


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", None),
        ("node-1", None),
        ("10.0.0", None),
        ("", None),
    ],
)
def test_an_address_is_read_and_nothing_else_is(text: str, parsed: str | None) -> None:
    assert parse_address(text) == (None if parsed is None else ip_address(parsed))


@pytest.mark.parametrize(
    ("text", "reachable"),
    [
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_what_is_this_machine_s_alone_is_not_reachable(text: str, reachable: bool) -> None:
    assert is_reachable(ip_address(text)) is reachable


@pytest.mark.parametrize(
    ("host", "in_url"),
    [("node-1", "node-1"), ("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")],
)
def test_only_ipv6_addresses_stand_in_brackets(host: str, in_url: str) -> None:
    assert url_host(host) == in_url
