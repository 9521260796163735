"""Calls and sidebands whose peer is on a WebSocket that signaling holds: messages in and out, no sockets here.

The peer owns the playback of a call: sound is sent as it is made, as fast as the engine's credit allows. The frames
that the pacer pulls every 20 ms model that playback and are thrown away; credit, turns and barge-in depend on them.

What comes in may come faster than real time. It waits in an `Inbox` and is worked on within a share of the process's
time, because the audio of other calls must not wait; the peer is told what was taken, and sends no more than a window
beyond it. What goes out is counted until the peer acknowledges it: with much unread no more requests are taken, and one
that does not read what nobody asked for (a reply's sound) is disconnected.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from rtc_server import metrics
from rtc_server.audio.pcm import PLAYOUT_SAMPLE_RATE
from rtc_server.realtime.words import Event

from .base import LineStatus, MediaSink, MediaTap, TappedCodings
from .pacer import Pacer

MAX_UNREAD = 1 << 20  # 16 s of base64 audio at 24 kHz; a peer this far behind plays nothing that was meant for now
MUCH_UNREAD = MAX_UNREAD // 4  # no more input then, so that answers (an item with its sound: megabytes) do not pile up
LARGE_MESSAGE = 1 << 16  # counts no more than this: a peer that reads one long answer is reading
MESSAGE_WEIGHT = 128  # bytes that any message takes while it waits
TIME_SHARE = 0.2  # of the process's time for the input of one peer: about 20 times real time with the Silero VAD
MAX_TIME_SAVED = 0.004  # seconds: what one peer may take at once, a fifth of a frame
MAX_CATCH_UP = 50  # frames (1 s) that the model of the playback catches up after a stall of the process

NORMAL, GOING_AWAY, POLICY, INTERNAL, TRY_AGAIN = 1000, 1001, 1008, 1011, 1013
CLOSE_CODES = {
    "hangup": NORMAL,
    "peer_closed": NORMAL,
    "resumed": NORMAL,
    "time_limit": GOING_AWAY,  # what OpenAI's clients see as the end of the hour
    "client_not_reading": POLICY,  # reading is the client's duty; trying again later would not help
    "shutdown": TRY_AGAIN,
}
"""WebSocket close codes by the reason of a call's end; everything else is our fault."""


class SocketPeer(Protocol):
    """The WebSocket's end of the line. Must neither block nor raise."""

    def on_data(self, data: str | bytes) -> None:
        """One message for the client."""

    def on_read(self, weight: int) -> None:
        """A message of that weight that was given to `receive` has been worked on."""

    def on_closed(self, code: int, reason: str) -> None:
        """The line is over, unless `disconnect` ended it."""


def weight_of(data: str | bytes) -> int:
    """How a message counts while it waits for the call: an empty one is work too."""
    return len(data) + MESSAGE_WEIGHT


def close_code(reason: str) -> int:
    """The WebSocket close code for a call that ended for `reason`."""
    return CLOSE_CODES.get(reason, INTERNAL)


class Unread:
    """What was given to the peer and has not reached its client."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes."""
        self._counted = 0

    def add(self, size: int) -> bool:
        """One message of `size` goes out. False: that is too much."""
        self.size += size
        self._counted += min(size, LARGE_MESSAGE)
        return self._counted <= MAX_UNREAD

    def remove(self, size: int) -> None:
        """One message of `size` has arrived."""
        self.size -= size
        self._counted -= min(size, LARGE_MESSAGE)

    @property
    def is_much(self) -> bool:
        return self.size > MUCH_UNREAD


