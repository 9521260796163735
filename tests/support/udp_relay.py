"""A bad network between two UDP peers on loopback: loses and delays datagrams, with a seed. A thread of its own.

Whoever sends to `port` first is the client; its datagrams go to the server, the server's come back."""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class UdpRelay:
    """Relays every client to `target`, through a socket per client."""

    def __init__(self, target: tuple[str, int], *, loss: float, jitter_ms: float = 0.0, seed: int = 1) -> None:
        self._target = target
        self._rng = random.Random(seed)
        self.loss = loss
        self._jitter = jitter_ms / 1e3
        self._front = self._socket()
        self.port: int = self._front.getsockname()[1]
        self._back: dict[tuple[str, int], socket.socket] = {}
        self._queue: list[tuple[float, int, socket.socket, bytes, tuple[str, int]]] = []
        self._count = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ, None)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="udp-relay")
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._selector.close()
        for sock in (self._front, *self._back.values()):
            sock.close()

    @staticmethod
    def _socket() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        return sock

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait = 0.05 if not self._queue else max(0.0, min(0.05, self._queue[0][0] - time.monotonic()))
            for key, _ in self._selector.select(wait):
                self._read(key.fileobj, key.data)  # type: ignore[arg-type]
            while self._queue and self._queue[0][0] <= time.monotonic():
                _, _, sock, data, address = heapq.heappop(self._queue)
                sock.sendto(data, address)

    def _read(self, sock: socket.socket, client: tuple[str, int] | None) -> None:
        while True:
            try:
                data, source = sock.recvfrom(2048)
            except BlockingIOError:
                return
            if self._rng.random() < self.loss:
                continue
            if client is None:
                if source not in self._back:
                    self._back[source] = self._socket()
                    self._selector.register(self._back[source], selectors.EVENT_READ, source)
                self._send(self._back[source], data, self._target)
            else:
                self._send(self._front, data, client)

    def _send(self, sock: socket.socket, data: bytes, address: tuple[str, int]) -> None:
        self._count += 1
        at = time.monotonic() + self._rng.uniform(0, self._jitter)
        heapq.heappush(self._queue, (at, self._count, sock, data, address))


@contextmanager
def udp_relay(target: tuple[str, int], *, loss: float, jitter_ms: float = 0.0, seed: int = 1) -> Iterator[UdpRelay]:
    """A running relay; gone afterwards."""
    relay = UdpRelay(target, loss=loss, jitter_ms=jitter_ms, seed=seed)
    try:
        yield relay
    finally:
        relay.close()
