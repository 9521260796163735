"""The addresses of this machine, and which of them aioice gathers on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import aioice.ice

_gather_addresses = aioice.ice.get_host_addresses
_override: ContextVar[tuple[str, ...]] = ContextVar("host_addresses", default=())


def _host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    addresses = _override.get()
    if not addresses:
        return list(_gather_addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6))
    return [address for address in addresses if (use_ipv6 if ":" in address else use_ipv4)]


aioice.ice.get_host_addresses = _host_addresses


@contextmanager
def host_addresses(addresses: Sequence[str]) -> Iterator[None]:
    """Let aioice's own connections gather on exactly these addresses inside the block; none given = its own choice.

    For our callers (the client): aioice has no setting for it and never offers loopback."""
    token = _override.set(tuple(addresses))
    try:
        yield
    finally:
        _override.reset(token)


def machine_addresses(*, include_loopback: bool = False) -> list[str]:
    """Addresses that aioice would offer; 127.0.0.1 too if asked or if there is nothing else."""
    addresses = list(_gather_addresses(use_ipv4=True, use_ipv6=True))
    if include_loopback or not addresses:
        addresses.append("127.0.0.1")
    return addresses
