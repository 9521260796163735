"""ICE on lent sockets: a stock aioice or aiortc peer on one side, ours on the other, over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aioice.stun
import numpy as np
import pytest
from aioice import Candidate, Connection
from aioice.ice import StunProtocol
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

from model.interface import Pcm16
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.errors import InvalidSdpError
from rtc_server.network import connection as ours
from rtc_server.network.addresses import host_addresses
from rtc_server.network.connection import IceConnection, IceOptions
from rtc_server.network.path import MediaPath
from rtc_server.network.sockets import MediaSockets
from rtc_server.transports.pacer import Pacer
from rtc_server.transports.sdp import validate_offer
from rtc_server.transports.webrtc import MediaResources, WebRtcOptions, WebRtcTransport


@asynccontextmanager
async def ice_pair(
    *, is_lite: bool = False, addresses: Sequence[str] = ("127.0.0.1",)
) -> AsyncIterator[tuple[Connection, IceConnection, MediaPath]]:
    """A stock controlling agent and ours, not connected yet."""
    sockets, path = MediaSockets(), MediaPath()
    caller = Connection(ice_controlling=True)
    callee = IceConnection(IceOptions(sockets, path, addresses, is_lite=is_lite), ice_controlling=False)
    try:
        with host_addresses(addresses):
            await caller.gather_candidates()
        await callee.gather_candidates()
        for one, other in ((caller, callee), (callee, caller)):
            one.remote_username, one.remote_password = other.local_username, other.local_password
            for candidate in other.local_candidates:
                await one.add_remote_candidate(candidate)
            await one.add_remote_candidate(None)
        caller.remote_is_lite = is_lite
        yield caller, callee, path
    finally:
        await caller.close()
        await callee.close()
        sockets.close()


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("::1",)])
async def test_a_stock_agent_connects_and_media_goes_both_ways(addresses: tuple[str, ...]) -> None:
    async with ice_pair(addresses=addresses) as (caller, callee, path), asyncio.timeout(10):
        got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        path.on_media = lambda data, now: got.set_result(bytes(data)) if not got.done() else None
        await asyncio.gather(caller.connect(), callee.connect())
        await caller.send(b"\x80\x6fmedia")
        assert await got == b"\x80\x6fmedia"
        await caller.send(b"\x16dtls")
        assert await callee.recv() == b"\x16dtls"
        await caller.send(b"\x80\xc8rtcp")
        assert await callee.recv() == b"\x80\xc8rtcp", "RTCP is aiortc's business"
        path.send(b"\x80\x6fback")
        assert await caller.recv() == b"\x80\x6fback"


async def test_a_lite_agent_sends_no_check_and_is_reached_all_the_same() -> None:
    async with ice_pair(is_lite=True) as (caller, callee, path), asyncio.timeout(10):
        sent: list[str] = []
        for protocol in callee._protocols:
            protocol.request = lambda *a, **k: sent.append("check")  # type: ignore[assignment,method-assign]
        await asyncio.gather(caller.connect(), callee.connect())
        assert path.is_open
        assert sent == []


async def test_a_check_with_the_wrong_password_is_dropped_without_an_answer() -> None:
    async with ice_pair() as (caller, callee, path):
        caller.remote_password = "x" * 22
        connecting = asyncio.gather(caller.connect(), callee.connect(), return_exceptions=True)
        await asyncio.sleep(0.3)
        assert not path.is_open
        assert sum(lent.sock.dropped for lent in callee._lent) > 0
        await caller.close()
        await callee.close()
        await connecting


async def test_a_silent_peer_is_noticed_within_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    check_timeout = aioice.stun.RETRY_RTO
    assert ours.CONSENT_LOST_SECONDS + 1.2 * ours.CONSENT_WORRIED_INTERVAL_SECONDS + check_timeout < 10
    assert ours.CONSENT_LOST_SECONDS > ours.CONSENT_WORRY_SECONDS + 1.2 * ours.CONSENT_INTERVAL_SECONDS
    monkeypatch.setattr(ours, "CONSENT_LOST_SECONDS", 0.3)
    monkeypatch.setattr(ours, "CONSENT_INTERVAL_SECONDS", 0.1)
    async with ice_pair() as (caller, callee, _), asyncio.timeout(10):
        await asyncio.gather(caller.connect(), callee.connect())
        await asyncio.sleep(0.6)
        assert not callee._closed, "a peer that answers checks is alive, whatever it sends"
        await caller.close()
        await callee.get_event()
        assert callee._closed


async def test_a_flood_for_dtls_is_bounded() -> None:
    async with ice_pair() as (caller, callee, _), asyncio.timeout(10):
        await asyncio.gather(caller.connect(), callee.connect())
        for number in range(5_000):
            callee.receive(memoryview(b"\x16%d" % number))
        assert callee._queue.qsize() <= ours.MAX_QUEUED


async def test_a_peer_gets_as_much_of_the_process_as_a_call_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ice_pair() as (caller, callee, _), asyncio.timeout(10):
        await asyncio.gather(caller.connect(), callee.connect())
        now = 1_000.0
        monkeypatch.setattr(callee, "_loop", type("Clock", (), {"time": lambda self: now})())
        callee._allowed_at = now
        callee._allowance = ours.CONTROL_BURST
        assert sum(callee.admits() for _ in range(5_000)) == ours.CONTROL_BURST
        now += 2.0
        assert sum(callee.admits() for _ in range(5_000)) == min(ours.CONTROL_BURST, 2 * ours.CONTROL_PER_SECOND)
        now += 0.1
        assert sum(callee.admits() for _ in range(5_000)) == pytest.approx(ours.CONTROL_PER_SECOND / 10, abs=1)
        monkeypatch.undo()


async def test_an_external_address_takes_the_place_of_the_local_one() -> None:
    sockets = MediaSockets()
    options = IceOptions(sockets, MediaPath(), ["127.0.0.1"], ["198.51.100.7", "2001:db8::7"])
    connection = IceConnection(options, ice_controlling=False)
    protocol = ours.LentProtocol(connection, sockets.lend(["127.0.0.1"])[0], connection._candidate_host("10.0.0.5"))
    assert protocol.local_candidate.host == "198.51.100.7"
    assert connection._candidate_host("127.0.0.1") == "127.0.0.1"
    assert connection._candidate_host("fd00::1") == "2001:db8::7"
    await connection.close()
    sockets.close()


def test_the_names_of_aioice_that_are_overridden_exist() -> None:
    for name in ("check_start", "check_state", "check_complete", "query_consent", "request_received", "data_received"):
        assert callable(getattr(Connection, name)), name
    for name in ("_check_periodic", "_unfreeze_initial", "_pair_remote_candidate", "_valid_username"):
        assert callable(getattr(Connection, name)), name
    assert callable(StunProtocol.connection_made)


# --- the whole transport: ICE restart under a running call


class SilentSink:
    """Counts audio; says nothing."""

    def __init__(self, frame_samples: int) -> None:
        self.heard = 0
        self.connected = asyncio.Event()
        self.got = asyncio.Event()
        self._frame = PlayoutFrame(np.zeros(frame_samples, np.int16))

    def on_connected(self) -> None:
        self.connected.set()

    def on_channel_open(self) -> None:
        pass

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None:
        self.heard += len(pcm)
        self.got.set()

    def on_message(self, data: str | bytes, now: float) -> None:
        pass

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        return self._frame

    async def more(self) -> None:
        self.got.clear()
        async with asyncio.timeout(10):
            await self.got.wait()


@dataclass
class Call:
    caller: RTCPeerConnection
    transport: WebRtcTransport
    sink: SilentSink
    resources: MediaResources


@asynccontextmanager
async def call() -> AsyncIterator[Call]:
    resources = MediaResources(MediaSockets(), Pacer())
    caller = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    caller.addTrack(AudioStreamTrack())
    transport = WebRtcTransport(WebRtcOptions(host_addresses=["127.0.0.1"]), resources)
    running: asyncio.Task[str] | None = None
    try:
        with host_addresses(["127.0.0.1"]):
            await caller.setLocalDescription(await caller.createOffer())
        offer = validate_offer(caller.localDescription.sdp.encode(), allow_loopback=True)
        answer = await transport.answer(offer)
        sink = SilentSink(transport.playout_sample_rate // 50)
        running = asyncio.create_task(transport.run(sink))
        await caller.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(10):
            await sink.connected.wait()
        await sink.more()
        yield Call(caller, transport, sink, resources)
    finally:
        await caller.close()
        await transport.close()
        if running is not None:
            await running
        resources.close()


def restarted(sdp: str, ufrag: str, password: str, *, fingerprint: str | None = None) -> bytes:
    lines = []
    for line in sdp.splitlines():
        if line.startswith("a=ice-ufrag:"):
            line = f"a=ice-ufrag:{ufrag}"
        elif line.startswith("a=ice-pwd:"):
            line = f"a=ice-pwd:{password}"
        elif line.startswith("a=fingerprint:") and fingerprint is not None:
            line = f"a=fingerprint:sha-256 {fingerprint}"
        elif line.startswith("a=candidate:"):
            continue
        lines.append(line)
    return "\r\n".join(lines).encode() + b"\r\n"


async def test_an_ice_restart_moves_the_call_and_keeps_its_encryption() -> None:
    async with call() as live, asyncio.timeout(20):
        ice = live.caller.getTransceivers()[0].sender.transport.transport
        old, srtp = ice._connection, live.transport.stream._srtp_out
        # The stock peer has no restart; it is given one by hand: a second agent under its DTLS session.
        with host_addresses(["127.0.0.1"]):
            new = Connection(ice_controlling=True)
            await new.gather_candidates()
        sdp = restarted(live.caller.localDescription.sdp, new.local_username, new.local_password)
        answer = await live.transport.renegotiate(validate_offer(sdp, allow_loopback=True))
        new.remote_username = next(line[12:] for line in answer.splitlines() if line.startswith("a=ice-ufrag:"))
        new.remote_password = next(line[10:] for line in answer.splitlines() if line.startswith("a=ice-pwd:"))
        for line in answer.splitlines():
            if line.startswith("a=candidate:"):
                await new.add_remote_candidate(Candidate.from_sdp(line[12:]))
        await new.add_remote_candidate(None)
        await new.connect()
        ice._connection, ice._recv, ice._send = new, new.recv, new.send
        await old.close()
        await live.sink.more()
        await asyncio.sleep(0.1)
        await live.sink.more()
        assert live.transport.stream._srtp_out is srtp, "the DTLS session and its keys are the same"
        assert live.transport._pc.connectionState == "connected"


async def test_an_ice_restart_with_another_certificate_is_refused() -> None:
    async with call() as live:
        sdp = restarted(live.caller.localDescription.sdp, "abcdefgh", "p" * 22, fingerprint=":".join(["AB"] * 32))
        with pytest.raises(InvalidSdpError, match="fingerprint"):
            await live.transport.renegotiate(validate_offer(sdp, allow_loopback=True))
        await live.sink.more()


def fall_silent(live: Call) -> None:
    """The peer's ICE sends nothing any more, as when its network is gone; nothing was said."""
    for protocol in live.caller.getTransceivers()[0].sender.transport.transport._connection._protocols:
        protocol.send_stun = lambda *arguments: None


