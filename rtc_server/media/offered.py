"""A call that we have offered and nobody has answered yet: it rings somewhere. Sidebands may wait in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from rtc_server.calls.call import MAX_SIDEBANDS, Call, new_id
from rtc_server.calls.registry import AnyCall
from rtc_server.errors import ApiError, CallNotFoundError, SidebandLimitError
from rtc_server.realtime.words import Event
from rtc_server.transports.webrtc import WebRtcTransport
from rtc_server.transports.websocket import Sideband

from .node import OutgoingRequest

FORGOTTEN_SECONDS = 180.0  # far beyond how long a telephone is let ring


class OfferedCall:
    """What an application sends over a sideband meanwhile waits, unread, until the call begins."""

    def __init__(self, request: OutgoingRequest, transport: WebRtcTransport, on_forgotten: Callable[[], None]) -> None:
        """`on_forgotten`: whoever was to bring an answer, or to hang up, does not."""
        self.request = request
        self.transport = transport
        self._timer = asyncio.get_running_loop().call_later(FORGOTTEN_SECONDS, on_forgotten)
        self.is_answered = False
        """The answer is being worked on."""
        self._waiting: list[Sideband] = []
        self._latest: dict[str, Event] = {}  # by kind: a handful of our own

    def join(self, sideband: Sideband) -> None:
        """It is told how the call stands, and joins it as soon as it begins. Raises SidebandLimitError."""
        if len(self._waiting) >= MAX_SIDEBANDS:
            raise SidebandLimitError(f"The call has {MAX_SIDEBANDS} sidebands already; close one first.")
        self._waiting.append(sideband)
        sideband.wait(lambda: self._leave(sideband))
        for event in self._latest.values():
            sideband.send_event(event)

    def tell(self, kind: str, fields: Mapping[str, object]) -> None:
        """An event of the server's own, to everybody who waits, and to who comes later the latest of its kind."""
        event = self._latest[kind] = {"type": kind, "event_id": new_id("event"), **fields}
        for sideband in tuple(self._waiting):
            sideband.send_event(event)

    def begin(self, call: AnyCall) -> None:
        """The call has begun: who waited follows it now."""
        self._timer.cancel()
        waiting, self._waiting = self._waiting, []
        for sideband in waiting:
            try:
                _join(call, sideband)
            except ApiError as error:  # it ended at once, or takes no events
                sideband.end(error.code)
        for sideband in waiting:  # all of them hear what comes of what the first has to say
            _listen(call, sideband)

    def _leave(self, sideband: Sideband) -> None:
        if sideband in self._waiting:
            self._waiting.remove(sideband)

    async def close(self, reason: str) -> None:
        """There will be no call."""
        self._timer.cancel()
        for sideband in tuple(self._waiting):
            sideband.end(reason)
        await self.transport.close()


def follow(call: AnyCall, sideband: Sideband) -> None:
    """Let a sideband follow a call. Raises SidebandLimitError or CallNotFoundError."""
    _join(call, sideband)
    _listen(call, sideband)


def _join(call: AnyCall, sideband: Sideband) -> None:
    if not isinstance(call, Call):
        raise CallNotFoundError("An echo test takes no events.")
    call.join(sideband)


def _listen(call: AnyCall, sideband: Sideband) -> None:
    if isinstance(call, Call):
        sideband.attach(lambda data, now: call.on_sideband_message(sideband, data, now), lambda: call.leave(sideband))
