"""Sends messages as they are and tells what came back. Calls that were taken by mistake or on purpose are hung up.

Each message has a sender address of its own, so that no ban and no rate limit of one touches another. Addresses come
from a whole network that its machine owns (`own_network`).
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.support.sip_words import header, in_dialog, response, status_of
from tests.sip.torture.build import Message, fill
from tests.support.namespaces import Namespace

SENDER_PORT = 5080
BATCH = 48
PATIENCE_SECONDS = 1.2  # what was not answered until then was dropped
PENDING_SECONDS = 6.0  # more for what is being worked on
SETTLE_SECONDS = 0.3  # a second reply would have come until then


def own_network(machine: Namespace, network: str, seen_by: Namespace, via: str) -> None:
    """Every address of `network` is `machine`'s; `seen_by` reaches them over its address `via`."""
    machine.ip("route", "add", "local", network, "dev", "lo")
    seen_by.ip("route", "add", network, "via", via)


def addresses(network: str) -> Iterator[str]:
    """Its hosts, one after the other."""
    return map(str, ipaddress.ip_network(network).hosts())


@dataclass(slots=True)
class Reply:
    """What came of one message."""

    name: str
    statuses: list[int] = field(default_factory=list)
    """Of the final responses to it, in order, without repetitions."""
    requests: list[bytes] = field(default_factory=list)
    """Methods of requests that came to the sender, such as the BYE of a call that was taken."""

    def is_among(self, expected: Iterable[str]) -> bool:
        """The one final response, or that there was none, is one of `expected`: "407", "4xx", "dropped"."""
        if not self.statuses:
            return "dropped" in expected
        return all({str(status), f"{status // 100}xx"} & set(expected) for status in self.statuses)

    is_pending: bool = False
    """It was answered with a provisional response: somebody works on it."""

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(map(str, self.statuses)) or 'dropped'}"


class _Sender:
    """One message from one address."""

    def __init__(self, name: str, data: bytes, host: str, edge: tuple[str, int]) -> None:
        self.reply = Reply(name)
        self._edge = edge
        self._data = fill(data, host, SENDER_PORT, edge[0], uuid.uuid4().hex[:16])
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, SENDER_PORT))
        self.socket.setblocking(False)
        self._host = host

    def send(self) -> None:
        self.socket.sendto(self._data, self._edge)

    def on_readable(self) -> None:
        try:
            data = self.socket.recv(65_536)
        except OSError:
            return  # an ICMP error: as good as silence
        status = status_of(data)
        if status is None:
            self._on_request(data)
        elif status < 200:
            self.reply.is_pending = True
        else:
            if status not in self.reply.statuses and b" INVITE" in header(data, b"CSeq"):
                self.reply.statuses.append(status)
                self._acknowledge(data, status)
            elif status not in self.reply.statuses and b" BYE" not in header(data, b"CSeq"):
                self.reply.statuses.append(status)

    def _on_request(self, data: bytes) -> None:
        method = data.split(b" ", 1)[0]
        self.reply.requests.append(method)
        if method in (b"BYE", b"INVITE", b"OPTIONS"):
            self.socket.sendto(response(data, b"200 OK"), self._edge)

    def _acknowledge(self, data: bytes, status: int) -> None:
        # What the message itself claimed to have come by does not lead back: proxies that do not exist.
        edge = self._edge[0].encode()
        lines = data.split(b"\r\n")
        data = b"\r\n".join(line for line in lines if not line.startswith(b"Record-Route") or edge in line)
        for method in (b"ACK", b"BYE") if status < 300 else (b"ACK",):
            branch = uuid.uuid4().hex[:12]
            self.socket.sendto(in_dialog(data, method, self._host, SENDER_PORT, branch), self._edge)


def exchange(messages: Sequence[tuple[str, bytes]], edge: tuple[str, int], network: str) -> list[Reply]:
    """Send each from an address of its own of `network`, and collect. The calling thread is on the machine that owns
    the network. Raises OSError when a message cannot be sent."""
    replies: list[Reply] = []
    hosts = addresses(network)
    for start in range(0, len(messages), BATCH):
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            senders = [_Sender(name, data, next(hosts), edge) for name, data in messages[start : start + BATCH]]
            for sender in senders:
                stack.callback(sender.socket.close)
                selector.register(sender.socket, selectors.EVENT_READ, sender)
                sender.send()
            deadline = time.monotonic() + PATIENCE_SECONDS
            latest = deadline + PENDING_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    key.data.on_readable()
                waiting = [sender.reply for sender in senders if not sender.reply.statuses]
                if not waiting:
                    deadline = min(deadline, time.monotonic() + SETTLE_SECONDS)
                elif any(reply.is_pending for reply in waiting):
                    deadline = min(latest, max(deadline, time.monotonic() + PATIENCE_SECONDS))
            replies.extend(sender.reply for sender in senders)
    return replies


def surprises(messages: Sequence[Message], replies: Sequence[Reply], *, is_known: bool) -> list[str]:
    """What came of messages that was not to come; [] when all went as expected."""
    found = []
    for message, reply in zip(messages, replies, strict=True):
        expected = message.trunk if is_known else message.stranger
        if not reply.is_among(expected):
            found.append(f"{reply}; expected {sorted(expected)}")
    return found
