"""A WebSocket's end in the media process: order, shares of time, playback as a model, and clients that do not read."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from model.interface import Pcm16
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.transports.pacer import Pacer
from rtc_server.transports.websocket import MAX_UNREAD, MESSAGE_WEIGHT, Inbox, Sideband, WebSocketTransport

Message = str | bytes


class Client:
    """A `SocketPeer` that remembers."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.read = 0
        self.closed: list[tuple[int, str]] = []

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self.got if isinstance(data, str)]

    def on_data(self, data: Message) -> None:
        self.got.append(data)

    def on_read(self, weight: int) -> None:
        self.read += weight

    def on_closed(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


class Call:
    """A `MediaSink` that remembers."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.pulled = 0
        self.is_behind = False
        self.is_open = asyncio.Event()
        self.frames = asyncio.Event()
        self.bug: str | None = None

    def on_connected(self) -> None: ...

    def on_channel_open(self) -> None:
        self.is_open.set()

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None: ...

    def on_message(self, data: Message, now: float) -> None:
        if self.bug == "on_message":
            raise RuntimeError("a bug")
        self.messages.append(data)

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        if self.bug == "pull_frame":
            raise RuntimeError("a bug")
        self.pulled += 1
        self.frames.set()
        return PlayoutFrame(np.zeros(480, np.int16))


class Line:
    """A transport that runs, with both its ends."""

    def __init__(self, **options: bool) -> None:
        self.client, self.call, self.pacer = Client(), Call(), Pacer()
        self.transport = WebSocketTransport(self.client, self.pacer, **options)
        self.running = asyncio.create_task(self.transport.run(self.call), name="call")

    async def end(self) -> str:
        """As `Call.run` does it."""
        reason = await asyncio.wait_for(self.running, 10)
        await self.transport.close(reason)
        return reason


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line()
    await made.call.is_open.wait()
    yield made
    made.transport.disconnect()
    await asyncio.gather(made.running, return_exceptions=True)
    await made.transport.close()
    assert not len(made.pacer)


# --- the inbox, on virtual time


class Clock:
    """Every message costs `cost` seconds of CPU."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.cpu = 0.0
        self.handled: list[Message] = []
        self.read = 0
        self.inbox = Inbox(self._handle, self._on_read, 0.0, lambda: self.cpu)

    def _handle(self, data: Message, now: float) -> None:
        self.cpu += self.cost
        self.handled.append(data)

    def _on_read(self, weight: int) -> None:
        self.read += weight


def test_a_peer_gets_its_share_of_the_time_and_no_more() -> None:
    clock = Clock(cost=0.001)
    messages = [bytes([number % 256]) for number in range(5_000)]
    for message in messages:
        clock.inbox.push(message)
    for tick in range(500):
        clock.inbox.pump(tick * 0.02)
    assert clock.cpu == pytest.approx(0.2 * 10, abs=0.02)  # ten seconds have passed
    assert clock.handled == messages[: len(clock.handled)]
    assert clock.read == len(clock.handled) * (1 + MESSAGE_WEIGHT)


def test_a_peer_in_real_time_never_waits() -> None:
    clock = Clock(cost=0.001)
    for packet in range(500):
        clock.inbox.push(b"20 ms")
        clock.inbox.pump(packet * 0.02)
        assert not len(clock.inbox)


def test_one_long_message_is_paid_back() -> None:
    clock = Clock(cost=0.1)
    clock.inbox.push("long")
    clock.inbox.pump(0.0)
    clock.inbox.push("next")
    clock.inbox.pump(0.4)
    assert clock.handled == ["long"]
    clock.inbox.pump(0.6)
    assert clock.handled == ["long", "next"]


def test_input_waits_while_the_call_is_behind() -> None:
    clock = Clock(cost=0.0)
    clock.inbox.push("event")
    clock.inbox.pump(0.0, lambda: True)
    assert not clock.handled
    clock.inbox.pump(0.0, lambda: False)
    assert clock.handled == ["event"]


# --- a call's transport


async def test_messages_keep_their_order_and_are_reported_as_read(line: Line) -> None:
    for message in ("first", b"second", "third"):
        line.transport.receive(message)
    assert line.call.messages == ["first", b"second", "third"]
    assert line.client.read == len("firstsecondthird") + 3 * MESSAGE_WEIGHT


async def test_what_came_before_the_call_is_not_lost() -> None:
    client, call = Client(), Call()
    transport = WebSocketTransport(client, Pacer())
    transport.receive("early")
    assert not call.messages
    running = asyncio.create_task(transport.run(call))
    await call.is_open.wait()
    assert call.messages == ["early"]
    transport.disconnect()
    assert await running == "peer_closed"
    await transport.close()


async def test_input_that_waits_goes_on_with_the_ticks(line: Line) -> None:
    line.call.is_behind = True
    line.transport.receive("waits")
    assert not line.call.messages
    line.call.is_behind = False
    line.call.frames.clear()
    await asyncio.wait_for(line.call.frames.wait(), 5)
    assert line.call.messages == ["waits"]


async def test_playback_is_modelled_through_a_stall(line: Line) -> None:
    line.call.pulled = 0
    line.transport.tick(0.0, 0.0, 7)
    assert line.call.pulled == 8
    line.call.pulled = 0
    line.transport.tick(0.0, 0.0, 100_000)
    assert line.call.pulled == 51  # a second at most


async def test_sound_is_base64_in_its_event(line: Line) -> None:
    line.transport.send_audio({"type": "response.output_audio.delta", "response_id": "r"}, b"\x00\x01\xff")
    (event,) = line.client.events
    assert base64.b64decode(event["delta"]) == b"\x00\x01\xff"
    assert event["response_id"] == "r"


async def test_sound_is_raw_on_a_binary_channel() -> None:
    line = Line(is_binary=True)
    await line.call.is_open.wait()
    line.transport.send_audio({"type": "response.output_audio.delta"}, b"\x00\x01")
    line.transport.send_event({"type": "response.done"})
    assert line.client.got == [b"\x00\x01", '{"type":"response.done"}']
    line.transport.disconnect()
    await line.end()


async def test_a_client_that_does_not_read_is_disconnected(line: Line) -> None:
    sound = bytes(10_000)
    while not line.running.done():
        line.transport.send_audio({"type": "response.output_audio.delta"}, sound)
        await asyncio.sleep(0)
    assert sum(map(len, line.client.got)) < MAX_UNREAD + 50_000
    assert await line.end() == "client_not_reading"
    assert line.client.closed == [(1008, "client_not_reading")]


async def test_a_client_that_reads_gets_everything(line: Line) -> None:
    sent = 0
    while sent < 3 * MAX_UNREAD:
        line.transport.send_event({"type": "x", "delta": "A" * 10_000})
        size = len(line.client.got.pop())
        line.transport.acknowledge(size)
        sent += size
    assert not line.running.done()


async def test_long_answers_do_not_pile_up_and_cost_nobody_the_call(line: Line) -> None:
    """A client may ask for several items with their sound, megabytes each, before it reads the first."""
    answer = {"type": "conversation.item.retrieved", "audio": "A" * 3_000_000}
    line.transport.receive("first")
    line.transport.send_event(answer)
    line.transport.receive("second")
    line.transport.send_audio({"type": "response.output_audio.delta"}, bytes(1_000))  # goes on meanwhile
    assert line.call.messages == ["first"]
    line.transport.acknowledge(len(line.client.got[0]))
    line.call.frames.clear()
    await asyncio.wait_for(line.call.frames.wait(), 5)
    assert line.call.messages == ["first", "second"]
    assert not line.running.done()


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("hangup", 1000),
        ("time_limit", 1001),
        ("client_not_reading", 1008),
        ("internal_error", 1011),
        ("shutdown", 1013),
    ],
)
async def test_the_close_code_says_why(reason: str, code: int) -> None:
    line = Line()
    await line.call.is_open.wait()
    await line.transport.close(reason)
    assert not line.client.closed  # the last events go first
    line.transport.send_event({"type": "last"})
    assert await line.end() == reason
    assert line.client.events[-1]["type"] == "last"
    assert line.client.closed == [(code, reason)]
    await line.transport.close()
    assert len(line.client.closed) == 1
    line.transport.send_event({"type": "too late"})
    assert line.client.events[-1]["type"] == "last"


