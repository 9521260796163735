"""The adapter alone, its proxy gone mad: damaged requests and wrong session descriptions, straight to its port.

Behind the proxy it never sees most of this. It has to live all the same: the proxy is a program that changes, and what
it lets through is decided elsewhere.
"""

from __future__ import annotations

import random
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from benchmarks.support.sip_words import header, in_dialog, response, status_of
from tests.sip.torture.bad import BAD
from tests.sip.torture.build import Request, fill, invite
from tests.sip.torture.mutation import damaged, mutants
from tests.sip.torture.odd import ODD
from tests.sip.torture.sdp_bodies import BODIES, PEER_SDP
from tests.support.server_process import ServerProcess, server_process

pytest.importorskip("sippy", reason="sippy is not installed (the extra sip)")

HOST = "127.0.0.1"
SEED = 20_261_126
NUM_MUTANTS = 250  # of each request
ANSWER_SECONDS = 5.0
QUIET_SECONDS = 0.25
PAUSE_EVERY = 25  # datagrams; a socket's buffer holds some hundred

MARK = {b"x_rtc_source": b"127.0.0.1;udp"}


@dataclass(slots=True)
class Proxy:
    """The place of the proxy: the one address whose messages the adapter takes."""

    server: ServerProcess
    socket: socket.socket
    adapter: tuple[str, int]

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def fill(self, data: bytes) -> bytes:
        return fill(data, HOST, self.port, HOST, uuid.uuid4().hex[:16])

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.adapter)

    def collect(self, quiet: float = QUIET_SECONDS) -> list[bytes]:
        """What comes until it is quiet. Requests get a 200, calls that were taken are hung up."""
        found = []
        self.socket.settimeout(quiet)
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            try:
                message = self.socket.recv(65_536)
            except TimeoutError:
                break
            found.append(message)
            status = status_of(message)
            if status is None:
                if not message.startswith(b"ACK"):
                    self.send(response(message, b"200 OK"))
            elif status >= 200 and header(message, b"CSeq").endswith(b"INVITE"):
                for method in (b"ACK", b"BYE") if status < 300 else (b"ACK",):
                    self.send(in_dialog(message, method, HOST, self.port, uuid.uuid4().hex[:12]))
        return found

    def final(self, request: bytes) -> bytes:
        """Send a request; its final response. Raises AssertionError when none comes."""
        number = header(request, b"Call-ID"), header(request, b"CSeq")
        deadline, resend_at = time.monotonic() + ANSWER_SECONDS, 0.0
        while (now := time.monotonic()) < deadline:
            if now >= resend_at:
                self.send(request)
                resend_at = now + 0.5
            self.socket.settimeout(max(0.01, resend_at - now))
            try:
                message = self.socket.recv(65_536)
            except TimeoutError:
                continue
            if (header(message, b"Call-ID"), header(message, b"CSeq")) == number and (status_of(message) or 0) >= 200:
                return message
        raise AssertionError(f"no answer:\n{self.server.log[-4000:]}")

    def establish(self) -> bytes:
        """A good call; the 200 that made it, acknowledged."""
        ok = self.final(self.fill(invite(PEER_SDP)))
        assert status_of(ok) == 200, ok
        self.send(in_dialog(ok, b"ACK", HOST, self.port, uuid.uuid4().hex[:12]))
        return ok

    def check_the_next_call(self) -> None:
        """The server still takes a good call and lets it be hung up, and holds none after that."""
        assert self.server.process.poll() is None, self.server.log[-4000:]
        ok = self.establish()
        bye = self.final(in_dialog(ok, b"BYE", HOST, self.port, uuid.uuid4().hex[:12]))
        assert status_of(bye) == 200, bye
        self.server.wait_for_calls(0, timeout_seconds=20.0)
        assert "Traceback" not in self.server.log, self.server.log[-6000:]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind((HOST, 0))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        settings = {
            "sip.enabled": True,
            "sip.port": port,
            "sip.proxy": f"{HOST}:{ours.getsockname()[1]}",
            "server.max_calls": 64,
        }
        with server_process("echo", settings) as server:
            yield Proxy(server, ours, (HOST, port))


def test_every_odd_and_wrong_message(proxy: Proxy) -> None:
    for number, message in enumerate((*ODD, *BAD)):
        proxy.send(proxy.fill(message.data))
        if number % PAUSE_EVERY == 0:
            proxy.collect()
    proxy.collect()
    proxy.check_the_next_call()


@pytest.mark.parametrize("body", BODIES, ids=[body.name for body in BODIES])
def test_each_wrong_session_description_is_refused_or_understood(proxy: Proxy, body: object) -> None:
    ok = proxy.final(proxy.fill(invite(body.of(PEER_SDP))))  # type: ignore[attr-defined]
    status = status_of(ok) or 0
    proxy.send(in_dialog(ok, b"ACK", HOST, proxy.port, uuid.uuid4().hex[:12]))
    if status < 300:
        assert body.may_be_taken, f"{status}: a call without usable media was taken"  # type: ignore[attr-defined]
        assert status_of(proxy.final(in_dialog(ok, b"BYE", HOST, proxy.port, uuid.uuid4().hex[:12]))) == 200
    else:
        assert status in (400, 415, 488, 606), ok


def test_after_all_wrong_session_descriptions_a_good_call_works(proxy: Proxy) -> None:
    proxy.check_the_next_call()


def test_damaged_invites(proxy: Proxy) -> None:
    for number, mutant in enumerate(mutants(SEED, invite(PEER_SDP), NUM_MUTANTS)):
        proxy.send(proxy.fill(mutant))
        if number % PAUSE_EVERY == 0:
            proxy.collect(0.15)
    proxy.collect()
    proxy.check_the_next_call()


def test_damaged_requests_within_calls(proxy: Proxy) -> None:
    rng = random.Random(SEED)
    sent = 0
    while sent < NUM_MUTANTS:
        ok = proxy.establish()
        for _ in range(25):
            method = rng.choice((b"INVITE", b"ACK", b"BYE", b"INFO", b"UPDATE", b"CANCEL"))
            body = proxy.fill(PEER_SDP) if method == b"INVITE" else b""
            request = in_dialog(ok, method, HOST, proxy.port, uuid.uuid4().hex[:12], body, 2 + sent)
            proxy.send(damaged(rng, request))
            sent += 1
        proxy.collect(0.15)
        bye = proxy.final(in_dialog(ok, b"BYE", HOST, proxy.port, uuid.uuid4().hex[:12], cseq=100_000))
        assert status_of(bye) in (200, 481), bye  # a damaged BYE may have been good enough
    proxy.check_the_next_call()


def test_messages_of_anybody_else_are_not_read(proxy: Proxy) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((HOST, 0))
        stranger.settimeout(1.0)
        port = int(stranger.getsockname()[1])
        stranger.sendto(fill(Request(body=PEER_SDP).encode(), HOST, port, HOST, "stranger"), proxy.adapter)
        with pytest.raises(TimeoutError):
            stranger.recv(65_536)
    proxy.check_the_next_call()
