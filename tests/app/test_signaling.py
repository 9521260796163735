"""The HTTP surface against a real server: good offers are answered, bad ones get the documented error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

from rtc_server.app.page import Shell
from rtc_server.network.addresses import host_addresses
from tests.support.running_server import running_server
from tests.transports.test_sdp import offer

SDP = {"Content-Type": "application/sdp"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running_server(**{"server.max_calls": 2}) as address:
        yield address


async def calls(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(f"{url}/v1/info") as reply:
        return int((await reply.json())["calls"])


async def until_idle(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(10):
        while await calls(http, url):  # noqa: ASYNC110 - the server is asked, there is no event to wait for
            await asyncio.sleep(0.05)


async def peer_with_offer() -> tuple[RTCPeerConnection, str]:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTrack(AudioStreamTrack())
    peer.createDataChannel("oai-events")
    with host_addresses(["127.0.0.1"]):
        await peer.setLocalDescription(await peer.createOffer())
    return peer, peer.localDescription.sdp


async def error_of(reply: aiohttp.ClientResponse) -> dict[str, Any]:
    body = json.loads(await reply.text())
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    return dict(body["error"])


async def test_a_call_is_created_answered_and_deleted(http: aiohttp.ClientSession, url: str) -> None:
    peer, sdp = await peer_with_offer()
    async with http.post(f"{url}/v1/realtime/calls", data=sdp.encode(), headers=SDP) as reply:
        assert reply.status == 201
        assert reply.content_type == "application/sdp"
        location = reply.headers["Location"]
        answer = await reply.text()
    assert location.startswith("/v1/realtime/calls/rtc_")
    connected = asyncio.Event()
    peer.on("connectionstatechange", lambda: peer.connectionState == "connected" and connected.set())
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await asyncio.wait_for(connected.wait(), 10)
    assert await calls(http, url) == 1
    async with http.delete(url + location) as reply:
        assert reply.status == 200
    await until_idle(http, url)
    async with http.delete(url + location) as reply:
        assert reply.status == 404
        assert (await error_of(reply))["code"] == "call_id_not_found"
    await peer.close()


async def test_the_json_form_answers_the_same(http: aiohttp.ClientSession, url: str) -> None:
    peer, sdp = await peer_with_offer()
    async with http.post(f"{url}/api/offer", json={"sdp": sdp, "type": "offer"}) as reply:
        assert reply.status == 200
        body = await reply.json()
    assert body["type"] == "answer"
    assert body["sdp"].startswith("v=0")
    async with http.post(f"{url}/v1/realtime/calls/{body['pc_id']}/hangup") as reply:
        assert reply.status == 200
    await until_idle(http, url)
    await peer.close()


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        pytest.param(b"", "application/sdp", 400, "invalid_sdp", id="empty"),
        pytest.param(b"\x00\xff" * 50, "application/sdp", 400, "invalid_sdp", id="garbage"),
        pytest.param(offer().replace(b"m=audio", b"m=video"), "application/sdp", 400, "invalid_sdp", id="video-only"),
        pytest.param(offer(drop=("a=fingerprint",)), "application/sdp", 400, "invalid_sdp", id="no-fingerprint"),
        pytest.param(b"v=0\r\n" + b"a=x\r\n" * 8000, "application/sdp", 413, "sdp_too_large", id="40-kilobytes"),
        pytest.param(b"v=0\r\n" + b"a" * 1_000_000, "application/sdp", 413, "request_too_large", id="1-megabyte"),
        pytest.param(offer(), "text/plain", 415, "unsupported_media_type", id="wrong-content-type"),
        pytest.param(offer(), "", 415, "unsupported_media_type", id="no-content-type"),
    ],
)
async def test_bad_offers_get_the_documented_error(
    http: aiohttp.ClientSession, url: str, body: bytes, content_type: str, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    async with http.post(f"{url}/v1/realtime/calls", data=body, headers=headers) as reply:
        assert reply.status == status
        assert (await error_of(reply))["code"] == code
    assert await calls(http, url) == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"{", 400, "invalid_json", id="malformed"),
        pytest.param(b"[]", 400, "invalid_sdp", id="array"),
        pytest.param(b'{"type":"answer","sdp":""}', 400, "invalid_sdp", id="an-answer"),
        pytest.param(b'{"type":"offer","sdp":7}', 400, "invalid_sdp", id="sdp-is-a-number"),
        pytest.param(b'{"type":"offer","sdp":"\\ud800"}', 400, "invalid_sdp", id="lone-surrogate"),
    ],
)
async def test_bad_json_offers_get_the_documented_error(
    http: aiohttp.ClientSession, url: str, body: bytes, status: int, code: str
) -> None:
    async with http.post(f"{url}/api/offer", data=body, headers={"Content-Type": "application/json"}) as reply:
        assert reply.status == status
        assert (await error_of(reply))["code"] == code


async def test_a_full_server_refuses_politely_and_recovers(http: aiohttp.ClientSession) -> None:
    async with running_server(**{"server.max_calls": 1}) as url:
        peer, sdp = await peer_with_offer()
        async with http.post(f"{url}/v1/realtime/calls", data=sdp.encode(), headers=SDP) as reply:
            location = reply.headers["Location"]
        async with http.post(f"{url}/v1/realtime/calls", data=sdp.encode(), headers=SDP) as reply:
            assert reply.status == 503
            assert int(reply.headers["Retry-After"]) > 0
            assert (await error_of(reply))["code"] == "server_full"
        async with http.get(f"{url}/readyz") as reply:
            assert reply.status == 503
            assert (await reply.json())["reason"] == "server_full"
        async with http.delete(url + location):
            pass
        await until_idle(http, url)
        async with http.get(f"{url}/readyz") as reply:
            assert reply.status == 200
        await peer.close()


async def test_a_call_that_never_connects_gives_its_slot_back(http: aiohttp.ClientSession) -> None:
    async with running_server(**{"server.setup_timeout_seconds": 1.0}) as url:
        async with http.post(f"{url}/v1/realtime/calls", data=offer(), headers=SDP) as reply:
            assert reply.status == 201
        assert await calls(http, url) == 1
        await until_idle(http, url)


async def test_unknown_paths_and_methods_answer_in_the_same_shape(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(f"{url}/nowhere") as reply:
        assert reply.status == 404
        assert (await error_of(reply))["code"] == "not_found"
    async with http.get(f"{url}/v1/realtime/calls") as reply:
        assert reply.status == 405
        assert "POST" in reply.headers["Allow"]
    async with http.get(f"{url}/static/../../pyproject.toml") as reply:
        assert reply.status == 404


async def test_the_page_is_served_and_never_stale(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(f"{url}/") as reply:
        assert reply.content_type == "text/html"
        assert reply.headers["Cache-Control"] == "no-cache"
    async with http.get(f"{url}/static/js/main.js") as reply:
        assert reply.status == 200
        assert reply.headers["Cache-Control"] == "no-cache"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/service-worker.js", "text/javascript"),
        ("/static/manifest.webmanifest", "application/manifest+json"),
        ("/static/icons/icon-192.png", "image/png"),
        ("/static/favicon.svg", "image/svg+xml"),
    ],
)
async def test_what_an_installed_page_is_made_of_has_its_types_and_is_never_stale(
    http: aiohttp.ClientSession, url: str, path: str, content_type: str
) -> None:
    async with http.get(url + path) as reply:
        assert reply.status == 200
        assert reply.content_type == content_type
        assert reply.headers["Cache-Control"] == "no-cache"
        policy = reply.headers["Content-Security-Policy"]
    assert {"manifest-src 'self'", "worker-src 'self'"} <= set(policy.split("; "))


def test_the_version_of_the_page_follows_the_content_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    for name, text in {"service-worker.js": "work()", "index.html": "<p>", "js/main.js": "main()"}.items():
        (tmp_path / name).write_text(text)
    shell = Shell(tmp_path)

    def told() -> dict[str, object]:
        first, rest = shell.worker().split("\n", 1)
        assert rest == (tmp_path / "service-worker.js").read_text()
        found: dict[str, object] = json.loads(first.removeprefix("const SHELL = ").removesuffix(";"))
        return found

    before = told()
    assert before["files"] == ["./", "static/js/main.js"]
    assert told() == before
    versions = {before["version"]}
    (tmp_path / "js/main.js").write_text("other()")
    versions.add(told()["version"])
    (tmp_path / "service-worker.js").write_text("rest()")
    versions.add(told()["version"])
    (tmp_path / "js/main.js").rename(tmp_path / "js/more.js")
    versions.add(told()["version"])
    assert len(versions) == 4


async def test_health_info_models_and_metrics(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(f"{url}/healthz") as reply:
        assert await reply.json() == {"status": "ok"}
        assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    async with http.get(f"{url}/v1/models") as reply:
        assert (await reply.json())["data"][0]["id"] == "echo"
    async with http.get(f"{url}/metrics") as reply:
        text = await reply.text()
    assert "rtc_server_calls 0.0" in text
    assert "rtc_server_playout_lateness_seconds_bucket" in text
