"""The private names of aiortc 1.16 and aioice 0.13 that we build on, all of them, and nothing else.

Both packages are pinned exactly; `tests/transports/test_aiortc_seams.py` has one contract test per name, so that an
upgrade that moves one fails there and not in a call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import aioice.ice
from aiortc import RTCRtpReceiver

OPUS_CLOCK_RATE = 48_000
KEPT_ARRIVALS = 256  # 5 s of packets: far more than aiortc's jitter buffer ever holds

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
    """Gather ICE host candidates on exactly these addresses inside the block; none given = aioice's own choice.

    aioice has no setting for it and never offers loopback, which callers on this machine need."""
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


class ArrivalClock:
    """Tells how long a decoded frame was inside aiortc: from the packet's arrival to the frame's release.

    Watches the receiver's packets go by; it changes nothing about them."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self._arrivals: OrderedDict[int, float] = OrderedDict()
        self._origin: int | None = None
        self._handle = receiver._handle_rtp_packet
        receiver._handle_rtp_packet = self._on_packet  # type: ignore[method-assign]

    async def _on_packet(self, packet: Any, arrival_time_ms: int) -> None:
        if self._origin is None:
            self._origin = packet.timestamp
        offset = (packet.timestamp - self._origin) & 0xFFFFFFFF
        self._arrivals[offset] = asyncio.get_running_loop().time()
        while len(self._arrivals) > KEPT_ARRIVALS:
            self._arrivals.popitem(last=False)
        await self._handle(packet, arrival_time_ms=arrival_time_ms)

    def delay_ms(self, pts: int, now: float) -> float:
        """Milliseconds since the packet of the frame with `pts` (48 kHz clock) arrived; 0 when it is not known."""
        arrived = self._arrivals.get(pts)
        return 0.0 if arrived is None else (now - arrived) * 1e3
