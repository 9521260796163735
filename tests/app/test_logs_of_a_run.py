"""The whole log of a real server, all its processes at debug: it names calls, and tells nothing of them."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest

from tests.support.live_call import LiveCall, live_call
from tests.support.otlp_collector import collecting
from tests.support.server_process import ServerProcess, server_process

KEY = "sk_0123456789abcdefghijklmnop"
INSTRUCTIONS = "Answer as the lighthouse keeper Zebulon would."
TYPED = "My bicycle is called Rosinante."
MARKS = (INSTRUCTIONS, "Zebulon", TYPED, "Rosinante", "sk_0123456789", "Bearer", "a=ice-pwd", "m=audio", "v=0")


async def a_call_of_every_kind(server: ServerProcess) -> list[str]:
    """A spoken turn with instructions, a typed one, a refused key, an ephemeral secret. Returns what must stay out."""
    private: list[str] = []
    async with live_call(server.url, KEY) as call:
        session = {"type": "realtime", "instructions": INSTRUCTIONS}
        call.peer.send({"type": "session.update", "session": session})
        await call.event("session.updated")
        call.say("f0_rms.wav")
        await call.event("rtc_server.turn.metrics", timeout_s=60)
        await call.event("response.done", timeout_s=60)
        await said_in_text(call)
        call.peer.send({"type": "nonsense", "text": TYPED})
        await call.event("error")
        private += words_of(call.events)
        private.append((await call.event("rtc_server.session.resumable"))["resume_token"])
        descriptions = call.peer.pc.localDescription.sdp, call.peer.pc.remoteDescription.sdp
        private += [found for sdp in descriptions for found in re.findall(r"a=(?:ice-pwd|fingerprint):(\S.+)", sdp)]
    async with aiohttp.ClientSession() as http:
        secrets = f"{server.url}/v1/realtime/client_secrets"
        async with http.post(secrets, headers={"Authorization": f"Bearer {KEY}"}, json={}) as reply:
            secret = (await reply.json())["value"]
        async with http.post(secrets, headers={"Authorization": "Bearer sk_somebody_elses_key"}, json={}) as reply:
            assert reply.status == 401
        offers = f"{server.url}/v1/realtime/calls"
        async with http.post(offers, headers={"Authorization": f"Bearer {secret}"}, data=b"v=0\r\nnonsense") as reply:
            assert reply.status in (400, 415)
        url = f"{server.url}/v1/realtime?model={TYPED}"
        async with http.get(url, headers={"Authorization": f"Bearer {secret}"}) as reply:
            assert reply.status >= 400
    return [*private, secret, "sk_somebody_elses_key"]


async def said_in_text(call: LiveCall) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TYPED}]}
    call.peer.send({"type": "conversation.item.create", "item": item})
    done = sum(event["type"] == "response.done" for event in call.events)
    call.peer.send({"type": "response.create", "response": {"output_modalities": ["text"]}})
    await call.event("response.done", done + 1, timeout_s=60)


def words_of(events: list[dict[str, Any]]) -> list[str]:
    """What was said in the call, as its events tell it."""
    found = [event.get("transcript") or event.get("text") for event in events]
    return [text for text in found if isinstance(text, str) and len(text) > 8]


def fields_of(line: str, log_format: str) -> dict[str, Any]:
    """A line's logger, message and fields."""
    if log_format == "json":
        return dict(json.loads(line))
    _, _, logger, rest = line.split(" ", 3)
    return {"logger": logger.removesuffix(":"), "message": rest, **dict(re.findall(r"(\w+)=(\S+)", rest))}


async def log_of_a_run(log_format: str, backend: str) -> tuple[list[str], list[str]]:
    """The lines of a server from start to end, and what must not be in them."""
    async with collecting() as collector:
        settings: dict[str, Any] = {
            "logging.level": "debug",
            "logging.format": log_format,
            "auth.api_keys": [KEY],
            "server.media_workers": 1,
            "turns.vad": "webrtcvad",
            "tracing.enabled": True,
            "tracing.otlp_endpoint": collector.url,
        }
        context = server_process(backend, settings)
        server = await asyncio.to_thread(context.__enter__)
        try:
            private = await a_call_of_every_kind(server)
            await asyncio.to_thread(server.stop)
            return server.log.splitlines(), private
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


@pytest.mark.parametrize(("log_format", "backend"), [("text", "echo"), ("json", "cascade")])
async def test_the_log_names_every_call_and_holds_nothing_of_it(log_format: str, backend: str) -> None:
    lines, private = await log_of_a_run(log_format, backend)
    text = "\n".join(lines)
    assert len(private) > 5
    for secret in (*MARKS, *private):
        assert secret not in text, f"{secret!r} stands in: {next(line for line in lines if secret in line)}"

    ours = [
        fields_of(line, log_format) for line in lines if "rtc_server." in line and not line.startswith("rtc-server")
    ]
    about_calls = [line for line in ours if line["logger"].startswith("rtc_server.calls.")]
    messages = {line["message"].split(" call_id=")[0] for line in about_calls}
    assert {"call started", "response asked for", "turn answered", "response over", "call ended"} <= messages
    for line in about_calls:
        assert line["call_id"].startswith("rtc_"), line
        assert re.fullmatch("[0-9a-f]{32}", line["trace_id"]), line
        if "response" in line["message"]:
            assert line["response_id"].startswith("resp_"), line
    asked = [line for line in ours if line["logger"] == "rtc_server.inference.host"]
    assert asked, "the engine's process logs too"
    for line in asked:
        assert line["response_id"].startswith("resp_")
        assert line["call_id"] == about_calls[0]["call_id"]
        assert line["trace_id"] == about_calls[0]["trace_id"]
