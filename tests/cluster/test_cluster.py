"""Two media nodes and two workers on a Ray of their own: where calls go, and what is left when a part is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import psutil
import pytest

from rtc_server.calls.snapshot_timer import SETTLE_SECONDS
from rtc_server.client.errors import CallError
from tests.support.cluster_process import ClusterProcess, cluster_process
from tests.support.live_call import LiveCall, live_call

NUM_CALLS = 20
SHORT, LONG = "f1_rms.wav", "librivox_0870.wav"  # 2 s; 7 s, for a reply that is still being made when a worker dies


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterProcess]:
    with cluster_process("--media-nodes", "2", "--workers", "2") as process:
        yield process


async def until(holds: Callable[[], object], what: str, timeout_s: float = 40.0) -> None:
    """Wait for something in another process."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await asyncio.to_thread(holds):
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def calls(cluster: ClusterProcess, num: int) -> AsyncIterator[list[LiveCall]]:
    """So many calls, one after the other; all have ended at the end."""
    await until(lambda: is_whole(cluster), "every node and both workers are there, without calls")
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(live_call(cluster.url)) for _ in range(num)]


def is_whole(cluster: ClusterProcess) -> bool:
    nodes, workers = cluster.nodes().values(), cluster.workers()
    ready = sum(bool(worker["ready"]) for worker in workers)
    return len(nodes) == 2 and all(node["ready"] and not node["calls"] for node in nodes) and ready == 2


def statuses(call: LiveCall) -> list[str]:
    return [event["response"]["status"] for event in call.events if event["type"] == "response.done"]


async def have_a_turn(call: LiveCall) -> None:
    """Say something, and hear the whole reply."""
    num = len(statuses(call))
    call.say(SHORT)
    done = await call.event("response.done", num + 1)
    assert done["response"]["status"] == "completed", done


async def test_twenty_calls_are_spread_over_both_nodes(cluster: ClusterProcess) -> None:
    async with calls(cluster, NUM_CALLS) as found:
        half = NUM_CALLS // 2
        await until(
            lambda: {node["calls"] for node in cluster.nodes().values()} == {half}, "each node has half of them"
        )
        with pytest.raises(CallError, match="takes no call now"):
            async with live_call(cluster.url):
                pass
        await asyncio.gather(*(have_a_turn(call) for call in found[:4]))
        async with aiohttp.ClientSession() as http, http.get(f"{cluster.url}/metrics") as reply:
            assert f"rtc_server_calls {NUM_CALLS}.0" in await reply.text()
        async with aiohttp.ClientSession() as http, http.get(f"{cluster.page_url}/metrics") as reply:
            assert 'rtc_server_rss_bytes{process="worker-' in await reply.text()


async def test_requests_about_a_call_reach_its_node(cluster: ClusterProcess) -> None:
    async with calls(cluster, 3) as found, aiohttp.ClientSession() as http:
        for call in found:
            events: list[dict[str, Any]] = []
            async with http.ws_connect(f"{cluster.url}/v1/realtime?call_id={call.peer.call_id}") as sideband:
                events.append(await sideband.receive_json())
                await have_a_turn(call)
                while events[-1]["type"] != "response.done":
                    events.append(await sideband.receive_json())
            assert events[0]["type"] == "session.created"
            async with http.delete(f"{cluster.url}/v1/realtime/calls/{call.peer.call_id}") as reply:
                assert reply.status == 200
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{cluster.url}/v1/realtime?call_id=rtc_unknown")
        assert refused.value.status == 404


async def test_a_lost_worker_fails_its_response_and_the_next_turn_goes_elsewhere(cluster: ClusterProcess) -> None:
    async with calls(cluster, 1) as (call,):
        before = {worker["worker_id"] for worker in cluster.workers()}
        call.say(LONG)
        await call.event("output_audio_buffer.started")
        await until(lambda: busy_workers(cluster), "a worker says that it makes the response")
        (lost,) = busy_workers(cluster)
        assert statuses(call) == [], "it is killed in the middle of the reply"
        next(p for p in cluster.processes("EngineWorker") if p.pid == lost["pid"]).kill()
        done = await call.event("response.done")
        assert done["response"]["status"] == "failed"
        assert done["response"]["status_details"]["error"]["code"] == "engine_lost"
        await have_a_turn(call)
        await until(lambda: len({w["worker_id"] for w in cluster.workers()} - before) == 1, "Ray starts another worker")


def media_port(call: LiveCall) -> int:
    """The server's UDP port of a call."""
    connection = call.peer.pc.getTransceivers()[0].sender.transport.transport._connection
    port: int = connection._nominated[1].remote_addr[1]
    return port


def carrier(cluster: ClusterProcess, call: LiveCall) -> psutil.Process:
    """The media node that has it."""
    port = media_port(call)
    nodes = cluster.processes("MediaNodeActor")
    return next(node for node in nodes if port in {c.laddr.port for c in node.net_connections("udp")})


def busy_workers(cluster: ClusterProcess) -> list[dict[str, Any]]:
    return [worker for worker in cluster.workers() if worker["responses"]]