class Inbox:
    """Messages that wait for their share of the process's time, in order. Its sender bounds it: see `SocketPeer`."""

    def __init__(
        self,
        handle: Callable[[str | bytes, float], None],
        on_read: Callable[[int], None],
        now: float,
        clock: Callable[[], float] = time.thread_time,  # not what other processes take: a slow hour throttles nobody
    ) -> None:
        self._handle = handle
        self._on_read = on_read
        self._clock = clock
        self._waiting: deque[str | bytes] = deque()
        self._saved = MAX_TIME_SAVED
        self._saved_at = now

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, data: str | bytes) -> None:
        self._waiting.append(data)

    def clear(self) -> None:
        self._waiting.clear()

    def pump(self, now: float, is_behind: Callable[[], bool] | None = None) -> None:
        """Hand messages on while there is time saved, and `is_behind` does not ask to wait."""
        self._saved = min(MAX_TIME_SAVED, self._saved + TIME_SHARE * (now - self._saved_at))
        self._saved_at = now
        while self._waiting and self._saved > 0 and not (is_behind is not None and is_behind()):
            data = self._waiting.popleft()
            started = self._clock()
            self._handle(data, now)
            self._saved -= self._clock() - started
            self._on_read(weight_of(data))


class WebSocketTransport:
    """A `MediaTransport`, and a paced member while it runs."""

    playout_sample_rate = PLAYOUT_SAMPLE_RATE
    carries_audio_in_events = True
    line = LineStatus("websocket")

    def __init__(self, peer: SocketPeer, pacer: Pacer, *, is_binary: bool = False) -> None:
        """`is_binary`: sound goes out as binary messages instead of base64 in events."""
        self._peer = peer
        self._pacer = pacer
        self._is_binary = is_binary
        self._loop = asyncio.get_running_loop()
        self._sink: MediaSink | None = None
        self._inbox = Inbox(self._handle, peer.on_read, self._loop.time())
        self._unread = Unread()
        self._is_running = False
        self._is_closed = False
        self._ended: asyncio.Future[str] = self._loop.create_future()

    # --- MediaTransport

    async def run(self, sink: MediaSink) -> str:
        """See `MediaTransport.run`: the peer is there already."""
        self._sink = sink
        self._is_running = True
        try:
            sink.on_connected()
            sink.on_channel_open()
            self._pacer.add(self)
            self._pump(self._loop.time())
            return await asyncio.shield(self._ended)
        finally:
            self._is_running = False
            self._pacer.discard(self)

    def fill_input(self, now: float) -> None:
        """See `MediaTransport.fill_input`: nothing is lost on the way."""

    def tap(self, tap: MediaTap | None) -> TappedCodings:
        """See `MediaTransport.tap`: there are no payloads."""
        return TappedCodings()

    def send_digits(self, digits: str, duration_ms: int, gap_ms: int) -> bool:
        """See `MediaTransport.send_digits`: there is no telephone."""
        return False

    def send_event(self, event: Event) -> None:
        """See `MediaTransport.send_event`."""
        self._send(json.dumps(event, separators=(",", ":"), ensure_ascii=False))

    def send_audio(self, event: Event, data: bytes) -> None:
        """See `MediaTransport.send_audio`."""
        if self._is_binary:
            self._send(data)
        else:
            self.send_event(event | {"delta": base64.b64encode(data).decode()})

    def abort(self, error: Exception) -> None:
        """See `MediaTransport.abort`."""
        if not self._ended.done():
            self._ended.set_exception(error)

    async def close(self, reason: str = "hangup") -> None:
        """See `MediaTransport.close`. While it runs this only ends `run`: whoever runs it closes it after the last
        events."""
        self._end(reason)
        if self._is_running or self._is_closed:
            return
        self._is_closed = True
        self._inbox.clear()
        self._ended.exception()  # seen, even when nobody ran it
        self._peer.on_closed(close_code(reason), reason)

    # --- the line

    def receive(self, data: str | bytes) -> None:
        """One message of the client."""
        if self._ended.done():
            return
        self._inbox.push(data)
        if self._sink is not None:
            self._pump(self._loop.time())

    def acknowledge(self, size: int) -> None:
        """A message of `size` has reached the client."""
        self._unread.remove(size)

    def disconnect(self, *, is_lost: bool = False) -> None:
        """The client is gone; `is_lost`: without having said so."""
        self._end("connection_failed" if is_lost else "peer_closed")

    # --- Paced

    def tick(self, now: float, due: float, skipped_frames: int) -> None:
        """See `Paced`: what waited, then one frame of the model of the client's playback."""
        sink = self._sink
        if sink is None or self._ended.done():
            return
        self._pump(now)
        if skipped_frames:  # the client's playback went on meanwhile
            metrics.PLAYOUT_SKIPPED.inc(skipped_frames)
        try:
            for _ in range(1 + min(skipped_frames, MAX_CATCH_UP)):
                sink.pull_frame(now, max(0.0, now - due))
        except Exception as error:  # the pacer would only log it
            self.abort(error)

    # --- inside

    def _pump(self, now: float) -> None:
        assert self._sink is not None
        try:
            self._inbox.pump(now, self._is_behind)
        except Exception as error:  # called by whoever carries the messages of every other call too
            self.abort(error)

    def _is_behind(self) -> bool:
        return self._unread.is_much or (self._sink is not None and self._sink.is_behind)

    def _handle(self, data: str | bytes, now: float) -> None:
        if self._sink is not None and not self._ended.done():
            self._sink.on_message(data, now)

    def _send(self, data: str | bytes) -> None:
        if self._is_closed:
            return
        metrics.EVENT_BACKLOG.observe(self._unread.size)
        is_fine = self._unread.add(len(data))
        self._peer.on_data(data)
        if not is_fine:
            self._end("client_not_reading")

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)


