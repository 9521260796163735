"""One scripted call: say a recording, wait for the reply to be over, say the next; measure at the caller's ear.

The clock is the event loop's (monotonic). A sample counts as *sent* when the 20 ms frame that holds it is handed to
the RTP sender (`track`), and as *heard* when the decoded frame that holds it comes out of the receiver's track, plus
its offset in that frame (`listener`). So a latency contains both codecs, the network, the receiver's jitter buffer
and the server; it does not contain sound cards.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from aiortc import RTCConfiguration

from model.interface import Pcm16

from .errors import CallError
from .hearing import HEARD_RATE
from .listener import Listener, Stretch
from .peer import Event, RealtimePeer
from .recording import Recording
from .relay import relay_only
from .report import CallReport, TurnReport
from .track import SpeakingTrack, Spoken
from .transcript import Reply, TranscriptLog, Turn

CONNECT_TIMEOUT_SECONDS = 15.0
SETTLE_SECONDS = 0.3  # silence between being connected and the first word, as a person would leave
TAIL_SECONDS = 0.4  # sound may sit in the receive buffer this long after its last event
QUIET_MS = 200.0  # a reply is over when this much silence was received
EARLY_SECONDS = 0.2  # sound may be heard this long before the event that announces it
LATE_ENDPOINT_SECONDS = 1.5  # after this much silence the server will not find another turn in the recording
LAST_WORDS_SECONDS = 1.0  # how long to wait for transcripts once all replies are over
MAX_WAITING_EVENTS = 10_000  # they are handled within a frame; so many can only be a server gone wrong
EDGE_MS = 100  # kept around each saved reply, for what is too soft to count as voice

Progress = Callable[[Sequence[TurnReport]], None]
"""Gets the turns as they stand, whenever something about them changed."""


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What to do in the call."""

    url: str
    recordings: Sequence[Recording]
    interrupt_after_ms: int | None = None
    """Start the next recording this long after the first voiced sample of each reply but the last."""
    timeout_s: float = 30.0
    """Give up when nothing is heard from the server for this long while a reply is due."""
    keep_audio: bool = False
    """Keep what was heard, for `CallReport.replies`."""
    tls: ssl.SSLContext | bool = True
    api_key: str | None = field(default=None, repr=False)
    relay: str | None = None
    """Talk over a TURN server of the server's only: "udp", "tcp" or "tls", "any" for the first that it names."""


@dataclass(slots=True)
class _Said:
    """One recording of the plan and its turn."""

    spoken: Spoken
    turn: Turn
    interrupts: _Said | None
    """The turn whose reply this one cuts into."""


async def hold_call(plan: CallPlan, on_progress: Progress | None = None) -> CallReport:
    """Make the call of `plan` and hang up. Nothing is left of it, however it ends.

    Raises CallError when it cannot be made, is ended by the server, or a reply does not come."""
    configuration = None
    if plan.relay is not None:
        transport = None if plan.relay == "any" else plan.relay
        configuration = await relay_only(plan.url, transport, tls=plan.tls, api_key=plan.api_key)
    call = _Call(plan, on_progress, configuration)
    try:
        return await call.run()
    finally:
        await call.close()


