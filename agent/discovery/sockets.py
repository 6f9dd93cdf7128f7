"""On which TCP ports a process listens, and at which address it can be asked, from ``/proc`` alone.

The kernel tells both, so no port is ever tried. The one thing to know: ``/proc/PID/net`` is the network
as that process sees it; another container's loopback is not ours, and its ports are found at the
addresses that its own network has.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from pathlib import Path

from agent.sources.addresses import Address, is_reachable, unmapped

MAX_ROWS = 65_536
"""Lines of one of the kernel's tables, and open files of one process, that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A TCP socket that listens."""

    address: Address
    """It is bound to; 0.0.0.0 and :: are all."""
    port: int
    inode: int
    """By which the processes that have it open know it."""


# --- what a process listens on -------------------------------------------------------------------

LISTENING = "0A"
ENTRY = re.compile(r"\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F:]+ ([0-9A-F]{2}) (.*)")
INODE = 5
"""The column of the socket's inode, counted from the one after the state."""


def parse_listeners(lines: Iterable[str]) -> Iterator[Listener]:
    """The listening sockets of ``/proc/PID/net/tcp`` or ``tcp6``; what is no entry is passed over."""
    for line in lines:
        entry = ENTRY.match(line)
        if entry is None:
            continue
        # They come first. The connections after them may be many thousands, each to be formatted.
        if entry[3] != LISTENING:
            return
        columns = entry[4].split()
        if len(columns) > INODE and columns[INODE].isdecimal():
            yield Listener(
                address=_parse_address(entry[1]), port=int(entry[2], 16), inode=int(columns[INODE])
            )


def _parse_address(digits: str) -> Address:
    """The kernel writes an address as numbers of 32 bits, each in the machine's own byte order."""
    words = (digits[start : start + 8] for start in range(0, len(digits), 8))
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return IPv4Address(packed) if len(packed) == 4 else unmapped(IPv6Address(packed))


def load_listeners(process: Path) -> tuple[Listener, ...]:
    """All listening sockets in the network of that process, its own or not. Raises `OSError`."""
    with (process / "net" / "tcp").open(encoding="ascii", errors="replace") as table:
        found = tuple(parse_listeners(islice(table, MAX_ROWS)))
    with (
        suppress(FileNotFoundError),  # where IPv6 is switched off
        (process / "net" / "tcp6").open(encoding="ascii", errors="replace") as table,
    ):
        found += tuple(parse_listeners(islice(table, MAX_ROWS)))
    return found


SOCKET_LINK = re.compile(r"socket:\[(\d+)\]")


def load_socket_inodes(process: Path) -> frozenset[int]:
    """The inodes of all sockets that the process has open. Raises `OSError`."""
    inodes = set()
    with os.scandir(process / "fd") as descriptors:
        for descriptor in islice(descriptors, MAX_ROWS):
            with suppress(FileNotFoundError):  # closed meanwhile
                link = SOCKET_LINK.fullmatch(os.readlink(descriptor.path))
                if link is not None:
                    inodes.add(int(link[1]))
    return frozenset(inodes)


# --- where it can be asked -----------------------------------------------------------------------


def parse_local_addresses(lines: Iterable[str]) -> Iterator[IPv4Address]:
    """The addresses that a network has, from its ``fib_trie``; some come twice."""
    leaf = ""
    for line in lines:
        head, _, rest = line.strip().partition(" ")
        if head == "|--":
            leaf = rest
        elif head == "/32" and rest == "host LOCAL":
            with suppress(ValueError):
                yield IPv4Address(leaf)


def parse_local_addresses6(lines: Iterable[str]) -> Iterator[IPv6Address]:
    """The addresses that a network has, from its ``if_inet6``."""
    for line in lines:
        digits = line.partition(" ")[0]
        if re.fullmatch(r"[0-9a-f]{32}", digits):
            yield IPv6Address(bytes.fromhex(digits))


def load_local_addresses(process: Path) -> tuple[Address, ...]:
    """The addresses of the network of that process, each once. Raises `OSError`."""
    found: list[Address] = []
    with (process / "net" / "fib_trie").open(encoding="ascii", errors="replace") as table:
        found.extend(parse_local_addresses(islice(table, MAX_ROWS)))
    with (
        suppress(FileNotFoundError),
        (process / "net" / "if_inet6").open(encoding="ascii", errors="replace") as table,
    ):
        found.extend(parse_local_addresses6(islice(table, MAX_ROWS)))
    return tuple(dict.fromkeys(found))


def same_network(process: Path, own: Path) -> bool:
    """Whether both see the same network, as with ``hostNetwork`` on a host. Raises `OSError`."""
    try:
        return (process / "ns" / "net").readlink() == (own / "ns" / "net").readlink()
    except PermissionError:
        # Its namespaces are hidden from us; the addresses of its network are not.
        return set(load_local_addresses(process)) == set(load_local_addresses(own))


def address_to_ask(
    listener: Listener, *, same_network: bool, addresses: Collection[Address]
) -> Address | None:
    """Where to reach it; `None` if it cannot be reached from here.

    `addresses` are those of its network.
    """
    bound = listener.address
    if not bound.is_unspecified:
        return bound if same_network or is_reachable(bound) else None
    if same_network:
        loopback = ip_address("127.0.0.1" if bound.version == 4 else "::1")
        # A socket on :: takes IPv4 too, unless told otherwise, and ::1 may be switched off.
        return loopback if loopback in addresses or bound.version == 4 else ip_address("127.0.0.1")
    reachable = [address for address in addresses if is_reachable(address)]
    alike = [address for address in reachable if address.version == bound.version]
    if alike:
        return alike[0]
    return reachable[0] if reachable and bound.version == 6 else None
