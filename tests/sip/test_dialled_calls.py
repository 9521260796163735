"""Calls that the server makes, while they ring: who follows them, and whose quota they count against."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiortc import RTCSessionDescription

from benchmarks.support.sip_words import body_of
from rtc_server.calls.call import MAX_SIDEBANDS
from rtc_server.network.addresses import host_addresses
from tests.sip.test_control import KEY, OTHER_KEY, Application, application
from tests.support.sdp_peer import SdpPeer

pytest.importorskip("sippy", reason="sippy is not installed (the extra sip)")

WHERE_CALLS_LIVE = pytest.mark.parametrize("workers", [0, 1], ids=["in this process", "in a worker"])
WAIT_SECONDS = 20.0


class Sideband:
    """Events of one call as they come, and how its WebSocket was closed."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def next(self) -> dict[str, Any] | None:
        """The next event; None at the end."""
        message = await self.socket.receive(WAIT_SECONDS)
        return json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else None

    async def until(self, kind: str) -> dict[str, Any]:
        """The next event of a kind; others are passed over."""
        while (event := await self.next()) is not None:
            if event["type"] == kind:
                return event
        raise AssertionError(f"closed ({self.socket.close_code}) before {kind}")

    async def state(self) -> tuple[str, int | None]:
        """The next event, which is one of the call's state."""
        event = await self.next()
        assert event is not None
        assert event["type"] == "rtc_server.sip.state", event
        return event["state"], event.get("status_code")


@dataclass(slots=True)
class Client:
    """An application that makes calls; made by `calling`."""

    url: str
    http: aiohttp.ClientSession
    sidebands: list[Sideband] = field(default_factory=list)
    """That it has opened."""

    async def dial(self, key: str = KEY) -> tuple[int, dict[str, Any]]:
        """Have the server call bob."""
        body, headers = {"target_uri": "sip:bob@example.org"}, {"Authorization": f"Bearer {key}"}
        async with self.http.post(f"{self.url}/v1/realtime/calls", json=body, headers=headers) as reply:
            return reply.status, await reply.json()

    async def follow(self, call_id: str, key: str = KEY) -> Sideband:
        """Raises WSServerHandshakeError."""
        headers = {"Authorization": f"Bearer {key}"}
        socket = await self.http.ws_connect(f"{self.url}/v1/realtime?call_id={call_id}", headers=headers)
        self.sidebands.append(sideband := Sideband(socket))
        return sideband


@asynccontextmanager
async def calling(tmp_path: Path, **settings: object) -> AsyncIterator[tuple[Application, Client]]:
    """A server that may call anybody, and who has it do so."""
    async with (
        application(tmp_path, **{"sip.dial_targets": ["sip:*"], **settings}) as app,
        aiohttp.ClientSession() as http,
    ):
        client = Client(app.server_url, http)
        try:
            yield app, client
        finally:
            for sideband in client.sidebands:
                await sideband.socket.close()


async def answer_of(media: SdpPeer, offer: bytes) -> bytes:
    """What bob's relay answers."""
    await media.pc.setRemoteDescription(RTCSessionDescription(offer.decode(), "offer"))
    with host_addresses(["127.0.0.1"]):
        await media.pc.setLocalDescription(await media.pc.createAnswer())
    return str(media.pc.localDescription.sdp).encode()


@WHERE_CALLS_LIVE
async def test_a_ringing_call_is_followed_until_it_talks(tmp_path: Path, workers: int) -> None:
    async with calling(tmp_path, **{"server.media_workers": workers}) as (app, client):
        _, made = await client.dial()
        invite = await app.phone.request(b"INVITE")
        early = await client.follow(made["call_id"])
        assert await early.state() == ("ringing", 100)
        app.phone.ring(invite)
        app.phone.ring(invite)
        assert await early.state() == ("ringing", 180)
        late = await client.follow(made["call_id"])
        assert await late.state() == ("ringing", 180)  # how it stands, and once
        # What is asked before anybody is there is done when somebody is.
        await early.socket.send_json({"type": "session.update", "session": {"type": "realtime", "instructions": "Hi."}})
        app.phone.accept(invite, await answer_of(app.media, body_of(invite)))
        for sideband in (early, late):
            opened = await sideband.next()
            assert opened is not None
            assert opened["type"] == "session.created"
            assert (await sideband.until("session.updated"))["session"]["instructions"] == "Hi."
            answered = await sideband.until("rtc_server.sip.state")
            assert (answered["state"], answered["status_code"]) == ("answered", 200)
            await sideband.socket.close()
        await app.media.until(lambda: app.media.pc.connectionState == "connected")
        await app.client.realtime.calls.hangup(made["call_id"])
        await app.phone.request(b"BYE")


