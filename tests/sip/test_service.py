"""Telephone calls through the adapter alone: a proxy of the test's own in front of a whole server, and a WebRTC peer in
the place of the media relay, so that there is real sound."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from aiortc import RTCSessionDescription

from benchmarks.support.sip_words import body_of, header, in_dialog, response, status_of
from rtc_server.audio.cleaning import is_cleaning_available
from rtc_server.network.addresses import host_addresses
from tests.app.test_reload import edit, reload
from tests.support.running_server import free_port
from tests.support.sdp_peer import SdpPeer, sdp_peer
from tests.support.server_process import ServerProcess, Value, server_process

pytest.importorskip("sippy", reason="sippy is not installed (the extra sip)")

HOST = "127.0.0.1"
ANSWER_SECONDS = 10.0


@dataclass(slots=True)
class Proxy:
    """The address whose messages the adapter takes."""

    server: ServerProcess
    socket: socket.socket
    adapter: tuple[str, int]
    received: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def send(self, message: bytes) -> None:
        self.socket.sendto(message, self.adapter)

    async def next(self, wanted: re.Pattern[bytes]) -> bytes:
        """The next message whose first line matches; others are kept aside."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                for message in self.received:
                    if wanted.match(message):
                        self.received.remove(message)
                        return message
                self.received.append(await loop.sock_recv(self.socket, 65_536))

    async def final(self, message: bytes) -> bytes:
        """Send a request; its final response."""
        self.send(message)
        number = re.escape(header(message, b"CSeq"))
        answer = await self.next(re.compile(rb"SIP/2\.0 [2-6]\d\d (?s:.*)CSeq: " + number, re.IGNORECASE))
        if header(message, b"CSeq").endswith(b"INVITE"):
            self.send(self.within(answer, b"ACK"))
        return answer

    def invite(self, sdp: str, *extra: str) -> bytes:
        name = uuid.uuid4().hex[:12]
        lines = [
            f"INVITE sip:s2s@{HOST}:{self.adapter[1]} SIP/2.0",
            f"Via: SIP/2.0/UDP {HOST}:{self.port};branch=z9hG4bK{name}",
            "Max-Forwards: 70",
            f"From: <sip:phone@{HOST}>;tag={name}",
            f"To: <sip:s2s@{HOST}>",
            f"Call-ID: {name}",
            "CSeq: 1 INVITE",
            f"Contact: <sip:phone@{HOST}:{self.port}>",
            *extra,
            "Content-Type: application/sdp",
            f"Content-Length: {len(sdp)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + sdp).encode()

    def within(self, ok: bytes, method: bytes, body: bytes = b"", cseq: int | None = None) -> bytes:
        return in_dialog(ok, method, HOST, self.port, uuid.uuid4().hex[:12], body, cseq)

    async def call(self, peer: SdpPeer, *extra: str) -> bytes:
        """An answered call whose media flows; the 200."""
        ok = await self.final(self.invite(await peer.offer(), *extra))
        assert status_of(ok) == 200, ok
        await peer.accept(body_of(ok).decode())
        return ok

    async def hang_up(self, ok: bytes, cseq: int = 9) -> None:
        assert status_of(await self.final(self.within(ok, b"BYE", cseq=cseq))) == 200
        await asyncio.to_thread(self.server.wait_for_calls, 0)

    def dial(self, target: str) -> dict[str, str]:
        """Ask the server to call somebody. Raises HTTPError."""
        body = json.dumps({"target_uri": target}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.server.url}/v1/realtime/calls", body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=10.0) as reply:
            answer: dict[str, str] = json.loads(reply.read())
            return answer

    def outcome(self, call_id: str) -> object:
        return self.server.get_json(f"/v1/realtime/calls/{call_id}")[1]

    def post(self, path: str) -> int:
        request = urllib.request.Request(f"{self.server.url}{path}", method="POST", data=b"")
        with urllib.request.urlopen(request, timeout=5.0) as reply:
            return int(reply.status)

    def call_id(self) -> str:
        """Of the latest call that was answered."""
        return re.findall(r"telephone call answered call_id=(\S+)", self.server.log)[-1]


@pytest.fixture(scope="module")
def server_and_socket() -> Iterator[tuple[ServerProcess, socket.socket, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind((HOST, 0))
        ours.setblocking(False)
        port = free_port(socket.SOCK_DGRAM)
        settings: dict[str, Value] = {
            "sip.enabled": True,
            "sip.port": port,
            "sip.proxy": f"{HOST}:{ours.getsockname()[1]}",
        }
        settings["sip.dial_targets"] = ["sip:*@phones.example", "tel:+4930*"]
        settings["sip.trunk"] = "trunk.example:5080"
        with server_process("echo", settings) as server:
            yield server, ours, port


@pytest.fixture
def proxy(server_and_socket: tuple[ServerProcess, socket.socket, int]) -> Proxy:
    server, ours, port = server_and_socket
    return Proxy(server, ours, (HOST, port))


def echo_is_cancelled(proxy: Proxy) -> bool:
    """The one call's status says so, where the extra is installed."""
    _, status = proxy.server.get_json("/v1/status")
    calls = status["live_calls"]
    assert isinstance(calls, list)
    return [call["cancels_echo"] for call in calls] == [is_cleaning_available()]


async def test_a_call_is_answered_and_talked_to_until_the_telephone_hangs_up(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        ok = await proxy.call(peer)
        assert b"INVITE" in header(ok, b"Allow")
        peer.say("f0_rms.wav")
        await peer.message("output_audio_buffer.started")
        await peer.until(lambda: peer.num_loud > 20)
        assert await asyncio.to_thread(echo_is_cancelled, proxy)
        await proxy.hang_up(ok)


async def test_on_hold_the_reply_waits_and_then_goes_on(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        ok = await proxy.call(peer)
        offer = str(peer.pc.localDescription.sdp)
        peer.say("f0_rms.wav")
        await peer.message("output_audio_buffer.started")
        held = await proxy.final(proxy.within(ok, b"INVITE", offer.replace("a=sendrecv", "a=sendonly").encode(), 2))
        assert status_of(held) == 200, held
        assert b"a=recvonly" in body_of(held)
        await peer.message("rtc_server.call.held")
        heard = peer.num_loud
        await asyncio.sleep(0.5)  # nothing comes: there is no event to wait for
        assert peer.num_loud - heard < 10
        assert not any(message["type"] == "output_audio_buffer.stopped" for message in peer.messages)
        resumed = await proxy.final(proxy.within(ok, b"INVITE", offer.encode(), 3))
        assert b"a=sendrecv" in body_of(resumed)
        await peer.message("rtc_server.call.resumed")
        await peer.message("output_audio_buffer.stopped")
        await proxy.hang_up(ok)


@pytest.mark.parametrize("hold", [("a=sendrecv", "a=inactive"), (f"c=IN IP4 {HOST}", "c=IN IP4 0.0.0.0")])
async def test_a_call_that_begins_on_hold_is_resumed(proxy: Proxy, hold: tuple[str, str]) -> None:
    """As of an exchange that rings two sides before it puts them through (RFC 3725)."""
    async with sdp_peer() as peer:
        offer = await peer.offer()
        ok = await proxy.final(proxy.invite(offer.replace(*hold)))
        assert status_of(ok) == 200
        answer = body_of(ok).decode()
        assert "a=sendrecv" not in answer
        await peer.accept(re.sub("a=(recvonly|inactive)", "a=sendrecv", answer))
        await asyncio.sleep(0.3)  # nothing comes: there is no event to wait for
        assert peer.num_frames == 0
        resumed = await proxy.final(proxy.within(ok, b"INVITE", offer.encode(), 2))
        assert b"a=sendrecv" in body_of(resumed)
        await peer.message("rtc_server.call.resumed")
        await peer.until(lambda: peer.num_frames > 5)
        held = await proxy.final(proxy.within(ok, b"INVITE", offer.replace(*hold).encode(), 3))
        assert status_of(held) == 200
        await peer.message("rtc_server.call.held")
        await proxy.hang_up(ok)


async def test_hanging_up_over_http_sends_a_bye(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        await proxy.call(peer)
        call_id = proxy.call_id()
        assert await asyncio.to_thread(proxy.post, f"/v1/realtime/calls/{call_id}/hangup") == 200
        bye = await proxy.next(re.compile(rb"BYE "))
        assert header(bye, b"Reason").startswith(b"SIP")
        proxy.send(response(bye, b"200 OK"))
        await asyncio.to_thread(proxy.server.wait_for_calls, 0)


async def test_keys_come_by_info_too(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        ok = await proxy.call(peer)
        info = proxy.within(ok, b"INFO", b"Signal=5\r\nDuration=160\r\n", 2)
        info = info.replace(b"application/sdp", b"application/dtmf-relay")
        assert status_of(await proxy.final(info)) == 200
        assert (await peer.message("input_audio_buffer.dtmf_event_received"))["event"] == "5"
        await proxy.hang_up(ok)


async def test_an_update_refreshes_the_session(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        ok = await proxy.call(peer, "Session-Expires: 120;refresher=uac", "Supported: timer")
        assert header(ok, b"Session-Expires") == b"120;refresher=uac"
        update = proxy.within(ok, b"UPDATE", cseq=2).replace(
            b"Max-Forwards", b"Session-Expires: 100;refresher=uac\r\nSupported: timer\r\nMax-Forwards", 1
        )
        assert header(await proxy.final(update), b"Session-Expires") == b"100;refresher=uac"
        await proxy.hang_up(ok)


async def test_a_session_that_is_too_short_is_refused_with_the_shortest(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        refused = await proxy.final(proxy.invite(await peer.offer(), "Session-Expires: 30", "Supported: timer"))
    assert (status_of(refused), header(refused, b"Min-SE")) == (422, b"90")


async def test_an_unknown_extension_is_named(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        refused = await proxy.final(proxy.invite(await peer.offer(), "Require: 100rel, timer"))
    assert (status_of(refused), header(refused, b"Unsupported")) == (420, b"100rel")


async def test_no_telephone_sends_us_elsewhere(proxy: Proxy) -> None:
    async with sdp_peer() as peer:
        ok = await proxy.call(peer)
        refer = proxy.within(ok, b"REFER", cseq=2).replace(b"Max-", b"Refer-To: <sip:evil@example.org>\r\nMax-", 1)
        assert status_of(await proxy.final(refer)) == 603
        await proxy.hang_up(ok)


async def test_a_server_that_ends_says_goodbye() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind((HOST, 0))
        ours.setblocking(False)
        port = free_port(socket.SOCK_DGRAM)
        settings = {"sip.enabled": True, "sip.port": port, "sip.proxy": f"{HOST}:{ours.getsockname()[1]}"}
        with server_process("echo", settings) as server:
            proxy = Proxy(server, ours, (HOST, port))
            async with sdp_peer() as peer:
                await proxy.call(peer)
                await asyncio.to_thread(server.stop)
                assert await proxy.next(re.compile(rb"BYE "))


async def answered(proxy: Proxy, peer: SdpPeer, invite: bytes, early: bool) -> bytes:
    """Ring, then answer our own INVITE; the ACK."""
    await peer.pc.setRemoteDescription(RTCSessionDescription(body_of(invite).decode(), "offer"))
    with host_addresses([HOST]):
        await peer.pc.setLocalDescription(await peer.pc.createAnswer())
    sdp = str(peer.pc.localDescription.sdp).encode()
    extra = (
        b"To: " + header(invite, b"To") + b";tag=them\r\nContact: <sip:them@%s:%d>\r\n" % (HOST.encode(), proxy.port)
    )
    kind = b"Content-Type: application/sdp\r\n"

    def reply(status: bytes, body: bytes) -> bytes:
        message = response(invite, status, body)
        head = re.sub(rb"(?m)^To: .*\r\n", extra + (kind if body else b""), message.partition(b"\r\n\r\n")[0] + b"\r\n")
        return head + b"\r\n" + body

    proxy.send(reply(b"183 Session Progress", sdp) if early else reply(b"180 Ringing", b""))
    proxy.send(reply(b"200 OK", b"" if early else sdp))
    return await proxy.next(re.compile(rb"ACK "))


@pytest.mark.parametrize("early", [False, True], ids=["answer with the 200", "answer with the 183 only"])
async def test_a_call_is_made_and_talked_to(proxy: Proxy, early: bool) -> None:
    async with sdp_peer(label=None) as peer:
        made = await asyncio.to_thread(proxy.dial, "sip:alice@phones.example")
        invite = await proxy.next(re.compile(rb"INVITE "))
        assert invite.startswith(b"INVITE sip:alice@phones.example SIP/2.0")
        assert header(invite, b"Session-Expires") == b"1800"
        for codec in (b"opus/48000/2", b"G722/8000", b"PCMU/8000", b"PCMA/8000", b"telephone-event/8000"):
            assert codec in body_of(invite)
        assert await asyncio.to_thread(proxy.outcome, made["call_id"]) == {
            "call_id": made["call_id"],
            "state": "ringing",
        }
        await answered(proxy, peer, invite, early)
        await peer.until(lambda: peer.pc.connectionState == "connected")
        peer.say("f0_rms.wav")
        await peer.until(lambda: peer.num_loud > 20)
        assert await asyncio.to_thread(echo_is_cancelled, proxy)
        assert await asyncio.to_thread(proxy.outcome, made["call_id"]) == {
            "call_id": made["call_id"],
            "state": "answered",
        }
        assert await asyncio.to_thread(proxy.post, f"/v1/realtime/calls/{made['call_id']}/hangup") == 200
        bye = await proxy.next(re.compile(rb"BYE "))
        proxy.send(response(bye, b"200 OK"))
        await asyncio.to_thread(proxy.server.wait_for_calls, 0)


async def test_one_who_is_busy_is_told_of(proxy: Proxy) -> None:
    made = await asyncio.to_thread(proxy.dial, "tel:+49-30-1234")
    invite = await proxy.next(re.compile(rb"INVITE "))
    assert invite.startswith(b"INVITE sip:+49301234@trunk.example:5080 SIP/2.0")
    busy = response(invite, b"486 Busy Here").replace(b"\r\nCall-ID", b";tag=them\r\nCall-ID", 1)
    proxy.send(busy)
    await proxy.next(re.compile(rb"ACK "))
    for _ in range(100):
        outcome = await asyncio.to_thread(proxy.outcome, made["call_id"])
        if outcome != {"call_id": made["call_id"], "state": "ringing"}:
            break
        await asyncio.sleep(0.05)
    assert outcome == {"call_id": made["call_id"], "state": "failed", "status_code": 486}
    assert proxy.server.num_calls == 0


async def test_hanging_up_a_call_that_rings_cancels_it(proxy: Proxy) -> None:
    made = await asyncio.to_thread(proxy.dial, "sip:bob@phones.example")
    invite = await proxy.next(re.compile(rb"INVITE "))
    proxy.send(response(invite, b"180 Ringing").replace(b"\r\nCall-ID", b";tag=them\r\nCall-ID", 1))
    assert await asyncio.to_thread(proxy.post, f"/v1/realtime/calls/{made['call_id']}/hangup") == 200
    cancel = await proxy.next(re.compile(rb"CANCEL "))
    proxy.send(response(cancel, b"200 OK"))
    proxy.send(response(invite, b"487 Request Terminated").replace(b"\r\nCall-ID", b";tag=them\r\nCall-ID", 1))
    assert await proxy.next(re.compile(rb"ACK "))


@pytest.mark.parametrize(
    ("target", "status"), [("sip:alice@elsewhere.example", 403), ("tel:+44123", 403), ("alice", 400), ("sip:", 400)]
)
async def test_nobody_else_is_called(proxy: Proxy, target: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(proxy.dial, target)
    assert refused.value.code == status
    refused.value.close()


async def test_a_reload_changes_who_may_be_called(proxy: Proxy) -> None:
    edit(proxy.server, '"tel:+4930*"', '"tel:+4940*"')
    try:
        assert (await reload(proxy.server))[1]["applied"] == ["sip.dial_targets"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(proxy.dial, "tel:+49301234")
        assert refused.value.code == 403
        refused.value.close()
        made = await asyncio.to_thread(proxy.dial, "tel:+49401234")
        invite = await proxy.next(re.compile(rb"INVITE sip:\+49401234@"))
        proxy.send(response(invite, b"486 Busy Here").replace(b"\r\nCall-ID", b";tag=them\r\nCall-ID", 1))
        await proxy.next(re.compile(rb"ACK "))
        assert made["call_id"]
    finally:
        edit(proxy.server, '"tel:+4940*"', '"tel:+4930*"')
        await reload(proxy.server)