async def test_a_lost_node_ends_its_calls_only_and_comes_back(cluster: ClusterProcess) -> None:
    async with calls(cluster, 4) as found, aiohttp.ClientSession() as http:
        victim = cluster.processes("MediaNodeActor")[0]
        ports = {connection.laddr.port for connection in victim.net_connections("udp")}
        lost = [call for call in found if media_port(call) in ports]
        victim.kill()
        assert len(lost) == 2
        await asyncio.gather(*(have_a_turn(call) for call in found if call not in lost))
        await until(lambda: Counter(n["ready"] for n in cluster.nodes().values()) == {True: 2}, "Ray starts it again")
        for call in lost:
            async with http.delete(f"{cluster.url}/v1/realtime/calls/{call.peer.call_id}") as reply:
                assert reply.status == 404
        async with live_call(cluster.url) as first, live_call(cluster.url) as second:
            await asyncio.gather(have_a_turn(first), have_a_turn(second))
            new_ports = {c.laddr.port for p in cluster.processes("MediaNodeActor") for c in p.net_connections("udp")}
            assert {media_port(first), media_port(second)} <= new_ports


async def talk_of(call: LiveCall) -> str:
    """A turn in writing; the answer says how long it was."""
    call.peer.send({"type": "session.update", "session": {"type": "realtime", "output_modalities": ["text"]}})
    await call.event("session.updated")
    await have_a_turn(call)
    answer: str = (await call.event("response.output_text.done"))["text"]
    assert answer.startswith("I heard ")
    return answer


async def goes_on(call: LiveCall, before: LiveCall, answer: str) -> None:
    """The session of `before` is in `call`, and the engine is told what was said."""
    assert call.peer.call_id != before.peer.call_id
    created = [(await each.event("session.created"))["session"]["id"] for each in (before, call)]
    assert created[0] == created[1]
    assert (await call.event("conversation.item.done"))["item"]["content"][0]["text"] == answer
    assert (await call.event("rtc_server.session.resumable"))["resumed"] is True
    call.peer.send({"type": "response.create"})  # without a word more, the echo answers the last item that it is told
    assert (await call.event("response.output_text.done"))["text"] == answer


async def test_a_call_of_a_lost_node_is_gone_on_with_on_the_other(cluster: ClusterProcess) -> None:
    async with calls(cluster, 1) as (lost,):
        answer = await talk_of(lost)
        await asyncio.sleep(SETTLE_SECONDS)  # then it goes to the store, and both have worked on since
        assert await lost.is_alive()
        victim = carrier(cluster, lost)
        victim.kill()
        async with live_call(cluster.url, resume=lost.peer.resume_token) as call:
            assert carrier(cluster, call).pid != victim.pid
            await goes_on(call, lost, answer)


async def test_a_call_that_still_runs_on_the_other_node_hands_its_session_over(cluster: ClusterProcess) -> None:
    async with calls(cluster, 1) as (old,):
        answer, first = await talk_of(old), carrier(cluster, old)
        async with live_call(cluster.url, resume=old.peer.resume_token) as call:
            assert carrier(cluster, call).pid != first.pid
            await goes_on(call, old, answer)
            assert (await old.event("error"))["error"]["code"] == "session_resumed"
            await until(lambda: sum(node["calls"] for node in cluster.nodes().values()) == 1, "the old call has ended")


async def test_sessions_of_live_calls_are_in_a_store_that_was_lost_meanwhile(cluster: ClusterProcess) -> None:
    async with calls(cluster, 1) as (call,):
        answer = await talk_of(call)
        await asyncio.sleep(SETTLE_SECONDS)
        (lost,) = cluster.processes("SessionKeeper")
        lost.kill()
        await until(
            lambda: {p.pid for p in cluster.processes("SessionKeeper")} - {lost.pid}, "Ray starts the store again"
        )
        await have_a_turn(call)
        await asyncio.sleep(SETTLE_SECONDS)
        assert await call.is_alive()
        carrier(cluster, call).kill()
        async with live_call(cluster.url, resume=call.peer.resume_token) as other:
            assert (await other.event("conversation.item.done"))["item"]["content"][0]["text"] == answer
            assert (await other.event("rtc_server.session.resumable"))["num_items"] == 2, (
                "both answers, the later one too"
            )


async def test_calls_do_not_notice_a_lost_controller(cluster: ClusterProcess) -> None:
    async with calls(cluster, 2) as found:
        (controller,) = cluster.processes("rtc-server:Controller")
        for call in found:
            call.say(SHORT)
        controller.kill()
        for call in found:
            done = await call.event("response.done")
            assert done["response"]["status"] == "completed"
        await until(lambda: cluster.nodes(), "Ray starts another controller")
        # It has never heard of these calls, and asks the nodes.
        async with aiohttp.ClientSession() as http:
            target = f"{cluster.url}/v1/realtime/calls/{found[0].peer.call_id}"
            async with http.delete(target) as reply:
                assert reply.status == 200
        assert await found[1].is_alive()
        async with live_call(cluster.url) as another:
            await have_a_turn(another)
