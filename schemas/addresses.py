"""Addresses of the internet, and which of them are public."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also where it stands for an address of the other version."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        inner = [each for each in (address.sixtofour, *(address.teredo or ())) if each is not None]
        if address.is_site_local or not all(map(is_public, inner)):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
