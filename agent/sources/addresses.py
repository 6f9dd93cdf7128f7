"""Addresses at which something can be asked."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address


def parse_address(text: str) -> Address | None:
    """`None` where that is no address, or one that depends on a network interface (``fe80::1%eth0``)."""
    try:
        return unmapped(ip_address(text)) if "%" not in text else None
    except ValueError:
        return None


def unmapped(address: Address) -> Address:
    """The IPv4 address that is meant by one like ``::ffff:10.0.0.1``; any other as it is."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def is_reachable(address: Address) -> bool:
    """From another network. Link-local ones are somebody else's here, such as a cloud's metadata service."""
    return not (
        address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    )


def url_host(host: str | Address) -> str:
    """The host, a name or an address, as it stands in a URL."""
    text = str(host)
    return f"[{text}]" if ":" in text else text
