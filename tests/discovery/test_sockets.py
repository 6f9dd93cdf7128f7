"""The kernel's tables of sockets and addresses, written and real."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.discovery.sockets import (
    Listener,
    address_to_ask,
    load_listeners,
    load_local_addresses,
    load_socket_inodes,
    parse_listeners,
    parse_local_addresses,
    parse_local_addresses6,
    same_network,
)
from agent.sources.addresses import Address
from tests.discovery.proc_tree import Network, ProcTree, as_stranger, shared_directory, tcp_row

OWN = Path("/proc/self")
LOOPBACKS = ["127.0.0.1", *(["::1"] if Path("/proc/net/if_inet6").exists() else [])]


@pytest.fixture
def shared() -> Iterator[Path]:
    with shared_directory() as directory:
        yield directory


# --- tables --------------------------------------------------------------------------------------

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
ROWS = st.lists(st.tuples(ADDRESSES, st.integers(0, 65535), st.integers(1, 2**40)), max_size=8)


@given(ROWS)
def test_what_listens_is_read_as_it_is_written(rows: list[tuple[Address, int, int]]) -> None:
    lines = [
        "  sl  local_address rem_address   st",
        *(tcp_row(str(a), port, inode) for a, port, inode in rows),
    ]
    found = [(listener.address, listener.port, listener.inode) for listener in parse_listeners(lines)]
    assert found == [(getattr(a, "ipv4_mapped", None) or a, port, inode) for a, port, inode in rows]


def test_an_ipv4_address_within_ipv6_is_an_ipv4_address() -> None:
    (found,) = parse_listeners([tcp_row("::ffff:10.0.0.4", 8000, 1)])
    assert found.address == ip_address("10.0.0.4")


@given(st.lists(st.text(), max_size=8))
def test_what_is_no_table_has_no_listeners(lines: list[str]) -> None:
    assert list(parse_listeners(lines)) == []
    assert list(parse_local_addresses(lines)) == []


@given(st.data())
def test_a_damaged_row_costs_itself_only(data: st.DataObject) -> None:
    row = tcp_row("10.0.0.1", 8000, 77)
    cut = data.draw(st.integers(0, len(row) - 60))
    found = list(parse_listeners([row[:cut], tcp_row("0.0.0.0", 8001, 78)]))
    assert [listener.inode for listener in found if listener.port == 8001] == [78]


def test_connections_are_not_looked_at() -> None:
    def table() -> Iterator[str]:
        yield tcp_row("0.0.0.0", 8000, 1)
        yield tcp_row("0.0.0.0", 8000, 2, state="01")
        raise AssertionError("read on")

    assert [one.inode for one in parse_listeners(table())] == [1]


def test_addresses_of_a_network_are_its_local_ones(tmp_path: Path) -> None:
    Network(1, addresses=("10.244.1.9", "127.0.0.1"), addresses6=("fd00::9", "::1")).write(tmp_path / "net")
    assert [str(address) for address in load_local_addresses(tmp_path)] == [
        "10.244.1.9",
        "127.0.0.1",
        "fd00::9",
        "::1",
    ]


def test_a_leaf_that_is_no_address_is_passed_over() -> None:
    lines = ["|-- 10.0.0.999", "/32 host LOCAL", "|-- 10.0.0.9", "/32 host LOCAL"]
    assert [str(address) for address in parse_local_addresses(lines)] == ["10.0.0.9"]
    assert list(parse_local_addresses6(["zz 01 80 10 80 lo", ""])) == []


# --- the real ones -------------------------------------------------------------------------------


@pytest.mark.parametrize("address", LOOPBACKS)
def test_a_real_socket_is_found_by_its_process(address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert port not in {listener.port for listener in load_listeners(OWN)}
        server.listen()
        (found,) = [listener for listener in load_listeners(OWN) if listener.port == port]
        assert found.address == ip_address(address)
        assert found.inode == os.fstat(server.fileno()).st_ino
        assert found.inode in load_socket_inodes(OWN)
    assert port not in {listener.port for listener in load_listeners(OWN)}


def test_the_machines_own_addresses_are_read() -> None:
    assert ip_address("127.0.0.1") in load_local_addresses(OWN)
    assert same_network(OWN, Path(f"/proc/{os.getppid()}"))


# --- the address to ask --------------------------------------------------------------------------

POD = ("127.0.0.1", "10.244.1.9", "169.254.3.3", "::1", "fe80::1", "fd00::9")


@pytest.mark.parametrize(
    ("bound", "same", "asked"),
    [
        ("0.0.0.0", True, "127.0.0.1"),
        ("127.0.0.1", True, "127.0.0.1"),
        ("::", True, "::1"),
        ("::1", True, "::1"),
        ("10.244.1.9", True, "10.244.1.9"),
        ("0.0.0.0", False, "10.244.1.9"),
        ("::", False, "fd00::9"),
        ("10.244.1.9", False, "10.244.1.9"),
        ("127.0.0.1", False, None),
        ("::1", False, None),
        ("169.254.169.254", False, None),
    ],
)
def test_a_server_is_asked_where_it_can_be_reached(bound: str, same: bool, asked: str | None) -> None:
    listener = Listener(address=ip_address(bound), port=1, inode=1)
    found = address_to_ask(listener, same_network=same, addresses=tuple(map(ip_address, POD)))
    assert found == (None if asked is None else ip_address(asked))


def test_a_socket_of_both_families_is_asked_by_the_one_that_there_is() -> None:
    listener = Listener(address=ip_address("::"), port=1, inode=1)
    addresses = (ip_address("127.0.0.1"), ip_address("10.244.1.9"))
    assert address_to_ask(listener, same_network=True, addresses=addresses) == ip_address("127.0.0.1")
    assert address_to_ask(listener, same_network=False, addresses=addresses) == ip_address("10.244.1.9")


@given(ADDRESSES, st.booleans(), st.lists(ADDRESSES, max_size=4))
def test_no_address_is_asked_that_is_not_the_sockets_or_its_networks(
    bound: Address, same: bool, addresses: list[Address]
) -> None:
    listener = Listener(address=bound, port=1, inode=1)
    asked = address_to_ask(listener, same_network=same, addresses=addresses)
    loopback = {ip_address("127.0.0.1"), ip_address("::1")} if same else set()
    assert asked in {None, bound, *addresses, *loopback}
    assert same or asked is None or not (asked.is_loopback or asked.is_link_local or asked.is_multicast)


def test_networks_whose_names_are_hidden_are_told_apart_by_their_addresses(shared: Path) -> None:
    tree = ProcTree(shared)
    tree.add(10, ["a"])
    tree.add(11, ["b"], network=Network(2, addresses=("127.0.0.1", "10.244.1.9")))
    for pid in (10, 11):
        tree.hide(pid)
    with as_stranger():
        assert same_network(shared / "10", shared / "self")
        assert not same_network(shared / "11", shared / "self")
