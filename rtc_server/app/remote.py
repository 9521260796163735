"""Where a request comes from."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from aiohttp import web

FORWARDING_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


def is_same_host(request: web.Request) -> bool:
    """The caller runs on this machine, and no proxy says that it speaks for somebody else."""
    if request.remote is None or any(name in request.headers for name in FORWARDING_HEADERS):
        return False
    return is_loopback_address(request.remote)


def is_loopback_address(address: str) -> bool:
    """127.0.0.0/8 or ::1, also as an IPv4-mapped IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def client_address(request: web.Request, trusted_proxies: Collection[str]) -> str:
    """The caller's address: what the last trusted proxy says, else that of the connection."""
    address = request.remote or "unknown"
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    while address in trusted_proxies and hops:
        address = hops.pop()  # the right end was written by whoever is next to us
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return request.remote or "unknown"  # nonsense in the header must not make a new bucket each time
