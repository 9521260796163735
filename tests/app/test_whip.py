"""WHIP and WHEP over HTTP, with real peers: what each rule of RFC 9725 makes the server answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from aioice import Candidate, Connection

from rtc_server.network.addresses import host_addresses
from tests.support.running_server import running_server
from tests.support.sdp_peer import SdpPeer, sdp_peer
from tests.transports.test_sdp import offer

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = "application/trickle-ice-sdpfrag"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running_server() as address:
        yield address


@dataclass
class Patched:
    status: int
    etag: str | None
    content_type: str
    text: str


@dataclass
class Session:
    http: aiohttp.ClientSession
    url: str
    etag: str
    answer: str
    links: list[str]

    async def patch(self, body: str, if_match: str | None, content_type: str = FRAGMENT) -> Patched:
        headers = {"Content-Type": content_type} | ({"If-Match": if_match} if if_match is not None else {})
        async with self.http.patch(self.url, data=body.encode(), headers=headers) as reply:
            return Patched(reply.status, reply.headers.get("ETag"), reply.content_type, await reply.text())

    async def status(self, method: str) -> int:
        async with self.http.request(method, self.url) as reply:
            return reply.status


async def open_session(http: aiohttp.ClientSession, url: str, path: str, sdp: str) -> Session:
    async with http.post(url + path, data=sdp.encode(), headers=SDP) as reply:
        answer = await reply.text()
        assert reply.status == 201, answer
        assert reply.content_type == "application/sdp"
        assert reply.headers["Accept-Patch"] == FRAGMENT
        location = reply.headers["Location"]
        assert location.startswith(path.split("?")[0] + "/")
        return Session(http, url + location, reply.headers["ETag"], answer, reply.headers.getall("Link", []))


async def publish(http: aiohttp.ClientSession, url: str, peer: SdpPeer) -> Session:
    session = await open_session(http, url, "/whip", await peer.offer())
    await peer.accept(session.answer)
    return session


def directions(answer: str) -> list[str]:
    names = ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive")
    return [line[2:] for line in answer.splitlines() if line in names]


# --- calls


async def test_a_publisher_that_listens_talks_with_the_server(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer("sendrecv") as peer:
        session = await publish(http, url, peer)
        assert directions(session.answer) == ["sendrecv"]
        assert not any("whep" in link for link in session.links)
        await peer.message("session.created")
        peer.say("f0_rms.wav")
        await peer.message("output_audio_buffer.stopped")
        assert peer.num_loud > 10
        assert await session.status("DELETE") == 200
        assert await session.status("DELETE") == 404
        assert await session.status("GET") == 404


async def test_a_publisher_that_only_sends_gets_no_sound_and_its_turns_go_on(
    http: aiohttp.ClientSession, url: str
) -> None:
    async with sdp_peer("sendonly", num_video=1) as peer:
        session = await publish(http, url, peer)
        assert directions(session.answer) == ["recvonly", "inactive"]
        peer.say("f0_rms.wav")
        await peer.message("output_audio_buffer.stopped")
        peer.say("f1_rms.wav")
        await peer.message("output_audio_buffer.stopped", 2)
        assert peer.num_frames == 0


async def test_an_offer_without_events_is_a_call_too(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer("sendrecv", label=None) as peer:
        await publish(http, url, peer)
        peer.say("f0_rms.wav")
        await peer.until(lambda: peer.num_loud > 10)


async def test_the_model_and_the_beta_are_asked_for_as_elsewhere(http: aiohttp.ClientSession, url: str) -> None:
    async with http.post(f"{url}/whip?model=nothing", data=offer(), headers=SDP) as reply:
        assert reply.status == 404
        assert (await reply.json(content_type=None))["code"] == "model_not_found"


# --- listeners


def whep_path(session: Session) -> str:
    (link,) = (link for link in session.links if "whep" in link)
    assert link.endswith('; rel="urn:ietf:params:whip:ext:rtc-server:whep"')
    return link[1 : link.index(">")]


async def test_a_player_hears_what_the_publisher_is_answered(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer("sendonly") as publisher, sdp_peer("recvonly", label=None) as player:
        session = await publish(http, url, publisher)
        listening = await open_session(http, url, whep_path(session), await player.offer())
        assert directions(listening.answer) == ["sendonly"]
        await player.accept(listening.answer)
        publisher.say("f0_rms.wav")
        await player.until(lambda: player.num_loud > 10)
        await publisher.message("output_audio_buffer.stopped")

        async with sdp_peer("recvonly", label=None) as second:
            body = (await second.offer()).encode()
            async with http.post(url + whep_path(session), data=body, headers=SDP) as reply:
                assert reply.status == 409

        assert await listening.status("GET") == 204
        assert await listening.status("DELETE") == 200
        await player.until(lambda: player.pc.connectionState == "closed")
        publisher.say("f1_rms.wav")
        await publisher.message("output_audio_buffer.stopped", 2)
        async with sdp_peer("recvonly", label=None) as third:
            again = await open_session(http, url, whep_path(session), await third.offer())
            await third.accept(again.answer)
            await third.until(lambda: third.num_frames > 5)
            assert await session.status("DELETE") == 200
            await third.until(lambda: third.pc.connectionState == "closed")
            async with asyncio.timeout(10):
                while await again.status("GET") != 404:  # noqa: ASYNC110 - the server is asked
                    await asyncio.sleep(0.05)


async def test_a_publisher_that_hears_itself_has_no_listeners(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer("sendrecv") as peer, sdp_peer("recvonly", label=None) as player:
        session = await publish(http, url, peer)
        path = f"/whep?call={session.url.rsplit('/', 1)[1]}"
        async with http.post(url + path, data=(await player.offer()).encode(), headers=SDP) as reply:
            assert reply.status == 409


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("", offer().replace(b"a=sendrecv", b"a=recvonly"), 400),
        ("?call=rtc_none", offer().replace(b"a=sendrecv", b"a=recvonly"), 404),
        ("?call=rtc_none", offer().replace(b"a=sendrecv", b"a=sendonly"), 400),
    ],
)
async def test_a_listener_needs_a_call(
    http: aiohttp.ClientSession, url: str, query: str, body: bytes, status: int
) -> None:
    async with http.post(f"{url}/whep{query}", data=body, headers=SDP) as reply:
        assert reply.status == status
        assert reply.content_type == "application/problem+json"


# --- trickle and restart


def fragment(ufrag: str, pwd: str, *lines: str, at_session: bool = True) -> str:
    credentials = [f"a=ice-ufrag:{ufrag}", f"a=ice-pwd:{pwd}"]
    media = ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0"]
    parts = [*credentials, *media, *lines] if at_session else [*media, *credentials, *lines]
    return "\r\n".join([*parts, ""])


def credentials(sdp: str) -> tuple[str, str]:
    lines = sdp.splitlines()
    ufrag = next(line[12:] for line in lines if line.startswith("a=ice-ufrag:"))
    return ufrag, next(line[10:] for line in lines if line.startswith("a=ice-pwd:"))


HOST = "a=candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host"


async def test_candidates_may_follow_an_offer_without_any(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer() as peer:
        sdp = await peer.offer()
        candidates = [line for line in dict.fromkeys(sdp.splitlines()) if line.startswith("a=candidate:")]
        bare = "\r\n".join(line for line in sdp.splitlines() if "candidate" not in line) + "\r\n"
        session = await open_session(http, url, "/whip", bare)
        for at_session in (True, False):
            body = fragment(*credentials(sdp), *candidates, "a=end-of-candidates", at_session=at_session)
            reply = await session.patch(body, session.etag)
            assert reply.status == 204
            assert (reply.etag, reply.text) == (None, "")
        await peer.accept(session.answer)


async def test_which_fragments_are_taken(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer() as peer:
        session = await publish(http, url, peer)
        ours = credentials(peer.pc.localDescription.sdp)
        assert (await session.patch(fragment(*ours, HOST), None)).status == 204, "as eyevinn/whip-web-client does"
        assert (await session.patch(HOST, session.etag)).status == 204, "no credentials: the present session"
        stale = fragment("stale", "s" * 22, HOST)
        assert (await session.patch(stale, session.etag)).status == 204, "ignored"
        assert (await session.patch(stale, None)).status == 428
        assert (await session.patch(fragment(*ours, HOST), '"another"')).status == 412
        assert (await session.patch(fragment(*ours, HOST), 'W/"x", "y"')).status == 412
        assert (await session.patch(HOST, "*")).status == 422, "a restart without credentials"
        assert (await session.patch(HOST, session.etag, "text/plain")).status == 415
        assert (await session.patch("nonsense", session.etag)).status == 400
        assert (await session.patch(fragment("ab", "c" * 22), session.etag)).status == 400
        too_many = [f"a=candidate:1 1 udp 1 127.0.0.1 {port} typ host" for port in range(1000, 1020)]
        assert (await session.patch(fragment(*ours, *too_many), session.etag)).status == 400
        assert (await session.patch("a=x\r\n" * 5000, session.etag)).status == 413
        peer.send({"type": "session.update", "session": {"type": "realtime"}})
        await peer.message("session.updated")


@pytest.mark.parametrize("is_short", [True, False], ids=["whip-whep's two lines", "with m-sections"])
async def test_an_ice_restart_keeps_the_call(http: aiohttp.ClientSession, url: str, *, is_short: bool) -> None:
    async with sdp_peer() as peer, asyncio.timeout(30):
        session = await publish(http, url, peer)
        ice = peer.pc.getTransceivers()[0].sender.transport.transport
        old = ice._connection
        # The stock peer has no restart; it is given one by hand: a second agent under its DTLS session.
        with host_addresses(["127.0.0.1"]):
            new = Connection(ice_controlling=True)
            await new.gather_candidates()
        ours = (new.local_username, new.local_password)
        body = "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n".format(*ours) if is_short else fragment(*ours)
        reply = await session.patch(body, "*")
        text, etag = reply.text, reply.etag
        assert (reply.status, reply.content_type) == (200, FRAGMENT)
        assert etag not in (None, session.etag)
        assert text.endswith("\r\n")
        assert text.count("a=candidate:") == 1
        assert text.count("m=audio") == (0 if is_short else 1)
        new.remote_username, new.remote_password = credentials(text)
        assert (new.remote_username, new.remote_password) != credentials(session.answer)

        assert (await session.patch(fragment(*ours, HOST), session.etag)).status == 412, "the tag is over"
        assert (await session.patch(fragment(*ours, HOST), etag)).status == 204
        before = credentials(peer.pc.localDescription.sdp)
        assert (await session.patch(fragment(*before, HOST), etag)).status == 204, "late, and ignored"
        assert (await session.patch(fragment(*before), "*")).status == 204, "a restart that came too late"
        repeated = await session.patch(body, "*")
        assert (repeated.status, repeated.etag) == (200, etag), "the same restart again is the same"

        candidate = next(line for line in text.splitlines() if line.startswith("a=candidate:"))
        await new.add_remote_candidate(Candidate.from_sdp(candidate[12:]))
        await new.add_remote_candidate(None)
        await new.connect()
        ice._connection, ice._recv, ice._send = new, new.recv, new.send
        old.data_received(b"\0", 1)  # wakes who waits on the old one, and means nothing
        peer.send({"type": "session.update", "session": {"type": "realtime"}})
        await peer.message("session.updated")
        frames = peer.num_frames
        await peer.until(lambda: peer.num_frames > frames + 5)
        await old.close()


# --- the surface


async def test_the_endpoints_tell_what_they_take(http: aiohttp.ClientSession) -> None:
    servers = ["stun:stun.example.org:3478", "stun:stun2.example.org:3478"]
    async with running_server(**{"webrtc.ice_servers": servers}) as url:
        links = [f'<{server}>; rel="ice-server"' for server in servers]
        for path in ("/whip", "/whep"):
            async with http.options(url + path) as reply:
                assert reply.status == 204
                assert reply.headers["Accept-Post"] == "application/sdp"
                assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
                assert reply.headers.getall("Link") == links
            async with http.get(url + path) as reply:
                assert (reply.status, await reply.read()) == (204, b"")
            async with http.put(url + path) as reply:
                assert reply.status == 405
                assert "POST" in reply.headers["Allow"]
        async with http.options(f"{url}/whip/rtc_any") as reply:
            assert reply.headers["Accept-Patch"] == FRAGMENT
        async with http.post(f"{url}/whip/rtc_any") as reply:
            assert reply.status == 405
            assert "PATCH" in reply.headers["Allow"]


async def test_the_answer_names_the_ice_servers(http: aiohttp.ClientSession) -> None:
    # A server that does not answer: gathering goes on without it.
    async with (
        running_server(**{"webrtc.ice_servers": ["stun:127.0.0.1:9"]}) as url,
        http.post(f"{url}/whip", data=offer(), headers=SDP) as reply,
    ):
        assert reply.status == 201
        assert '<stun:127.0.0.1:9>; rel="ice-server"' in reply.headers.getall("Link")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/sdp", 400, "invalid_sdp"),
        (offer(), "text/plain", 415, "unsupported_media_type"),
        (offer().replace(b"m=audio", b"m=video"), "application/sdp", 400, "invalid_sdp"),
        (b"v=0\r\n" + b"a" * 40_000, "application/sdp", 413, "sdp_too_large"),
        (b"v=0\r\n" + b"a" * 400_000, "application/sdp", 413, "request_too_large"),
    ],
)
async def test_a_bad_offer_is_a_problem(
    http: aiohttp.ClientSession, url: str, body: bytes, content_type: str, status: int, code: str
) -> None:
    async with http.post(f"{url}/whip", data=body, headers={"Content-Type": content_type}) as reply:
        assert reply.status == status
        assert reply.content_type == "application/problem+json"
        found = json.loads(await reply.text())
        assert (found["status"], found["code"]) == (status, code)
        assert found["detail"].endswith(".")


async def test_a_full_server_says_when_to_come_back(http: aiohttp.ClientSession) -> None:
    async with running_server(**{"server.max_calls": 1}) as url:
        await open_session(http, url, "/whip", offer().decode())
        async with http.post(f"{url}/whip", data=offer(), headers=SDP) as reply:
            assert reply.status == 503
            assert int(reply.headers["Retry-After"]) > 0


async def test_sessions_of_one_kind_are_not_found_under_the_other(http: aiohttp.ClientSession, url: str) -> None:
    session = await open_session(http, url, "/whip", offer().decode())
    other = Session(http, session.url.replace("/whip/", "/whep/"), "", "", [])
    assert await other.status("DELETE") == 404
    assert (await other.patch(HOST, "*")).status == 404
    assert await session.status("GET") == 204


# --- whose sessions


async def test_sessions_belong_to_who_made_them(http: aiohttp.ClientSession) -> None:
    mine, other = ({"Authorization": f"Bearer sk_{letter * 24}"} for letter in "ab")
    async with running_server(**{"auth.api_keys": ["sk_" + "a" * 24, "sk_" + "b" * 24]}) as url:
        async with http.post(f"{url}/whip", data=offer(), headers=SDP) as reply:
            assert (reply.status, reply.content_type) == (401, "application/problem+json")
            assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        async with http.options(f"{url}/whip") as reply:
            assert reply.status == 204
        sendonly = offer().replace(b"a=sendrecv", b"a=sendonly")
        async with http.post(f"{url}/whip", data=sendonly, headers={**SDP, **mine}) as reply:
            session = reply.headers["Location"]
        call_id = session.rsplit("/", 1)[1]
        recvonly = offer().replace(b"a=sendrecv", b"a=recvonly")
        listening = f"{url}/whep?call={call_id}"
        async with http.post(listening, data=recvonly, headers={**SDP, **other}) as reply:
            assert reply.status == 404
        async with http.post(listening, data=recvonly, headers={**SDP, **mine}) as reply:
            assert reply.status == 201
            listener = reply.headers["Location"]
        again = {"sdp": offer().decode(), "type": "offer", "pc_id": call_id, "restart_pc": True}
        async with http.post(f"{url}/api/offer", json=again, headers=other) as reply:
            assert (await reply.json())["pc_id"] != call_id, "somebody else's call is none"
        async with http.patch(f"{url}/api/offer", json={"pc_id": call_id, "candidates": []}, headers=other) as reply:
            assert reply.status == 404
        for address in (listener, session):
            async with http.delete(url + address, headers=other) as reply:
                assert reply.status == 404, address
            async with http.delete(url + address, headers=mine) as reply:
                assert reply.status == 200, address
