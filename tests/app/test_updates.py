"""PATCH on a call (candidates, ICE restart) and the echo test, over HTTP."""

from __future__ import annotations

import re

import aiohttp
import pytest

from tests.support.live_call import live_call
from tests.support.running_server import running_server
from tests.support.sdp_peer import sdp_peer

FRAGMENT = "application/trickle-ice-sdpfrag"
SDP = {"Content-Type": "application/sdp"}


async def patch(url: str, call_id: str, body: str, content_type: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http:
        target = f"{url}/v1/realtime/calls/{call_id}"
        async with http.patch(target, data=body.encode(), headers={"Content-Type": content_type}) as reply:
            return reply.status, await reply.text()


async def test_candidates_may_come_later() -> None:
    async with running_server() as url, live_call(url) as call:
        assert call.peer.call_id is not None
        body = "a=ice-ufrag:abcd\r\na=candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host\r\na=end-of-candidates\r\n"
        assert await patch(url, call.peer.call_id, body, FRAGMENT) == (204, "")
        assert await call.is_alive()


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        ("a=candidate:1 1 udp 1 127.0.0.1 5 typ host\n" * 200, FRAGMENT, 400, "invalid_sdp"),
        ("nonsense", FRAGMENT, 400, "invalid_sdp"),
        ("x" * 20_000, FRAGMENT, 413, "sdp_too_large"),
        ("v=0", "application/sdp", 400, "invalid_sdp"),
        ("{}", "application/json", 415, "unsupported_media_type"),
    ],
)
async def test_a_bad_update_is_refused_and_the_call_lives(body: str, content_type: str, status: int, code: str) -> None:
    async with running_server() as url, live_call(url) as call:
        assert call.peer.call_id is not None
        answer = await patch(url, call.peer.call_id, body, content_type)
        assert answer[0] == status
        assert f'"{code}"' in answer[1]
        assert await call.is_alive()


async def test_the_ice_session_has_a_tag_as_in_whip() -> None:
    async with running_server() as url, aiohttp.ClientSession() as http, sdp_peer() as peer:
        offer = await peer.offer()
        async with http.post(f"{url}/v1/realtime/calls", data=offer.encode(), headers=SDP) as reply:
            assert reply.headers["Accept-Patch"] == f"application/sdp, {FRAGMENT}"
            first, target = reply.headers["ETag"], url + reply.headers["Location"]
            await peer.accept(await reply.text())

        async def change(body: str, content_type: str, tag: str | None) -> tuple[int, str | None, str]:
            headers = {"Content-Type": content_type} | ({} if tag is None else {"If-Match": tag})
            async with http.patch(target, data=body.encode(), headers=headers) as reply:
                return reply.status, reply.headers.get("ETag"), await reply.text()

        credentials = re.findall(r"a=ice-(?:ufrag|pwd):.*", offer)
        ended = "\r\n".join([*credentials[:2], "a=end-of-candidates", ""]).replace("\r\r", "\r")
        assert await change(ended, FRAGMENT, first) == (204, None, "")
        assert (await change(ended, FRAGMENT, '"another"'))[0] == 412
        assert (await change(offer, "application/sdp", '"another"'))[0] == 412
        restarted = offer.replace(credentials[0].strip(), "a=ice-ufrag:anew")
        status, second, answer = await change(restarted, "application/sdp", first)
        assert status == 200
        assert second is not None
        assert second != first
        assert f"a=ice-ufrag:{second.strip(chr(34))}\r\n" in answer
        assert (await change(restarted, "application/sdp", "*"))[1] == second, "a repeated offer changes nothing"
        assert (await change(ended, FRAGMENT, first))[0] == 412
        assert (await change(ended, FRAGMENT, None))[0] == 204, "late, of the session before: ignored"
        fragment = "a=ice-ufrag:third\r\na=ice-pwd:0123456789012345678901\r\n"
        assert (await change(fragment, FRAGMENT, second))[0] == 204, "too early: ignored"
        assert (await change(fragment, FRAGMENT, None))[0] == 428
        status, third, answer = await change(fragment, FRAGMENT, "*")
        assert (status, third != second) == (200, True)
        assert f"a=ice-ufrag:{str(third).strip(chr(34))}\r\n" in answer


async def test_an_update_of_no_call_is_not_found() -> None:
    async with running_server() as url:
        assert (await patch(url, "rtc_none", "a=end-of-candidates", FRAGMENT))[0] == 404


async def test_the_echo_test_is_off_until_the_operator_turns_it_on() -> None:
    headers = {"Content-Type": "application/sdp"}
    async with (
        running_server() as url,
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/echo", data=b"v=0", headers=headers) as reply,
    ):
        assert reply.status == 404
        assert "server.echo_test" in await reply.text()
