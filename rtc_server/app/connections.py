"""Listening, with a bound on open connections: in total, and for each address.

aiohttp has no such bound. Its own limits do the rest: a connection whose next request's headers do not arrive within
`keepalive_timeout` is closed (from the first moment on), header lines are at most 8 KB and 64 in number, bodies at most
`MAX_REQUEST_BYTES`. The time for a body is kept by `guard`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Collection

from aiohttp import web

from rtc_server import metrics
from rtc_server.config import LimitsSection
from rtc_server.limits import address_key

from .remote import is_loopback_address

MAX_HEADERS = 64
BACKLOG = 128
TLS_HANDSHAKE_SECONDS = 10.0


class ConnectionTable:
    """How many connections are open, and from where."""

    def __init__(self, limits: LimitsSection, exempt: Collection[str] = ()) -> None:
        """`exempt`: addresses without a limit of their own, such as trusted proxies; loopback always is."""
        self._limits = limits
        self._exempt = frozenset(exempt)
        self._by_address: Counter[str] = Counter()
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def open(self, address: str) -> bool:
        """Count one more, if there is room."""
        key = address_key(address)
        is_exempt = address in self._exempt or is_loopback_address(address)
        is_over = self._by_address[key] >= self._limits.connections_per_address and not is_exempt
        if self._num >= self._limits.connections or is_over:
            return False
        self._by_address[key] += 1
        self._num += 1
        return True

    def close(self, address: str) -> None:
        """Count one less."""
        key = address_key(address)
        self._num -= 1
        self._by_address[key] -= 1
        if not self._by_address[key]:
            del self._by_address[key]


class CountedConnection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, unless there is no room for this connection."""

    def __init__(self, inner: asyncio.Protocol, table: ConnectionTable) -> None:
        self._inner = inner
        self._table = table
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        address = str((transport.get_extra_info("peername") or ("unknown",))[0])
        if not self._table.open(address):
            metrics.REQUESTS_REFUSED.labels("too_many_connections").inc()
            transport.abort()
            return
        self._address = address
        self.data_received = self._inner.data_received  # type: ignore[method-assign]  # one call less per packet
        self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._address is not None:
            address, self._address = self._address, None
            self._table.close(address)
            self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Nothing is taken from a connection that was turned away."""

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._address is not None else None

    def pause_writing(self) -> None:
        if self._address is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._address is not None:
            self._inner.resume_writing()


async def listen(
    runner: web.AppRunner, table: ConnectionTable, host: str, port: int, context: ssl.SSLContext | None
) -> asyncio.Server:
    """Serve `runner` on a port. Raises OSError. Close what is returned before `runner.cleanup`."""
    server = runner.server
    assert server is not None, "the runner is set up first"
    return await asyncio.get_running_loop().create_server(
        lambda: CountedConnection(server(), table),
        host,
        port,
        ssl=context,
        backlog=BACKLOG,
        ssl_handshake_timeout=None if context is None else TLS_HANDSHAKE_SECONDS,
    )
