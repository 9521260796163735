"""The UDP sockets of a process. All calls share one per local address, or each has its own out of a range of ports.

Every datagram is hostile until its sender is known: media, DTLS and RTCP are taken only from addresses that have shown,
in an authenticated STUN check, that they belong to a call; STUN only when it names a call of ours and is signed with
its password. Everything else is dropped without an answer, so a stranger gets nothing back (RFC 7983 demultiplexing).

asyncio's own datagram transport allocates 256 KB and costs one turn of the loop per packet; these sockets are read into
one buffer, many packets per turn.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from aioice import stun as aioice_stun

from rtc_server.errors import NetworkError

from . import stun

log = logging.getLogger(__name__)

MAX_DATAGRAM = 1_500  # an Ethernet frame: nothing of ours is longer
MAX_PER_WAKE = 64  # datagrams read in one turn of the loop: the pacer must not wait for a flood
RECEIVE_BUFFER = 4 * 1024 * 1024  # asked for; the kernel grants what net.core.rmem_max allows
MAX_ADDRESSES_PER_CALL = 32  # a phone that roams shows a handful
MAX_TRANSACTIONS = 1_024  # our own checks in flight, all calls

Address = tuple[str, int]


class Endpoint(Protocol):
    """One call on one socket: what a datagram is handed to."""

    def on_datagram(self, data: memoryview) -> None:
        """Media, DTLS or RTCP from a validated address."""

    def admits(self) -> bool:
        """One more STUN request that names this call may be read now: a peer must not use up the process."""

    def on_request(self, message: aioice_stun.Message, source: Address) -> bool:
        """A parsed STUN request that names this call. True when it is signed with the call's password."""

    def on_response(self, message: aioice_stun.Message, source: Address) -> None:
        """A response to a check of this call."""