class Sideband:
    """An `EventObserver` over a WebSocket; paced only while its input waits. `on_message` must not raise."""

    def __init__(self, peer: SocketPeer, pacer: Pacer) -> None:
        self._peer = peer
        self._pacer = pacer
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(self._handle, peer.on_read, self._loop.time())
        self._on_message: Callable[[str | bytes, float], None] | None = None
        self._on_gone: Callable[[], None] | None = None
        self._unread = Unread()
        self._is_paced = False
        self._is_over = False

    def attach(self, on_message: Callable[[str | bytes, float], None], on_gone: Callable[[], None]) -> None:
        """Where the client's messages go, and who is told that it is no longer there."""
        self._on_message, self._on_gone = on_message, on_gone
        if self._inbox:
            self.tick(self._loop.time(), 0.0, 0)

    def wait(self, on_gone: Callable[[], None]) -> None:
        """Until `attach`: what the client sends is not read meanwhile, so its window bounds it."""
        self._on_message, self._on_gone = None, on_gone

    # --- EventObserver

    def send_event(self, event: Event) -> None:
        """See `EventObserver.send_event`."""
        if self._is_over:
            return
        data = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        is_fine = self._unread.add(len(data))
        self._peer.on_data(data)
        if not is_fine:
            self._finish(POLICY, "client_not_reading")

    def end(self, reason: str) -> None:
        """See `EventObserver.end`: a normal end, whatever became of the call."""
        self._finish(NORMAL, reason)

    # --- the line

    def receive(self, data: str | bytes) -> None:
        """One message of the client."""
        if not self._is_over:
            self._inbox.push(data)
            self.tick(self._loop.time(), 0.0, 0)

    def acknowledge(self, size: int) -> None:
        """A message of `size` has reached the client."""
        self._unread.remove(size)

    def disconnect(self, *, is_lost: bool = False) -> None:
        """The client is gone."""
        self._leave()

    # --- Paced

    def tick(self, now: float, due: float, skipped_frames: int) -> None:
        """See `Paced`: work on what waits."""
        if self._on_message is None:
            return
        self._inbox.pump(now, lambda: self._unread.is_much)
        if bool(self._inbox) != self._is_paced:
            self._is_paced = not self._is_paced
            if self._is_paced:
                self._pacer.add(self)
            else:
                self._pacer.discard(self)

    # --- inside

    def _handle(self, data: str | bytes, now: float) -> None:
        if self._on_message is not None and not self._is_over:
            self._on_message(data, now)

    def _finish(self, code: int, reason: str) -> None:
        if not self._is_over:
            self._leave()
            self._peer.on_closed(code, reason)

    def _leave(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._inbox.clear()
        if self._is_paced:
            self._is_paced = False
            self._pacer.discard(self)
        if self._on_gone is not None:
            self._on_gone()
