"""One call: the shell that connects a transport, the rules in `core` and the engine, and ends all three together."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from datetime import UTC, datetime

from model.interface import EngineEvent, Pcm16
from rtc_server import metrics
from rtc_server.audio.playout import Playout, PlayoutFrame
from rtc_server.config import Settings
from rtc_server.errors import CallNotFoundError, SidebandLimitError
from rtc_server.inference.client import EngineClient
from rtc_server.realtime.dialects import BetaDialect, Dialect, PlainDialect
from rtc_server.realtime.events import MAX_MESSAGE_BYTES, MAX_SOCKET_MESSAGE_BYTES
from rtc_server.realtime.rtvi import RtviDialect
from rtc_server.realtime.session import SessionConfig
from rtc_server.realtime.words import Event
from rtc_server.transports.base import EventObserver, MediaTransport
from rtc_server.turns.detector import TurnDetector
from rtc_server.turns.echo_guard import EchoGuard
from rtc_server.turns.interruption import BargeIn
from rtc_server.turns.judge import NoTurnJudge, TurnJudgeFactory
from rtc_server.turns.vad import VadFactory

from .client_events import ClientEvents
from .core import CallCore, CoreSettings
from .endings import farewell
from .intents import (
    CancelRequest,
    GrantAudio,
    JudgeTurn,
    Observe,
    ReleaseRequest,
    SendAudio,
    SendEvent,
    StopJudging,
    SubmitRequest,
)
from .sessions import DEFAULT_OPTIONS, CallOptions, EventDialect, capabilities, detector_config, initial_session
from .wire_audio import WireAudio

log = logging.getLogger(__name__)

MAX_SIDEBANDS = 4  # an application, its debugger, and two to spare; each gets a copy of every event
FOR_THE_SENDER = ("error", "conversation.item.retrieved")  # nobody else asked, and a sideband gets no sound
MAX_BACKLOG_MS = 500.0  # input that waits for the voice detector; a transport that can makes its client wait


def new_id(prefix: str) -> str:
    """A random id that cannot be guessed: "rtc_9Xb2..."."""
    return f"{prefix}_{secrets.token_urlsafe(15)}"


def create_dialect(name: EventDialect) -> Dialect:
    """The words of one call's event channel."""
    if name == "rtvi":
        return RtviDialect(lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    return BetaDialect() if name == "realtime-beta" else PlainDialect()


class Call:
    """A `MediaSink`. Created by the registry; `run` carries it from set-up to the freed slot."""

    def __init__(
        self,
        call_id: str,
        settings: Settings,
        transport: MediaTransport,
        engine: EngineClient,
        make_vad: VadFactory,
        options: CallOptions = DEFAULT_OPTIONS,
        make_judge: TurnJudgeFactory = NoTurnJudge,
    ) -> None:
        info = engine.info
        self.call_id = call_id
        self.created_at = time.time()
        self.connected = asyncio.Event()
        """Set once media flows."""
        self._settings = settings
        self._transport = transport
        self._engine = engine
        self._playout = Playout(sample_rate=transport.playout_sample_rate)
        session = options.session or initial_session(settings, info)
        self._echo_guard = EchoGuard(transport.playout_sample_rate) if settings.turns.echo_guard else None
        self._detector = TurnDetector(
            make_vad(self._on_voice_judged),
            detector_config(settings.turns, session),
            is_echo=None if self._echo_guard is None else self._echo_guard.is_echo,
        )
        self._judge = make_judge()
        turns = settings.turns
        self.core = CallCore(
            call_id=call_id,
            engine=info,
            session=session,
            can=capabilities(settings, info),
            detector=self._detector,
            playout=self._playout,
            barge_in=BargeIn(interruption_min_ms=turns.interruption_min_ms, gives_transcripts=info.gives_transcripts),
            new_id=new_id,
            settings=CoreSettings(
                audio_credit_ms=settings.engine.audio_credit_ms,
                response_timeout_seconds=settings.engine.response_timeout_seconds,
                speculate=turns.speculation_silence_ms > 0,
                responses_per_minute=settings.session.responses_per_minute,
                audio_in_events=transport.carries_audio_in_events,
                kept_audio_seconds=settings.session.kept_audio_seconds,
            ),
            on_session=self._on_session,
        )
        expires_at = int(self.created_at + settings.server.max_call_seconds)
        formats = session.audio
        self._wire = WireAudio(info.sample_rate, formats.input.format.type, formats.output.format.type)
        has_socket = transport.carries_audio_in_events
        self._client_events = ClientEvents(
            self.core,
            new_id,
            new_id("sess"),
            expires_at,
            append_audio=self._append_audio if has_socket else None,
            decode_clip=self._wire.decode_clip,
            max_bytes=MAX_SOCKET_MESSAGE_BYTES if has_socket else MAX_MESSAGE_BYTES,
        )
        self._dialect = create_dialect(options.dialect)
        self._leaving: asyncio.Task[None] | None = None
        self._has_taken_leave = False
        self._sidebands: list[EventObserver] = []
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None
        self._underruns = 0
        self.played_frames = 0
        """Frames of replies that were sent, 20 ms each."""
        self._ends_at: float | None = None

    async def run(self) -> str:
        """Serve until the peer, the server or the time limit ends the call. Returns the reason."""
        reason = "internal_error"
        try:
            async with asyncio.timeout(self._settings.server.max_call_seconds):
                reason = await self._transport.run(self)
        except TimeoutError:
            reason = "time_limit"
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._is_over = True
            self._judge.close()
            self.core.close()
            self._drain()
            last = farewell(reason)
            if last is not None:
                self._send(self.core.announce.event("error", error=last))
            for sideband in tuple(self._sidebands):
                sideband.end(reason)
            await self.hang_up(reason)
            if self._leaving is not None:
                await self._leaving
        return reason

    async def hang_up(self, reason: str = "hangup") -> None:
        """End the call from our side; `run` returns `reason`."""
        if not self._has_taken_leave:
            self._has_taken_leave = True
            for message in self._dialect.farewell():
                self._transport.send_event(message)
        await self._transport.close(reason)

    @property
    def underruns(self) -> int:
        """How often a reply ran dry while it was playing."""
        return self._playout.underruns

    @property
    def is_answering(self) -> bool:
        """A reply is made or played, or is due."""
        return self.core.is_answering

    def announce_drain(self, ends_at: float) -> None:
        """The server ends at `ends_at` (the loop's time): tell whoever is there, and the peer once it is."""
        self._ends_at = ends_at
        self._send(self._draining_event(ends_at))

    def _draining_event(self, ends_at: float) -> Event:
        seconds = round(max(0.0, ends_at - asyncio.get_running_loop().time()), 1)
        return self.core.announce.event("rtc_server.server.draining", seconds_left=seconds)

    # --- sidebands

    def join(self, sideband: EventObserver) -> None:
        """Events go to `sideband` too, `session.created` first. Raises SidebandLimitError or CallNotFoundError."""
        if self._is_over:
            raise CallNotFoundError(f"There is no call '{self.call_id}' any more.")
        if len(self._sidebands) >= MAX_SIDEBANDS:
            raise SidebandLimitError(f"The call has {MAX_SIDEBANDS} sidebands already; close one first.")
        self._sidebands.append(sideband)
        for event in self._client_events.opening():
            sideband.send_event(event)

    def leave(self, sideband: EventObserver) -> None:
        """It is gone; the call goes on. Idempotent."""
        if sideband in self._sidebands:
            self._sidebands.remove(sideband)

    def on_sideband_message(self, sideband: EventObserver, data: str | bytes, now: float) -> None:
        """One message of a sideband. Never raises."""
        try:
            self._receive(data, now, sideband)
        except Exception as error:  # called by whoever carries the messages of every other call too
            self._transport.abort(error)

    # --- MediaSink

    def on_connected(self) -> None:
        self.connected.set()

    def on_channel_open(self) -> None:
        for event in self._client_events.opening():
            self._send(event)
        if self._ends_at is not None:
            self._send(self._draining_event(self._ends_at))

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None:
        self.core.receive_audio(pcm, now, jitter_buffer_ms)
        self._drain()

    def on_message(self, data: str | bytes, now: float) -> None:
        if isinstance(data, bytes) and self._transport.carries_audio_in_events:
            self._append_audio(data)
            self._drain()
            return
        inbound = self._dialect.from_client(data)
        for message in inbound.replies:
            self._transport.send_event(message)
        for event in inbound.events:
            self._receive(event, now)
        if inbound.ends_call and self._leaving is None:
            self._leaving = asyncio.create_task(self.hang_up(), name=f"leaving-{self.call_id}")

    @property
    def is_behind(self) -> bool:
        return self._detector.backlog_ms > MAX_BACKLOG_MS

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        metrics.PLAYOUT_LATENESS.observe(lateness_seconds)
        frame = self.core.pull_frame(now)
        if self._echo_guard is not None:
            self._echo_guard.sent(frame.pcm)
        if self._playout.underruns > self._underruns:
            metrics.PLAYOUT_UNDERRUNS.inc(self._playout.underruns - self._underruns)
            self._underruns = self._playout.underruns
        self.played_frames += not frame.is_silence
        self._drain()
        return frame

    # --- inside

    def _receive(self, data: str | bytes, now: float, sideband: EventObserver | None = None) -> None:
        """A client event, of the peer unless of a sideband: what it did is told to everybody, what was wrong with it or
        asked for only to its sender."""
        for event in self._client_events.receive(data, now):
            if event["type"] == "input_audio_buffer.cleared":
                self._wire.clear_input()
            if event["type"] not in FOR_THE_SENDER:
                self._send(event)
            elif sideband is None:
                self._send_to_peer(event)
            else:
                sideband.send_event(event)
        self._drain()

    def _send(self, event: Event) -> None:
        self._send_to_peer(event)
        for sideband in tuple(self._sidebands):
            sideband.send_event(event)

    def _send_to_peer(self, event: Event) -> None:
        for message in self._dialect.to_client(event):
            self._transport.send_event(message)

    def _append_audio(self, data: bytes) -> None:
        """Input as it stands in `input_audio_buffer.append` or in a binary message."""
        pcm = self._wire.decode(data)
        if len(pcm):
            self.core.receive_audio(pcm, asyncio.get_running_loop().time())

    def _send_audio(self, event: Event, pcm: Pcm16, *, is_last: bool) -> None:
        data = self._wire.encode(event["response_id"], pcm)
        if is_last:
            data += self._wire.finish(event["response_id"])
        if data:
            for message in self._dialect.to_client(event):
                self._transport.send_audio(message, data)

    def _on_session(self, session: SessionConfig) -> None:
        self._detector.update(detector_config(self._settings.turns, session))
        self._wire.set_formats(session.audio.input.format.type, session.audio.output.format.type)

    def _on_voice_judged(self) -> None:
        try:
            self.core.judge_audio(asyncio.get_running_loop().time())
            self._drain()
        except Exception as error:  # called by the batch, which judges for every other call too
            self._transport.abort(error)

    def _on_turn_judged(self, probability: float) -> None:
        try:
            self.core.receive_completion(probability, asyncio.get_running_loop().time())
            self._drain()
        except Exception as error:  # called for the judge's thread, which answers every other call too
            self._transport.abort(error)

    def _on_engine_event(self, event: EngineEvent) -> None:
        try:
            self.core.receive_engine(event, asyncio.get_running_loop().time())
            self._drain()
        except Exception as error:  # called by the engine's reader, which serves every other call too
            self._transport.abort(error)

    def _on_deadline(self) -> None:
        self._timer = None
        try:
            self.core.handle_deadline(asyncio.get_running_loop().time())
            self._drain()
        except Exception as error:  # called by the event loop, which would only log it
            self._transport.abort(error)

    def _drain(self) -> None:
        """Carry out what the core decided, then arm its next deadline."""
        for output in self.core.outputs():
            match output:
                case SendEvent(event):
                    if event["type"] == "response.done":
                        self._wire.finish(event["response"]["id"])  # cut off: the rest is of no use
                    self._send(event)
                case SendAudio(event, pcm, is_last):
                    self._send_audio(event, pcm, is_last=is_last)
                case SubmitRequest(request):
                    self._engine.submit(request, self._on_engine_event)
                case CancelRequest(response_id):
                    self._engine.cancel(response_id)
                case GrantAudio(response_id, audio_ms):
                    self._engine.grant(response_id, audio_ms)
                case ReleaseRequest(response_id):
                    self._engine.release(response_id)
                case JudgeTurn(audio):
                    self._judge.ask(audio, self._on_turn_judged)
                case StopJudging():
                    self._judge.cancel()
                case Observe():
                    _observe(output)
        deadline = self.core.next_deadline()
        if self._timer is not None and (deadline is None or self._timer.when() > deadline):
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._on_deadline)


def _observe(output: Observe) -> None:
    match output.name:
        case "stage":
            metrics.TURN_STAGE.labels(output.label).observe(output.value)
        case "latency":
            metrics.RESPONSE_LATENCY.observe(output.value)
        case "response":
            metrics.RESPONSES.labels(output.label).inc()
        case "speculation":
            metrics.SPECULATIONS.labels(output.label).inc()
        case "interruption":
            metrics.INTERRUPTIONS.labels(output.label).inc()
