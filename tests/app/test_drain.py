"""A server that is told to end: no new calls, the running ones finish, and then a clean exit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rtc_server.keys import KeysFile
from tests.support.live_call import live_call
from tests.support.running_server import running_server
from tests.support.server_process import server_process
from tests.support.shutdown import ended, exit_code
from tests.support.socket_call import socket_call

SETTINGS = {"server.media_workers": 1, "turns.vad": "webrtcvad"}


async def drain(url: str, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and body of `POST /admin/drain`."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/admin/drain", headers=headers) as reply:
        return reply.status, await reply.json()


async def test_at_the_limit_silent_calls_end_and_a_reply_is_finished() -> None:
    async with (
        running_server(**{"server.drain_timeout_seconds": 0.5, "server.shutdown_timeout_seconds": 20.0}) as url,
        live_call(url) as talking,
        live_call(url) as silent,
    ):
        talking.say("f0_rms.wav")
        await talking.event("output_audio_buffer.started")
        assert (await drain(url))[0] == 202
        await ended(silent)
        assert talking.ended is None
        done = await talking.event("output_audio_buffer.stopped")
        assert done["type"] == "output_audio_buffer.stopped"
        await ended(talking)
        errors = [event["error"]["code"] for event in talking.events if event["type"] == "error"]
        assert errors == ["server_shutdown"]


async def test_a_reply_that_does_not_end_is_cut_when_its_time_is_over() -> None:
    async with (
        running_server(**{"server.drain_timeout_seconds": 0.0, "server.shutdown_timeout_seconds": 0.5}) as url,
        live_call(url) as call,
    ):
        call.say("librivox_0870.wav")
        await call.event("output_audio_buffer.started")
        await drain(url)
        await ended(call)
        assert not [event for event in call.events if event["type"] == "output_audio_buffer.stopped"]


async def test_running_calls_are_changed_watched_and_ended_as_ever_while_the_server_drains() -> None:
    async with (
        running_server(**{"server.drain_timeout_seconds": 60.0}) as url,
        live_call(url) as call,
        aiohttp.ClientSession() as http,
    ):
        assert await drain(url) == (202, {"status": "draining", "calls": 1, "drain_timeout_seconds": 60.0})
        address = f"{url}/v1/realtime/calls/{call.peer.call_id}"
        sideband = f"{url}/v1/realtime?call_id={call.peer.call_id}"
        async with http.ws_connect(sideband) as socket:
            assert (await socket.receive_json())["type"] == "session.created"
        async with http.patch(
            address,
            data="a=ice-ufrag:abcd\r\na=end-of-candidates\r\n",
            headers={"Content-Type": "application/trickle-ice-sdpfrag"},
        ) as reply:
            assert reply.status == 204
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with socket_call(url):
                pass
        assert refused.value.status == 503
        assert await call.is_alive()
        async with http.delete(address) as reply:
            assert reply.status == 200
        await ended(call)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_sigterm_and_ctrl_c_do_not_wait_for_the_calls(number: signal.Signals) -> None:
    with server_process("echo", {**SETTINGS, "server.drain_timeout_seconds": 600.0}) as server:
        async with live_call(server.url) as call:
            server.process.send_signal(signal.SIGTERM)
            await call.event("rtc_server.server.draining")
            server.process.send_signal(number)
            await ended(call)
            assert await exit_code(server) == 0


async def test_a_sigterm_after_a_drain_over_http_waits_as_well() -> None:
    """Kubernetes sends it when the preStop hook is done."""
    with server_process("echo", {**SETTINGS, "server.drain_timeout_seconds": 600.0}) as server:
        async with live_call(server.url) as call:
            await drain(server.url)
            await call.event("rtc_server.server.draining")
            server.process.send_signal(signal.SIGTERM)
            assert await call.is_alive()
        assert await exit_code(server) == 0


async def test_without_calls_a_server_ends_at_once() -> None:
    with server_process("echo", {**SETTINGS, "server.drain_timeout_seconds": 600.0}) as server:
        server.process.send_signal(signal.SIGTERM)
        assert await exit_code(server) == 0


async def test_the_keys_of_operators_drain_the_server_and_no_others(tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys")
    operator, customer = file.add("ops"), file.add("shop")
    async with running_server(**{"auth.keys_file": str(file.path), "auth.admin_keys": ["ops"]}) as url:
        assert (await drain(url))[0] == 401
        status, body = await drain(url, customer)
        assert (status, body["error"]["code"]) == (403, "insufficient_permissions")
        assert (await drain(url, operator))[0] == 202


async def test_callers_of_the_priority_lane_get_the_places_that_are_kept_for_them(tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys")
    premium, plain = file.add("premium"), file.add("plain")
    lanes = {"server.max_calls": 2, "admission.reserved_calls": 1, "admission.priority_keys": ["premium"]}
    async with running_server(**{"auth.keys_file": str(file.path), **lanes}) as url, aiohttp.ClientSession() as http:
        authorized = {"Authorization": f"Bearer {premium}"}
        async with http.post(f"{url}/v1/realtime/client_secrets", json={}, headers=authorized) as reply:
            secret = (await reply.json())["value"]
        async with live_call(url, plain):
            with pytest.raises(Exception, match="1 more are kept for priority callers"):
                async with live_call(url, plain):
                    pass
            async with live_call(url, secret) as call:
                assert await call.is_alive()