@pytest.mark.parametrize("where", ["on_message", "pull_frame"])
async def test_a_bug_ends_this_call_only(where: str) -> None:
    line = Line()
    await line.call.is_open.wait()
    line.call.bug = where
    line.transport.receive("anything")  # does not raise: it is called by the reader of all calls
    with pytest.raises(RuntimeError, match="a bug"):
        await line.end()
    await line.transport.close("internal_error")
    assert line.client.closed == [(1011, "internal_error")]


async def test_a_call_that_never_ran_closes_too() -> None:
    client = Client()
    transport = WebSocketTransport(client, Pacer())
    transport.abort(RuntimeError("a bug"))
    await transport.close("internal_error")
    assert client.closed == [(1011, "internal_error")]


# --- a sideband


class Joined:
    """A sideband with both its ends."""

    def __init__(self) -> None:
        self.client, self.pacer = Client(), Pacer()
        self.messages: list[Message] = []
        self.gone = 0
        self.sideband = Sideband(self.client, self.pacer)
        self.sideband.attach(lambda data, now: self.messages.append(data), self._on_gone)

    def _on_gone(self) -> None:
        self.gone += 1


async def test_a_sideband_carries_events_both_ways_and_ends_with_its_call() -> None:
    joined = Joined()
    joined.sideband.receive("hello")
    joined.sideband.send_event({"type": "x"})
    assert (joined.messages, joined.client.events, joined.client.read) == (
        ["hello"],
        [{"type": "x"}],
        5 + MESSAGE_WEIGHT,
    )
    joined.sideband.end("time_limit")
    joined.sideband.end("again")
    joined.sideband.disconnect()
    joined.sideband.send_event({"type": "late"})
    assert joined.client.closed == [(1000, "time_limit")]
    assert (joined.gone, len(joined.pacer), len(joined.client.got)) == (1, 0, 1)


async def test_a_sideband_that_floods_waits_for_its_share() -> None:
    joined = Joined()
    done = asyncio.Event()

    def slow(data: Message, now: float) -> None:
        started = time.thread_time()  # what the inbox counts, however busy the machine is
        while time.thread_time() < started + 0.003:
            pass
        joined.messages.append(data)
        if len(joined.messages) == 5:
            done.set()

    joined.sideband.attach(slow, joined._on_gone)
    for number in range(5):
        joined.sideband.receive(str(number))
    assert len(joined.messages) < 5
    assert len(joined.pacer) == 1
    await asyncio.wait_for(done.wait(), 10)
    assert joined.messages == ["0", "1", "2", "3", "4"]
    assert len(joined.pacer) == 0  # nothing waits: the process may sleep


async def test_a_sideband_that_does_not_read_leaves_the_call_alone() -> None:
    joined = Joined()
    for _ in range(200):
        joined.sideband.send_event({"type": "x", "text": "A" * 10_000})
    assert joined.client.closed == [(1008, "client_not_reading")]
    assert joined.gone == 1
    assert sum(map(len, joined.client.got)) < MAX_UNREAD + 20_000