@pytest.fixture
def short_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "CONSENT_LOST_SECONDS", 0.4)
    monkeypatch.setattr(ours, "CONSENT_WORRY_SECONDS", 0.2)
    monkeypatch.setattr(ours, "CONSENT_INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(ours, "CONSENT_WORRIED_INTERVAL_SECONDS", 0.1)


async def test_a_peer_that_is_not_heard_of_any_more_has_not_hung_up(short_consent: None) -> None:
    async with call() as live, asyncio.timeout(10):
        fall_silent(live)
        assert await asyncio.shield(live.transport._ended) == "connection_failed", "its session is kept"


async def test_an_ice_restart_gives_a_silent_peer_time(short_consent: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "RESTART_SECONDS", 1.5)
    async with call() as live, asyncio.timeout(10):
        fall_silent(live)
        sdp = restarted(live.caller.localDescription.sdp, "abcdefgh", "p" * 22)
        await live.transport.renegotiate(validate_offer(sdp, allow_loopback=True))
        await asyncio.sleep(1.0)  # more than twice as long as without
        assert not live.transport._ended.done()
        assert await asyncio.shield(live.transport._ended) == "connection_failed", "nobody came"


async def test_checks_on_the_old_pair_do_not_take_the_media_back() -> None:
    """They still come from a network that carries one direction only."""
    async with call() as live:
        assert live.transport._ice is not None
        old, path = live.transport._ice.current, live.transport._path
        sent: list[bytes] = []
        path.set_target(lambda data: sent.append(bytes(data)))
        old.is_overtaken = True  # what `_send_early` does once the new pair works
        old.check_complete(old._nominated[1])
        path.send(b"\x80 over the new pair")
        assert sent.pop() == b"\x80 over the new pair"
        old.keep()
        sent.clear()
        path.send(b"\x80 over the old one again, as the restart came to nothing")
        assert sent == []


async def test_a_repeated_offer_gets_the_present_answer() -> None:
    async with call() as live:
        offer = validate_offer(live.caller.localDescription.sdp.encode(), allow_loopback=True)
        answer = await live.transport.renegotiate(offer)
        assert answer == live.transport._pc.localDescription.sdp


async def test_a_peer_that_hangs_up_is_noticed_by_its_close_notice() -> None:
    async with call() as live, asyncio.timeout(5):  # consent would take twice that
        await live.caller.close()
        await live.transport._ended
        assert live.transport._ended.result() == "peer_closed"


async def test_our_hang_up_is_noticed_by_the_peer() -> None:
    async with call() as live, asyncio.timeout(5):
        closed = asyncio.Event()
        live.caller.on("connectionstatechange", closed.set)
        await live.transport.close()
        while live.caller.connectionState != "closed":
            await closed.wait()
            closed.clear()


async def test_a_call_that_ends_leaves_the_shared_socket_empty() -> None:
    async with call() as live:
        (sock,) = live.resources.sockets.lend(["127.0.0.1"])
        assert len(sock) == 1
        assert len(live.resources.pacer) == 1
        await live.transport.close()
        assert len(sock) == 0
        assert live.resources.pacer.is_asleep