@WHERE_CALLS_LIVE
async def test_who_follows_hears_why_nobody_answers(tmp_path: Path, workers: int) -> None:
    async with calling(tmp_path, **{"server.media_workers": workers}) as (app, client):
        _, made = await client.dial()
        invite = await app.phone.request(b"INVITE")
        sideband = await client.follow(made["call_id"])
        assert await sideband.state() == ("ringing", 100)
        app.phone.refuse(invite, b"486 Busy Here")
        assert await sideband.state() == ("failed", 486)
        assert await sideband.next() is None
        assert sideband.socket.close_code == 1000
        with pytest.raises(aiohttp.WSServerHandshakeError) as gone:
            await client.follow(made["call_id"])
        assert gone.value.status == 404


async def test_a_ringing_call_is_hung_up_under_who_follows_it(tmp_path: Path) -> None:
    async with calling(tmp_path) as (app, client):
        _, made = await client.dial()
        app.phone.ring(await app.phone.request(b"INVITE"))
        sideband = await client.follow(made["call_id"])
        await app.client.realtime.calls.hangup(made["call_id"])
        await app.phone.request(b"CANCEL")
        while (event := await sideband.next()) is not None:
            last = event
        assert (last["state"], last["status_code"]) == ("failed", 487)


async def test_an_offer_that_is_forgotten_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtc_server.media.offered.FORGOTTEN_SECONDS", 0.5)
    async with calling(tmp_path) as (app, client):
        _, made = await client.dial()
        app.phone.ring(await app.phone.request(b"INVITE"))
        sideband = await client.follow(made["call_id"])
        await app.phone.request(b"CANCEL")
        while (event := await sideband.next()) is not None:
            assert event["state"] == "ringing"
        assert await app.num_telephones() == 0


async def test_only_its_owner_follows_a_ringing_call_and_not_with_too_many(tmp_path: Path) -> None:
    async with calling(tmp_path) as (_, client):
        _, made = await client.dial()
        sidebands = [await client.follow(made["call_id"]) for _ in range(MAX_SIDEBANDS)]
        for key, status in ((OTHER_KEY, 404), (KEY, 429)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.follow(made["call_id"], key)
            assert refused.value.status == status
        await sidebands[0].socket.close()
        for _ in range(100):  # until the server has seen it leave
            try:
                await client.follow(made["call_id"])
                break
            except aiohttp.WSServerHandshakeError:
                await asyncio.sleep(0.02)
        else:
            raise AssertionError("the place of a sideband that has left is not free")


@WHERE_CALLS_LIVE
async def test_a_call_counts_against_the_quota_while_it_rings_and_talks(tmp_path: Path, workers: int) -> None:
    async with calling(tmp_path, **{"limits.calls_per_key": 1, "server.media_workers": workers}) as (app, client):
        _, made = await client.dial()
        invite = await app.phone.request(b"INVITE")

        async def try_another() -> None:
            status, body = await client.dial()
            assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")

        await try_another()
        assert (await client.dial(OTHER_KEY))[0] == 201
        app.phone.accept(invite, await answer_of(app.media, body_of(invite)))
        await app.media.until(lambda: app.media.pc.connectionState == "connected")
        await try_another()
        telephony = (await app.server_status())["telephony"]
        assert (telephony["calling"], telephony["answered_in"], telephony["answered_out"]) == (1, 0, 1)
        await app.client.realtime.calls.hangup(made["call_id"])
        assert (await client.dial())[0] == 201
