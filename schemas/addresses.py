"""Addresses of the internet: which are public, and which one a host names literally."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")
_NUMERIC = re.compile(r"[0-9a-fx.]+", re.ASCII | re.IGNORECASE)
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


def literal_address(host: str) -> Address | None:
    """The address that a host is, also in the short forms that resolvers take (127.1, 2130706433); None for a name."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host)) if _NUMERIC.fullmatch(host) else None
    except OSError:
        return None
