"""`POST /v1/realtime/calls` in all its forms; what of telephone calls is refused without any."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.support.running_server import running_server
from tests.support.sdp_peer import sdp_peer
from tests.transports.test_sdp import offer

SDP = {"Content-Type": "application/sdp"}
SESSION = {"type": "realtime", "instructions": "Be brief.", "audio": {"input": {"turn_detection": None}}}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running_server() as address:
        yield address


def as_form(style: str, sdp: str, session: object | None) -> aiohttp.MultipartWriter:
    """As openai-python (typed, no file name), curl's plain fields, or curl's files."""
    form = aiohttp.MultipartWriter("form-data")
    contents = [("sdp", sdp, "application/sdp")]
    if session is not None:
        contents.append(("session", json.dumps(session), "application/json"))
    for name, content, kind in contents:
        part = form.append(content.encode(), {"Content-Type": kind})
        if style == "plain field":
            del part.headers["Content-Type"]
        if style == "file":
            part.set_content_disposition("form-data", name=name, filename=f"{name}.txt")
        else:
            part.set_content_disposition("form-data", name=name)
    return form


@pytest.mark.parametrize("style", ["typed", "plain field", "file"])
async def test_a_form_starts_a_call_with_its_session(http: aiohttp.ClientSession, url: str, style: str) -> None:
    async with sdp_peer() as peer:
        async with http.post(
            f"{url}/v1/realtime/calls", data=as_form(style, await peer.offer(), SESSION), headers={"Origin": url}
        ) as reply:
            answer = await reply.text()
            assert reply.status == 201, answer
            assert reply.content_type == "application/sdp"
            assert reply.headers["Location"].startswith("/v1/realtime/calls/rtc_")
            assert "Location" in reply.headers["Access-Control-Expose-Headers"]
        await peer.accept(answer)
        session = (await peer.message("session.created"))["session"]
        assert session["instructions"] == "Be brief."
        assert session["audio"]["input"]["turn_detection"] is None


@pytest.mark.parametrize(
    ("session", "status", "code", "param"),
    [
        ({"type": "realtime", "audio": {"output": {"speed": 99}}}, 400, "invalid_value", "session.audio.output.speed"),
        ({"type": "realtime", "colour": "red"}, 400, "unknown_parameter", "session.colour"),
        ({"type": "realtime", "model": "nothing"}, 404, "model_not_found", "model"),
        ([], 400, "invalid_value", "session"),
    ],
)
async def test_a_bad_session_is_refused_before_there_is_a_call(
    http: aiohttp.ClientSession, url: str, session: Any, status: int, code: str, param: str
) -> None:
    form = as_form("typed", offer().decode(), session)
    async with http.post(f"{url}/v1/realtime/calls", data=form) as reply:
        error = (await reply.json())["error"]
        assert (reply.status, error["code"], error["param"]) == (status, code, param)
    async with http.get(f"{url}/v1/info") as reply:
        assert (await reply.json())["calls"] == 0


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"session": "{}"}, 400, "missing_required_parameter"),
        ({"sdp": "v=0", "session": "{"}, 400, "invalid_json"),
        ({"sdp": "v=0", "tools": "[]"}, 400, "unknown_parameter"),
        ({"sdp": "v=0"}, 400, "invalid_sdp"),
        ({"sdp": "v=0\r\n" + "a=x\r\n" * 7_000}, 413, "sdp_too_large"),
        ({"sdp": "x" * 1_000_000}, 413, "request_too_large"),
    ],
)
async def test_a_bad_form_is_refused(
    http: aiohttp.ClientSession, url: str, fields: dict[str, str], status: int, code: str
) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value)
    async with http.post(f"{url}/v1/realtime/calls", data=form) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (status, code)


async def test_a_raw_offer_may_name_its_charset_and_the_model(http: aiohttp.ClientSession, url: str) -> None:
    headers = {"Content-Type": "application/sdp; charset=utf-8"}
    for path in ("/v1/realtime/calls?model=echo", "/v1/realtime?model=echo"):
        async with http.post(url + path, data=offer(), headers=headers) as reply:
            assert reply.status == 201
            assert reply.headers["Location"].startswith("/v1/realtime/calls/rtc_")
    async with http.post(f"{url}/v1/realtime/calls?model=gpt-99", data=offer(), headers=headers) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (404, "model_not_found")


async def test_a_client_of_the_beta_gets_the_names_it_knows(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer() as peer:
        headers = {**SDP, "OpenAI-Beta": "something, realtime=v1"}
        async with http.post(
            f"{url}/v1/realtime?model=echo", data=(await peer.offer()).encode(), headers=headers
        ) as reply:
            await peer.accept(await reply.text())
        assert "modalities" in (await peer.message("session.created"))["session"]
        peer.say("f0_rms.wav")
        await peer.message("conversation.item.created")
        await peer.message("response.audio_transcript.done")


@pytest.mark.parametrize(
    ("action", "body", "status", "code"),
    [
        ("accept", {"type": "realtime"}, 409, "call_not_ringing"),
        ("accept", {"type": "realtime", "colour": 1}, 400, "unknown_parameter"),
        ("accept", None, 400, "invalid_json"),
        ("reject", None, 409, "call_not_ringing"),
        ("reject", {"status_code": 486}, 409, "call_not_ringing"),
        ("reject", {"status_code": 200}, 400, "invalid_value"),
        ("refer", {"target_uri": "tel:+14155550123"}, 409, "call_not_ringing"),
        ("refer", {"target_uri": "https://example.org"}, 400, "invalid_value"),
        ("refer", {"target_uri": "tel:"}, 400, "invalid_value"),
        ("refer", {}, 400, "invalid_value"),
    ],
)
async def test_only_a_ringing_call_can_be_answered(
    http: aiohttp.ClientSession, url: str, action: str, body: object, status: int, code: str
) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    async with http.post(f"{url}/v1/realtime/calls/rtc_none/{action}", data=data) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (404, "call_id_not_found")
    async with http.post(f"{url}/v1/realtime/calls", data=offer(), headers=SDP) as reply:
        location = reply.headers["Location"]
    async with http.post(f"{url}{location}/{action}", data=data) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"target_uri": "tel:+493012345"}, 404, "not_enabled", None),
        ({"target_uri": "https://example.org"}, 400, "invalid_value", "target_uri"),
        ({"target_uri": "tel:+49", "session": 1}, 400, "invalid_value", "session"),
        ({"target": "tel:+49"}, 400, "unknown_parameter", "target"),
        ({}, 400, "invalid_value", "target_uri"),
        ([], 400, "invalid_json", None),
    ],
)
async def test_json_calls_a_telephone_where_there_are_telephone_calls(
    http: aiohttp.ClientSession, url: str, body: object, status: int, code: str, param: str | None
) -> None:
    async with http.post(f"{url}/v1/realtime/calls", json=body) as reply:
        error = (await reply.json())["error"]
        assert (reply.status, error["code"], error["param"]) == (status, code, param)
