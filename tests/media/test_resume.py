"""A session outlives its call: whatever takes the call away, its client goes on with the history where it was."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import psutil
import pytest

from rtc_server.calls.snapshot_timer import SETTLE_SECONDS
from rtc_server.client.errors import CallError
from rtc_server.client.recording import load_recording
from tests.support.live_call import SPEECH, LiveCall, live_call
from tests.support.running_server import running_server
from tests.support.sdp_peer import sdp_peer
from tests.support.server_process import ServerProcess, server_process
from tests.support.socket_call import socket_call

TEXT_ONLY = {"type": "realtime", "output_modalities": ["text"]}


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    settings = {"server.media_workers": 2, "turns.vad": "webrtcvad", "server.tls": False}
    with server_process("echo", settings=settings) as process:
        yield process


@pytest.fixture
async def local() -> AsyncIterator[str]:
    """One process, which is quicker."""
    async with running_server() as url:
        yield url


def worker_of(server: ServerProcess, call: LiveCall) -> psutil.Process:
    connection = call.peer.pc.getTransceivers()[0].sender.transport.transport._connection
    port: int = connection._nominated[1].remote_addr[1]
    children = psutil.Process(server.process.pid).children()
    workers = [child for child in children if "rtc_server.media.worker" in child.cmdline()]
    return next(w for w in workers if any(c.laddr.port == port for c in w.net_connections("udp")))


async def talk(call: Any) -> str:
    """The caller says something and reads the answer; the echo tells how long it was."""
    done = len([event for event in call.events if event["type"] == "response.done"])
    call.say("f0_rms.wav")
    await call.event("response.done", done + 1)
    answer: str = (await call.event("response.output_text.done", done + 1))["text"]
    assert answer.startswith("I heard ")
    return answer


async def snapshot_taken(server: ServerProcess, call: LiveCall) -> None:
    """What has just been said is in the store: its time has come, and both processes have worked on since."""
    await asyncio.sleep(SETTLE_SECONDS)
    assert await call.is_alive()
    assert await asyncio.to_thread(lambda: server.num_calls) == 1


async def test_a_killed_media_worker_takes_the_call_and_not_the_session(server: ServerProcess) -> None:
    async with live_call(server.url) as lost:
        lost.peer.send({"type": "session.update", "session": TEXT_ONLY})
        await lost.event("session.updated")
        answer = await talk(lost)
        first = (await lost.event("conversation.item.done", 2))["item"]["id"]
        resumable = await lost.event("rtc_server.session.resumable")
        assert resumable["resume_token"] == lost.peer.resume_token
        assert (resumable["resumed"], resumable["num_items"], resumable["keep_seconds"]) == (False, 0, 90.0)
        await snapshot_taken(server, lost)
        killed = worker_of(server, lost)
        killed.send_signal(signal.SIGKILL)
        await asyncio.to_thread(server.wait_for_calls, 0)
        async with live_call(server.url, resume=lost.peer.resume_token) as call:
            assert worker_of(server, call).pid != killed.pid
            assert call.peer.call_id != lost.peer.call_id
            assert call.peer.resume_token == lost.peer.resume_token
            created = (await call.event("session.created"))["session"]
            assert created["id"] == (await lost.event("session.created"))["session"]["id"]
            assert created["output_modalities"] == ["text"]
            item = (await call.event("conversation.item.done"))["item"]
            assert (item["id"], item["content"][0]["text"]) == (first, answer)
            assert (await call.event("rtc_server.session.resumable"))["resumed"] is True
            # The engine gets the history: without a word of the user's it answers the last item that it was told.
            call.peer.send({"type": "response.create"})
            assert (await call.event("response.output_text.done"))["text"] == answer
            await talk(call)
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_a_call_that_still_runs_hands_its_session_over(server: ServerProcess) -> None:
    """The client's network is gone, and the server has not noticed."""
    async with live_call(server.url) as old:
        old.peer.send({"type": "session.update", "session": TEXT_ONLY})
        answer = await talk(old)
        async with live_call(server.url, resume=old.peer.resume_token) as call:
            assert (await call.event("conversation.item.done"))["item"]["content"][0]["text"] == answer
            async with asyncio.timeout(10):
                while old.ended is None:
                    old._news.clear()
                    await old._news.wait()
            assert [event["error"]["code"] for event in old.events if event["type"] == "error"] == ["session_resumed"]
            assert server.num_calls == 1
            assert await call.is_alive()


async def test_a_full_server_has_room_for_a_call_in_place_of_itself() -> None:
    async with (
        running_server(**{"server.max_calls": 1}) as url,
        live_call(url) as old,
        live_call(url, resume=old.peer.resume_token) as call,
    ):
        assert await call.is_alive()


