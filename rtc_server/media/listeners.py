"""Peers that hear the replies of a call whose own peer takes no audio (WHEP beside WHIP): one per call, ended with it.

A listener pulls the call's frames while it is connected; otherwise the call's own stream does, and nobody hears them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from model.interface import Pcm16
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.calls.call import new_id
from rtc_server.errors import CallNotFoundError, InvalidSdpError, ListenerError
from rtc_server.transports.webrtc import WebRtcTransport

log = logging.getLogger(__name__)


class Heard(Protocol):
    """A call, as far as a listener is concerned."""

    @property
    def call_id(self) -> str: ...

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame: ...


@dataclass(slots=True)
class Listener:
    listener_id: str
    call_id: str
    transport: WebRtcTransport
    task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Hear nothing any more, and go."""
        self.transport.stream.detach()
        self.transport.end("call_ended")


class Listeners:
    """Those of one node. `tasks` keeps them running; `on_end` gets the id of each that is over."""

    def __init__(self, tasks: asyncio.TaskGroup, on_end: Callable[[str], None] | None) -> None:
        self._tasks = tasks
        self._on_end = on_end
        self._places: dict[str, Place] = {}  # by call
        self._listeners: dict[str, Listener] = {}

    def __contains__(self, listener_id: object) -> bool:
        return listener_id in self._listeners

    def transport(self, listener_id: str) -> WebRtcTransport | None:
        """Of a listener that is there."""
        listener = self._listeners.get(listener_id)
        return None if listener is None else listener.transport

    @contextmanager
    def place(self, call_id: str, heard: WebRtcTransport) -> Iterator[Place]:
        """Hold the one place of a call while a listener is set up. Raises ListenerError."""
        if heard.stream.is_heard:
            raise ListenerError(
                "The call's own peer takes the replies; only a call that was offered sendonly is heard."
            )
        if call_id in self._places:
            raise ListenerError("The call has a listener already; end that one first.")
        place = self._places[call_id] = Place(self, call_id, heard)
        try:
            yield place
        finally:
            if place.listener is None:
                self._places.pop(call_id, None)

    async def hang_up(self, listener_id: str) -> None:
        """End one. Raises CallNotFoundError."""
        listener = self._listeners.get(listener_id)
        if listener is None:
            raise CallNotFoundError(f"There is no call '{listener_id[:64]}'.")
        await listener.transport.close()

    def end_of(self, call_id: str) -> None:
        """The call is over, and so is who heard it."""
        place = self._places.pop(call_id, None)
        if place is not None:
            place.is_over = True
            if place.listener is not None:
                place.listener.end()

    async def close(self) -> None:
        """Wait until the last is gone, after the end of every call."""
        listeners = list(self._listeners.values())
        for listener in listeners:
            listener.end()
        await asyncio.gather(*(listener.task for listener in listeners if listener.task is not None))

    def _start(self, listener: Listener, call: Heard, heard: WebRtcTransport) -> None:
        self._listeners[listener.listener_id] = listener
        heard.stream.outlet = listener.transport.stream
        name = f"listener-{listener.listener_id}"
        listener.task = self._tasks.create_task(self._run(listener, _Ear(call, heard), heard), name=name)

    async def _run(self, listener: Listener, ear: _Ear, heard: WebRtcTransport) -> None:
        reason = "internal_error"
        about = {"call_id": listener.call_id, "listener_id": listener.listener_id}
        try:
            log.info("listener started", extra=about)
            reason = await listener.transport.run(ear)
        except Exception:  # a bug in one listener must not take the node down: counted by its log line
            log.exception("listener failed", extra=about)
        finally:
            if heard.stream.outlet is listener.transport.stream:
                heard.stream.outlet = None
            try:
                await listener.transport.close()
            finally:
                del self._listeners[listener.listener_id]
                place = self._places.get(listener.call_id)
                if place is not None and place.listener is listener:
                    del self._places[listener.call_id]
                if self._on_end is not None:
                    self._on_end(listener.listener_id)
                log.info("listener ended", extra={**about, "reason": reason})


class Place:
    """The right to be a call's listener, from the moment it was asked for."""

    def __init__(self, listeners: Listeners, call_id: str, heard: WebRtcTransport) -> None:
        self._listeners = listeners
        self._call_id = call_id
        self._heard = heard
        self.listener: Listener | None = None
        self.is_over = False
        """The call has ended meanwhile."""

    async def take(self, transport: WebRtcTransport, call: Heard) -> str:
        """Let an answered peer hear the call. Returns the listener's id. On failure the transport is closed."""
        if self.is_over:
            await transport.close()
            raise CallNotFoundError(f"There is no call '{self._call_id}' any more.")
        if transport.playout_sample_rate != self._heard.playout_sample_rate:
            await transport.close()
            raise InvalidSdpError("The offer needs Opus: this call's replies do not fit another codec.")
        self.listener = Listener(new_id("whep"), self._call_id, transport)
        self._listeners._start(self.listener, call, self._heard)
        return self.listener.listener_id


class _Ear:
    """A `MediaSink` that only gives."""

    is_behind = False

    def __init__(self, call: Heard, heard: WebRtcTransport) -> None:
        self._call = call
        self._heard = heard

    def on_connected(self) -> None: ...

    def on_channel_open(self) -> None: ...

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None: ...

    def on_digit(self, digit: str, now: float) -> None: ...

    def on_message(self, data: str | bytes, now: float) -> None: ...

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        try:
            return self._call.pull_frame(now, lateness_seconds)
        except Exception as error:  # a bug of the call's, which must end the call, not only this peer
            self._heard.abort(error)
            raise
