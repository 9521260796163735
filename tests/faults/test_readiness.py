"""What /readyz says of a server whose parts stand still, and what the router learns from gaps in replies."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from tests.support.faults import engine, paused
from tests.support.live_call import live_call
from tests.support.server_process import ServerProcess, server_process

SETTINGS = {"server.media_workers": 1, "turns.vad": "webrtcvad", "engine.answer_timeout_seconds": 0.5}
LIMIT_SECONDS = 5.0  # half a second of silence, at most a second until the next ping, and a slow machine


async def readiness(server: ServerProcess, reason: str | None, timeout_s: float = LIMIT_SECONDS) -> dict[str, Any]:
    """The body of /readyz once it gives this reason. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            status, body = await asyncio.to_thread(server.get_json, "/readyz")
            assert (status == 200) == (body["reason"] is None)
            if body["reason"] == reason:
                return body
            await asyncio.sleep(0.05)


async def test_an_engine_that_stands_still_makes_the_server_unready_and_ready_again_when_it_goes_on() -> None:
    with server_process("echo", SETTINGS) as server:
        checks = (await readiness(server, None))["checks"]
        assert list(checks) == ["not_draining", "models", "engine", "media", "certificate", "capacity"]
        assert all(check["ok"] for check in checks.values())
        with paused(engine(server)):
            body = await readiness(server, "engine_silent")
            assert body["checks"]["engine"]["silent_seconds"] >= 0.5
            assert body["checks"]["models"]["ok"]
            assert body["engine_ready"] is True
            assert await asyncio.to_thread(server.get_json, "/healthz") == (200, {"status": "ok"})
        await readiness(server, None)
        assert (await asyncio.to_thread(server.get_json, "/readyz"))[1]["engine_restarts"] == 0


async def test_gaps_in_the_replies_of_media_workers_let_fewer_calls_in() -> None:
    settings = {**SETTINGS, "server.media_workers": 2, "engine.answer_timeout_seconds": 60.0}
    with server_process("echo", settings) as server:
        async with AsyncExitStack() as stack:
            calls = [await stack.enter_async_context(live_call(server.url)) for _ in range(4)]
            for call in calls:
                call.say("librivox_0870.wav")
            for call in calls:
                await call.event("output_audio_buffer.started")
            with paused(engine(server)):  # it has sent as much as it may; the rest of each reply is missed
                body = await readiness(server, "server_full", timeout_s=20.0)
            assert body["max_calls"] == body["checks"]["capacity"]["live_limit"] == 3
            assert "replies run dry" in server.log