async def test_who_hangs_up_ends_the_session(local: str) -> None:
    async with live_call(local) as call:
        token = call.peer.resume_token
    with pytest.raises(CallError, match=r"404.*Start a new call without it"):
        async with live_call(local, resume=token):
            pass


async def test_a_resumed_call_that_never_connects_leaves_the_session_to_the_next(local: str) -> None:
    async with live_call(local) as lost, sdp_peer() as silent, aiohttp.ClientSession() as http:
        offer, headers = (await silent.offer()).encode(), {"Content-Type": "application/sdp"}
        target = f"{local}/v1/realtime/calls?resume={lost.peer.resume_token}"
        async with http.post(target, data=offer, headers=headers) as reply:
            assert reply.status == 201
            location = reply.headers["Location"]
        async with http.delete(local + location) as reply:
            assert reply.status == 200
        async with http.post(target, data=b"nonsense", headers=headers) as reply:
            assert reply.status == 400
        async with live_call(local, resume=lost.peer.resume_token) as call:
            assert await call.is_alive()


async def test_a_socket_that_breaks_can_be_gone_on_with_and_one_that_is_closed_cannot(local: str) -> None:
    async with socket_call(local) as broken:
        resumable = await broken.event("rtc_server.session.resumable")
        token = resumable["resume_token"]
        assert broken.headers["Resume-Token"] == token
        await broken.send("session.update", session=TEXT_ONLY)
        await broken.say(load_recording(SPEECH / "f0_rms.wav").pcm)
        answer = (await broken.event("response.output_text.done"))["text"]
        broken.socket._response.connection.transport.abort()
        async with socket_call(local, f"resume={token}") as call:
            assert (await call.event("conversation.item.done"))["item"]["content"][0]["text"] == answer
            await call.send("response.create")
            assert (await call.event("response.output_text.done"))["text"] == answer
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with socket_call(local, f"resume={token}"):
            pass
    assert refused.value.status == 404


async def test_a_session_moves_from_a_socket_to_webrtc_and_whip(local: str) -> None:
    async with socket_call(local) as first, aiohttp.ClientSession() as http:
        token = first.headers["Resume-Token"]
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Remember 42."}]}
        await first.send("conversation.item.create", item=item)
        await first.event("conversation.item.done")
        async with live_call(local, resume=token) as second, sdp_peer() as third:
            assert await first.closed() == 1000
            told = (await second.event("conversation.item.done"))["item"]
            assert told["content"][0]["text"] == "Remember 42."
            offer, headers = (await third.offer()).encode(), {"Content-Type": "application/sdp"}
            async with http.post(f"{local}/whip?resume={token}", data=offer, headers=headers) as reply:
                assert reply.status == 201
                assert reply.headers["Resume-Token"] == token
                await third.accept(await reply.text())
            async with http.post(f"{local}/whip?resume=rsm_unknown", data=offer, headers=headers) as reply:
                assert (reply.status, (await reply.json())["code"]) == (404, "resume_not_found")


async def test_another_keys_token_is_as_good_as_none() -> None:
    ours, theirs = "sk-rtc-" + "a" * 43, "sk-rtc-" + "b" * 43
    async with running_server(**{"auth.api_keys": [ours, theirs]}) as url, live_call(url, ours) as call:
        refusals = []
        for token in (call.peer.resume_token, "rsm_unknown"):
            with pytest.raises(CallError) as refused:
                async with live_call(url, theirs, token):
                    pass
            refusals.append(str(refused.value))
        assert refusals[0] == refusals[1]
        assert await call.is_alive(), "and the call was not disturbed"
        async with live_call(url, ours, call.peer.resume_token) as again:
            assert await again.is_alive()


async def test_nothing_is_kept_where_it_is_off() -> None:
    async with running_server(**{"session.resume_seconds": 0.0}) as url, live_call(url) as call:
        assert call.peer.resume_token is None
        assert await call.is_alive()
        assert [event["type"] for event in call.events[:2]] == ["session.created", "conversation.created"]
        assert "rtc_server.session.resumable" not in {event["type"] for event in call.events}
        with pytest.raises(CallError, match=r"session\.resume_seconds"):
            async with live_call(url, resume="rsm_any"):
                pass


async def test_a_sideband_learns_no_token_and_resumes_nothing(local: str) -> None:
    async with live_call(local) as call:
        async with socket_call(local, f"call_id={call.peer.call_id}") as sideband:
            assert await sideband.is_alive()
            assert "rtc_server.session.resumable" not in sideband.kinds()
            assert "Resume-Token" not in sideband.headers
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with socket_call(local, f"call_id={call.peer.call_id}&resume={call.peer.resume_token}"):
                pass
        assert refused.value.status == 400