class MediaSocket:
    """One bound UDP socket, its calls, and the addresses that belong to them."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.host = address
        self.port: int = sock.getsockname()[1]
        self.dropped = 0
        """Datagrams from strangers, and malformed ones."""
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(MAX_DATAGRAM + 1)
        self._view = memoryview(self._buffer)
        self._by_address: dict[Address, Endpoint] = {}
        self._by_ufrag: dict[str, Endpoint] = {}
        self._transactions: dict[bytes, Endpoint] = {}
        self._num_addresses: dict[Endpoint, int] = {}
        self._is_closed = False
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def __len__(self) -> int:
        return len(self._by_ufrag)

    def add(self, ufrag: str, endpoint: Endpoint) -> None:
        """STUN requests for `ufrag` go to `endpoint` from now on."""
        if ufrag in self._by_ufrag:
            raise ValueError("the ICE user name is in use on this socket")
        self._by_ufrag[ufrag] = endpoint
        self._num_addresses[endpoint] = 0

    def validate(self, source: Address, endpoint: Endpoint) -> None:
        """`source` has shown that it belongs to the call of `endpoint`: what it sends is that call's."""
        owner = self._by_address.get(source)
        if owner is endpoint or endpoint not in self._num_addresses:
            return
        if self._num_addresses[endpoint] >= MAX_ADDRESSES_PER_CALL:
            self.dropped += 1
            return
        if owner in self._num_addresses and owner is not None:
            self._num_addresses[owner] -= 1
        self._by_address[source] = endpoint
        self._num_addresses[endpoint] += 1

    def expect(self, transaction_id: bytes, endpoint: Endpoint) -> None:
        """A check of ours leaves: its response belongs to `endpoint`."""
        if len(self._transactions) >= MAX_TRANSACTIONS:
            self._transactions.pop(next(iter(self._transactions)))  # the oldest: answered or lost long ago
        self._transactions[transaction_id] = endpoint

    def remove(self, ufrag: str, endpoint: Endpoint) -> None:
        """Forget a call and all that belongs to it. Idempotent."""
        if self._by_ufrag.get(ufrag) is endpoint:
            del self._by_ufrag[ufrag]
        if self._num_addresses.pop(endpoint, 0):
            self._by_address = {a: e for a, e in self._by_address.items() if e is not endpoint}
        self._transactions = {t: e for t, e in self._transactions.items() if e is not endpoint}

    def send(self, data: memoryview | bytes, address: Address) -> None:
        """Raises OSError when the socket does not take it (BlockingIOError: its buffer is full)."""
        self._sock.sendto(data, address)

    def close(self) -> None:
        """Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    # --- receiving

    def _on_readable(self) -> None:
        receive, buffer = self._sock.recvfrom_into, self._buffer
        for _ in range(MAX_PER_WAKE):
            try:
                size, source = receive(buffer)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error for something sent earlier
                continue
            self._dispatch(size, source)
            if self._is_closed:
                return

    def _dispatch(self, size: int, source: Any) -> None:
        if not 0 < size <= MAX_DATAGRAM:
            self.dropped += 1
            return
        first = self._buffer[0]
        address = source if len(source) == 2 else (source[0], source[1])
        if first > 3:
            endpoint = self._by_address.get(address)
            if endpoint is None:
                self.dropped += 1
            else:
                endpoint.on_datagram(self._view[:size])
            return
        try:
            self._on_stun(self._view[:size], address)
        except Exception:  # whatever a hostile message finds in the STUN library must not stop the socket
            log.exception("a STUN message could not be handled")

    def _on_stun(self, data: memoryview, source: Address) -> None:
        kind = stun.message_type(data)
        endpoint: Endpoint | None = None
        if kind == stun.REQUEST:
            ufrag = stun.local_ufrag(data)
            endpoint = None if ufrag is None else self._by_ufrag.get(ufrag)
            if endpoint is not None and not endpoint.admits():
                endpoint = None
        elif kind is not None:
            endpoint = self._transactions.pop(bytes(data[8:20]), None)
        message = None if endpoint is None else stun.parse(bytes(data))
        if endpoint is None or message is None:
            self.dropped += 1
        elif kind != stun.REQUEST:
            endpoint.on_response(message, source)
        elif endpoint.on_request(message, source):
            self.validate(source, endpoint)
        else:
            self.dropped += 1


class MediaSockets:
    """Gives each call its sockets. Made once per event loop."""

    def __init__(self, *, port: int = 0, port_range: tuple[int, int] | None = None) -> None:
        """`port`: the one port that all calls share, 0 = chosen by the kernel and kept. With `port_range` (first, last)
        each call has a port of its own instead."""
        self._port = port
        self._range = port_range
        self._shared: dict[str, MediaSocket] = {}

    @property
    def is_shared(self) -> bool:
        return self._range is None

    @property
    def ports(self) -> dict[str, int]:
        """Shared port by local address."""
        return {address: sock.port for address, sock in self._shared.items()}

    @property
    def dropped(self) -> int:
        """Datagrams of strangers on the shared sockets."""
        return sum(sock.dropped for sock in self._shared.values())

    def lend(self, addresses: Sequence[str]) -> list[MediaSocket]:
        """One socket per address that can be bound. Raises NetworkError when there is none: a port that is taken, a
        range that is used up, or no usable address."""
        lent: list[MediaSocket] = []
        reason = "no local address was given"
        for address in addresses:
            sock = self._shared.get(address) if self.is_shared else None
            if sock is None:
                try:
                    sock = self._open(address)
                except OSError as error:
                    reason = f"{address}: {error.strerror or error}"
                    log.warning("no media socket", extra={"address": address, "error": error.strerror})
                    continue
                if self.is_shared:
                    self._shared[address] = sock
                    if not self._port:
                        self._port = sock.port  # the same port on every address: one rule in a firewall
            lent.append(sock)
        if not lent:
            raise NetworkError(f"There is no UDP port for the call's media ({reason}).")
        return lent

    def give_back(self, sockets: Sequence[MediaSocket]) -> None:
        """The call that they were lent to is over."""
        if not self.is_shared:
            for sock in sockets:
                sock.close()

    def close(self) -> None:
        """Close the shared sockets. Calls must be over."""
        for sock in self._shared.values():
            sock.close()
        self._shared.clear()

    def _open(self, address: str) -> MediaSocket:
        if self._range is None:
            try:
                return MediaSocket(_bind(address, self._port), address)
            except OSError:
                if not self._port or not self._shared:
                    raise
                # A port the kernel chose for one address may be taken on another.
                return MediaSocket(_bind(address, 0), address)
        first, last = self._range
        count = last - first + 1
        start = secrets.randbelow(count)
        for step in range(count):
            try:
                return MediaSocket(_bind(address, first + (start + step) % count), address)
            except OSError as error:
                failure = error
        raise OSError(failure.errno, f"all {count} ports from {first} to {last} are taken")


def _bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((address, port))
    except BaseException:  # whatever it was, the socket is not handed on
        sock.close()
        raise
    return sock