class _Call:
    def __init__(self, plan: CallPlan, on_progress: Progress | None, configuration: RTCConfiguration | None) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._log = TranscriptLog()
        self._listener = Listener(HEARD_RATE)
        self._heard: list[tuple[int, Pcm16]] = []  # (position, samples); the whole call when audio is kept
        self._said: list[_Said] = []
        self._events: deque[tuple[Event, float]] = deque()
        self._changed = asyncio.Event()
        self._ended: str | None = None
        self._active_at = self._loop.time()
        self._track = SpeakingTrack()
        self._peer = RealtimePeer(
            plan.url,
            self._track,
            on_event=self._on_event,
            on_audio=self._on_audio,
            on_end=self._on_end,
            tls=plan.tls,
            api_key=plan.api_key,
            configuration=configuration,
        )

    async def run(self) -> CallReport:
        begun = self._loop.time()
        await self._peer.connect(min(CONNECT_TIMEOUT_SECONDS, self._plan.timeout_s))
        connected_ms = (self._loop.time() - begun) * 1e3
        await self._until(lambda: self._log.is_session_created, "session.created")
        created_ms = (self._loop.time() - begun) * 1e3
        await self._until(lambda: False, "silence", wait_at_most=SETTLE_SECONDS)
        cut_into: _Said | None = None
        for index, recording in enumerate(self._plan.recordings):
            is_last = index == len(self._plan.recordings) - 1
            cut_into = await self._take_turn(recording, cut_into, is_last)
        await self._last_words()
        packets = await self._peer.packets()
        return CallReport(
            turns=self._turn_reports(),
            connected_ms=connected_ms,
            session_created_ms=created_ms,
            packets=packets,
            warnings=tuple(self._log.warnings),
            replies=tuple(self._saved_replies()) if self._plan.keep_audio else (),
        )

    async def close(self) -> None:
        await self._peer.close()

    # --- the script

    async def _take_turn(self, recording: Recording, cut_into: _Said | None, is_last: bool) -> _Said | None:
        """Say one recording and hear its reply. Returns the turn if the next one is to cut into its reply."""
        said = _Said(self._track.say(recording), self._log.open_turn(self._loop.time()), cut_into)
        self._said.append(said)
        await self._until(said.spoken.finished.done, "the end of the recording")
        if said.spoken.finished.cancelled():
            raise CallError(self._ended or "The connection broke while the recording was being said.")
        last_voiced_sent = said.spoken.last_voiced_sent.result()
        delay_ms = self._plan.interrupt_after_ms
        if delay_ms is not None and not is_last:
            await self._until(lambda: self._is_heard(said) or self._is_settled(said, last_voiced_sent), "a reply")
            stretches = self._heard_of(said.turn.reply)
            if stretches:
                wait = stretches[0].start_at + delay_ms / 1e3 - self._loop.time()
                await self._until(lambda: self._is_settled(said, last_voiced_sent), "a reply", wait_at_most=wait)
                if not self._is_settled(said, last_voiced_sent):
                    return said
        await self._until(lambda: self._is_settled(said, last_voiced_sent), "a reply")
        return None

    def _is_heard(self, said: _Said) -> bool:
        return bool(self._heard_of(said.turn.reply))

    def _is_settled(self, said: _Said, last_voiced_sent: float) -> bool:
        """The turn's last reply is over and silent, and the server waits for no more speech."""
        reply, now = said.turn.reply, self._loop.time()
        if reply is None or reply.ended_at is None or self._log.is_user_speaking:
            return False
        if reply.created_at < last_voiced_sent and now < last_voiced_sent + LATE_ENDPOINT_SECONDS:
            return False  # it answered the first half of the recording; another one will come
        return now >= reply.ended_at + TAIL_SECONDS and self._listener.silence_ms >= QUIET_MS

    async def _last_words(self) -> None:
        """Transcripts may come after the sound."""

        def is_complete() -> bool:
            turns = self._log.turns
            return not self._log.is_retrieving and all(None not in turn.user_items.values() for turn in turns)

        await self._until(is_complete, "transcripts", wait_at_most=LAST_WORDS_SECONDS)

    async def _until(self, condition: Callable[[], bool], what: str, *, wait_at_most: float | None = None) -> None:
        """Wait until `condition` holds; it is asked again after each event and each received frame.

        With `wait_at_most` seconds it returns after them; else CallError after `timeout_s` without a sign of life."""
        begun = self._active_at = self._loop.time()
        while True:
            self._handle_events()
            if condition():
                return
            if self._ended is not None:
                raise CallError(self._ended)
            now = self._loop.time()
            if wait_at_most is not None and now >= begun + wait_at_most:
                return
            if wait_at_most is None and now >= self._active_at + self._plan.timeout_s:
                raise CallError(f"The server sent nothing for {self._plan.timeout_s:g} s while waiting for {what}.")
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):  # deadlines are kept to this when nothing arrives at all
                    await self._changed.wait()

    # --- what arrives

    def _on_event(self, event: Event) -> None:
        """Kept for `_handle_events`: an exception in here would end inside aiortc and be lost."""
        if len(self._events) >= MAX_WAITING_EVENTS:
            self._on_end(f"The server sent {MAX_WAITING_EVENTS} events at once.")
            return
        self._events.append((event, self._loop.time()))
        self._changed.set()

    def _handle_events(self) -> None:
        if not self._events:
            return
        while self._events:
            event, at = self._events.popleft()
            self._active_at = at
            try:
                answers = self._log.receive(event, at)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CallError(f"The server sent a {event.get('type')!r} event that makes no sense.") from error
            for answer in answers:
                self._peer.send(answer)
        self._report()

    def _on_end(self, message: str) -> None:
        self._ended = message
        self._changed.set()

    def _on_audio(self, pcm: Pcm16, position: int, at: float) -> None:
        self._listener.receive(pcm, position, at)
        if self._listener.silence_ms == 0:
            self._active_at = at
        if self._plan.keep_audio:
            self._heard.append((position, pcm))
        self._changed.set()

    # --- what came of it

    def _heard_of(self, reply: Reply | None) -> list[Stretch]:
        """The voice heard of one reply: what began after its first event and before the next reply's."""
        if reply is None or reply.started_at is None:
            return []
        begun = reply.started_at - EARLY_SECONDS
        later = [
            other.started_at
            for turn in self._log.turns
            for other in turn.replies
            if other.started_at is not None and other.started_at > reply.started_at
        ]
        until = min(later, default=float("inf")) - EARLY_SECONDS
        return [s for s in self._listener.stretches if begun <= s.start_at < until]

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._turn_reports())

    def _turn_reports(self) -> list[TurnReport]:
        interrupters = {id(said.interrupts): said for said in self._said if said.interrupts is not None}
        return [self._turn_report(said, interrupters.get(id(said))) for said in self._said]

    def _turn_report(self, said: _Said, interrupter: _Said | None) -> TurnReport:
        reply = said.turn.reply
        stretches = self._heard_of(reply)
        latency = duration = stop = None
        if stretches:
            duration = (stretches[-1].end - stretches[0].start) * 1e3 / HEARD_RATE
            if said.spoken.last_voiced_sent.done():
                latency = (stretches[0].start_at - said.spoken.last_voiced_sent.result()) * 1e3
            onset = interrupter.spoken.first_voiced_sent if interrupter is not None else None
            if reply is not None and reply.is_interrupted and onset is not None and onset.done():
                stop = (stretches[-1].end_at - onset.result()) * 1e3
        if reply is None:
            return TurnReport(said.spoken.recording.name, said.turn.user_transcript)
        return TurnReport(
            recording=said.spoken.recording.name,
            user_transcript=said.turn.user_transcript,
            reply_transcript=reply.text.strip(),
            response_latency_ms=latency,
            reply_duration_ms=duration,
            interrupted=reply.is_interrupted,
            interruption_stop_ms=stop,
            heard_transcript=reply.heard_text,
            heard_ms=reply.truncated_ms,
            stages=dict(reply.metrics.get("stages") or {}),
            server_latency_ms=reply.metrics.get("response_latency_ms"),
            speculated=reply.metrics.get("speculated"),
            status=reply.status,
            error=reply.error,
            is_over=reply.is_over,
        )

    def _saved_replies(self) -> list[Pcm16]:
        """What was heard of each reply, int16 mono 16 kHz, holes and pauses in it included."""
        edge = HEARD_RATE * EDGE_MS // 1000
        replies = []
        for said in self._said:
            stretches = self._heard_of(said.turn.reply)
            if stretches:
                replies.append(_cut(self._heard, stretches[0].start - edge, stretches[-1].end + edge))
        return replies


def _cut(heard: Sequence[tuple[int, Pcm16]], start: int, end: int) -> Pcm16:
    """Samples `start` up to `end` of the stream; what was never received is silence."""
    out = np.zeros(end - start, np.int16)
    for position, pcm in heard:
        first, last = max(position, start), min(position + len(pcm), end)
        if first < last:
            out[first - start : last - start] = pcm[first - position : last - position]
    return out
