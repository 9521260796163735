"""One call: the shell that connects a transport, the rules in `core` and the engine, and ends all three together."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from model.interface import INPUT_SAMPLE_RATE, EngineEvent, GenerateRequest, Pcm16
from rtc_server import metrics
from rtc_server.audio.playout import Playout, PlayoutFrame
from rtc_server.config import Settings
from rtc_server.errors import CallNotFoundError, ProtocolError, SidebandLimitError
from rtc_server.inference.client import EngineClient
from rtc_server.logs import call_logger
from rtc_server.realtime.conversation import Item
from rtc_server.realtime.dialects import BetaDialect, Dialect, PlainDialect
from rtc_server.realtime.events import MAX_MESSAGE_BYTES, MAX_SOCKET_MESSAGE_BYTES
from rtc_server.realtime.rtvi import RtviDialect
from rtc_server.realtime.session import SessionConfig
from rtc_server.realtime.words import Event
from rtc_server.recording.recorder import CallRecorder
from rtc_server.recording.store import RecordingStore
from rtc_server.transports.base import EventObserver, MediaTransport
from rtc_server.turns.detector import TurnDetector
from rtc_server.turns.interruption import BargeIn
from rtc_server.turns.judge import NoTurnJudge, TurnJudgeFactory
from rtc_server.turns.vad import VadFactory

from .call_spans import CallSpans
from .client_events import ClientEvents
from .core import CallCore, CoreSettings
from .early_media import EarlyMedia, EarlyMediaPlayer
from .endings import farewell
from .hearing import Hearing
from .intents import (
    CancelRequest,
    GrantAudio,
    JudgeTurn,
    Observe,
    ReleaseRequest,
    ResponseOver,
    SendAudio,
    SendEvent,
    StopJudging,
    SubmitRequest,
    TurnAnswered,
)
from .key_entry import KeyEntry
from .keypad import entry_text
from .sessions import DEFAULT_OPTIONS, CallOptions, EventDialect, capabilities, detector_config, initial_session
from .snapshot import CallSnapshot, restore, resumable_events, take_snapshot
from .snapshot_timer import SaveSnapshot, SnapshotTimer
from .status import CallState, CallStatus
from .turn_records import TurnRecord
from .wire_audio import WireAudio

log = logging.getLogger(__name__)

MAX_SIDEBANDS = 4  # an application, its debugger, and two to spare; each gets a copy of every event
FOR_THE_SENDER = ("error", "conversation.item.retrieved")  # nobody else asked, and a sideband gets no sound
FRAMES_PER_SECOND = 50
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
        save_snapshot: SaveSnapshot | None = None,
        on_turn: Callable[[TurnRecord], None] | None = None,
        recordings: RecordingStore | None = None,
        early_media: EarlyMedia | None = None,
    ) -> None:
        """With `early_media` the call rings until `begin`: that is heard, and the caller is not. `on_turn` gets the
        record of every turn as its reply begins to be heard."""
        info = engine.info
        self.call_id = call_id
        self.created_at = time.time()
        self.started_at = asyncio.get_running_loop().time()
        wall_offset = self.created_at - self.started_at
        trace = options.trace
        self._log = call_logger(log, call_id, None if trace is None else trace.context.trace_name)
        self._spans = None if trace is None else CallSpans(trace, call_id, wall_offset)
        self._on_turn = on_turn
        self.connected = asyncio.Event()
        """Set once media flows."""
        self._settings = settings
        self._transport = transport
        self._engine = engine
        self._playout = Playout(sample_rate=transport.playout_sample_rate)
        before = None if options.resume is None else options.resume.snapshot
        session = options.session or initial_session(settings, info)
        if before is not None:
            session = before.session
        self._hearing = Hearing(
            settings, session, make_vad(self._on_voice_judged), transport, is_telephone=options.is_telephone
        )
        self._detector = TurnDetector(
            self._hearing.vad, detector_config(settings.turns, session), is_echo=self._hearing.is_echo
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
                wall_offset=wall_offset,
            ),
            on_session=self._on_session,
        )
        self._max_seconds: float = settings.server.max_call_seconds
        self._expires_at = int(self.created_at + self._max_seconds)
        self._session_id = new_id("sess")
        if before is not None:
            self._expires_at, self._session_id = before.expires_at, before.session_id
            self._max_seconds = max(0.0, before.expires_at - self.created_at)
            restore(self.core, before)
        self._recorder = None if recordings is None else CallRecorder(recordings, call_id, self._text_of, self._tell)
        formats = session.audio
        self._wire = WireAudio(info.sample_rate, formats.input.format.type, formats.output.format.type)
        has_socket = transport.carries_audio_in_events
        self._client_events = ClientEvents(
            self.core,
            new_id,
            self._session_id,
            self._expires_at,
            append_audio=self._append_audio if has_socket else None,
            decode_clip=self._wire.decode_clip,
            record=None if recordings is None else self._record,
            send_digits=transport.send_digits,
            max_bytes=MAX_SOCKET_MESSAGE_BYTES if has_socket else MAX_MESSAGE_BYTES,
        )
        self._dialect_name = options.dialect
        self._dialect = create_dialect(options.dialect)
        self._grant = options.resume
        self._snapshots: SnapshotTimer | None = None
        if self._grant is not None and save_snapshot is not None:
            self._snapshots = SnapshotTimer(
                self._grant, self._take_snapshot, save_snapshot, lambda: self.core.is_agent_active, transport.abort
            )
        self._leaving: asyncio.Task[None] | None = None
        self._has_taken_leave = False
        self._sidebands: list[EventObserver] = []
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None
        self._ringing: EarlyMediaPlayer | None = None
        if early_media is not None:
            self._ringing = EarlyMediaPlayer(early_media, transport.playout_sample_rate)
        self._keys = KeyEntry(self._enter_keys, transport.abort)
        self._underruns = 0
        self.played_frames = 0
        """Frames of replies that were sent, 20 ms each."""
        self._ends_at: float | None = None
        self._frames = 0
        self._num_turns = 0
        self._latency_ms: float | None = None

    async def run(self) -> str:
        """Serve until the peer, the server or the time limit ends the call. Returns the reason."""
        reason = "internal_error"
        if self._snapshots is not None:
            self._snapshots.start()
        try:
            async with asyncio.timeout(self._max_seconds):
                reason = await self._transport.run(self)
        except TimeoutError:
            reason = "time_limit"
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._keys.close()
            self._is_over = True
            self._judge.close()
            if self._snapshots is not None:
                self._snapshots.close(reason)
            self.core.close()
            self._drain()
            if self._spans is not None:
                self._spans.close(asyncio.get_running_loop().time())
            if self._recorder is not None:
                self._recorder.stop(reason, asyncio.get_running_loop().time())
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

    def hand_over(self) -> bytes | None:
        """The last snapshot, before the session goes on in another call: this one has to be hung up next. None when it
        has no session that could."""
        return None if self._snapshots is None else self._snapshots.hand_over()

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
        for event in [*self._client_events.opening(), *self._recording_notice()]:
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

    def status(self, now: float) -> CallStatus:
        """What an operator sees of it."""
        state: CallState = "listening"
        if not self.connected.is_set():
            state = "connecting"
        elif self.core.replies.is_speaking:
            state = "speaking"
        elif self.core.is_agent_active:
            state = "thinking"
        age, line = now - self.started_at, self._transport.line
        numbers = (self._num_turns, self._latency_ms, self._underruns)
        hearing = (self._hearing.cancels_echo, self._hearing.vad.suppresses_noise)
        return CallStatus(self.call_id, age, state, line, *numbers, *hearing)

    # --- MediaSink

    def on_connected(self) -> None:
        self.connected.set()
        if self._snapshots is not None:
            self._snapshots.on_connected()
        if self._ringing is None:
            self._start_default_recording()

    def _start_default_recording(self) -> None:
        if self._recorder is not None and self._recorder.by_default and not self._recorder.was_started:
            self._start_recording(self._recorder, asyncio.get_running_loop().time())

    def on_channel_open(self) -> None:
        for event in [*self._client_events.opening(), *self._recording_notice()]:
            self._send(event)
        if self._ends_at is not None:
            self._send(self._draining_event(self._ends_at))
        if self._grant is not None:
            for event in resumable_events(self.core, self._grant, self._settings.session.resume_seconds):
                self._send_to_peer(event)  # to nobody else: it holds the token

    def begin(self, session: SessionConfig | None) -> None:
        """The ringing call was accepted, with a session other than the one it has."""
        self._ringing = None
        if session is not None:
            self.core.update_session(session)
        self._start_default_recording()
        self._drain()

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None:
        if self._ringing is not None:
            return
        if self._recorder is not None:
            self._recorder.on_input(pcm, now)
        self.core.receive_audio(self._hearing.heard(pcm), now, jitter_buffer_ms)
        self._drain()

    def on_digit(self, digit: str, now: float) -> None:
        if self._ringing is None and self._keys.press(digit, now):
            self._tell("input_audio_buffer.dtmf_event_received", event=digit, received_at=int(time.time()))

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

    def _enter_keys(self, keys: str, now: float) -> None:
        if self._settings.session.dtmf_to_model:
            self._client_events.enter_text(entry_text(keys), now)
            self._drain()

    @property
    def is_behind(self) -> bool:
        return self._detector.backlog_ms > MAX_BACKLOG_MS

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        metrics.PLAYOUT_LATENESS.observe(lateness_seconds)
        frame = self._next_frame(now)
        self._hearing.sent(frame.pcm)
        if self._playout.underruns > self._underruns:
            metrics.PLAYOUT_UNDERRUNS.inc(self._playout.underruns - self._underruns)
            self._underruns = self._playout.underruns
        self.played_frames += not frame.is_silence
        self._frames += 1
        if self._frames % FRAMES_PER_SECOND == 0:
            metrics.VOICE_BACKLOG.observe(self._detector.backlog_ms / 1e3)
        self._drain()
        return frame

    # --- recording

    def _start_recording(self, recorder: CallRecorder, now: float) -> None:
        transport = self._transport
        codings = transport.tap(recorder)
        can_play = not transport.carries_audio_in_events
        rate = transport.playout_sample_rate
        recorder.start(now, codings.received, codings.sent, rate, can_play_notice=can_play)

    def _record(self, is_wanted: bool, now: float) -> None:
        """A client asks for a recording, or for its end. Raises ProtocolError."""
        recorder = self._recorder
        assert recorder is not None, "asked only where the server records"
        if recorder.by_default:
            if is_wanted:
                return
            raise ProtocolError("recording_required", "Every call of this server is recorded; hang up to end it.")
        if not is_wanted:
            if recorder.is_recording:
                self._transport.tap(None)
                recorder.stop("client", now)
                self._tell("rtc_server.recording.stopped", reason="client")
            return
        if recorder.is_recording:
            return
        if recorder.was_started:
            raise ProtocolError("recording_over", "A call is recorded once; what was recorded of this one is kept.")
        self._start_recording(recorder, now)
        for event in self._recording_notice():
            self._send(event)

    def _recording_notice(self) -> list[Event]:
        fields = None if self._recorder is None else self._recorder.announcement()
        return [] if fields is None else [self.core.announce.event("rtc_server.recording.started", **fields)]

    def _next_frame(self, now: float) -> PlayoutFrame:
        """The notice goes before everything else that is said."""
        if self._ringing is not None:
            sound = self._ringing.next_frame()
            # Nothing is said yet; the core's frame is silence, and keeps its clocks going.
            return self.core.pull_frame(now) if sound is None else PlayoutFrame(sound, is_silence=not sound.any())
        recorder = self._recorder
        if recorder is None:
            return self.core.pull_frame(now)
        notice = recorder.notice_frame()
        frame = self.core.pull_frame(now) if notice is None else PlayoutFrame(notice, is_silence=False)
        recorder.on_output(frame.pcm, now)
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

    def _take_snapshot(self) -> CallSnapshot:
        return take_snapshot(
            self.core, session_id=self._session_id, expires_at=self._expires_at, dialect=self._dialect_name
        )

    def _text_of(self, item_id: str) -> str | None:
        """The words of a message as the conversation has them now; None when it is gone."""
        item = self.core.conversation.find(item_id)
        return item.text if isinstance(item, Item) else None

    def tell(self, kind: str, **fields: object) -> None:
        """An event of the server's own, to everybody who follows the call."""
        self._tell(kind, **fields)

    def _tell(self, kind: str, **fields: object) -> None:
        self._send(self.core.announce.event(kind, **fields))

    def _send(self, event: Event) -> None:
        if self._recorder is not None:
            now, input_ms = asyncio.get_running_loop().time(), self._detector.samples_received * 1e3 / INPUT_SAMPLE_RATE
            self._recorder.on_event(event, now, input_ms)
        if self._snapshots is not None:
            self._snapshots.note(event)
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
            now = asyncio.get_running_loop().time()
            if self._recorder is not None:
                self._recorder.on_input(pcm, now)
            self.core.receive_audio(pcm, now)

    def _send_audio(self, event: Event, pcm: Pcm16, *, is_last: bool) -> None:
        data = self._wire.encode(event["response_id"], pcm)
        if is_last:
            data += self._wire.finish(event["response_id"])
        if data:
            for message in self._dialect.to_client(event):
                self._transport.send_audio(message, data)

    def _on_session(self, session: SessionConfig) -> None:
        self._detector.update(detector_config(self._settings.turns, session))
        self._hearing.update(session)
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
                    self._submit(request)
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
                case TurnAnswered(record):
                    self._turn_answered(record)
                case ResponseOver(response_id, status):
                    self._log.debug("response over", extra={"response_id": response_id, "status": status})
                    if self._spans is not None:
                        self._spans.over(response_id, status, asyncio.get_running_loop().time())
                case Observe():
                    _observe(output)
        deadline = self.core.next_deadline()
        if self._timer is not None and (deadline is None or self._timer.when() > deadline):
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._on_deadline)

    def _submit(self, request: GenerateRequest) -> None:
        about = {"response_id": request.response_id, "turn_id": request.turn_id, "held": request.is_held}
        self._log.debug("response asked for", extra=about)
        if self._spans is not None:
            request = self._spans.submit(request, asyncio.get_running_loop().time())
        self._engine.submit(request, self._on_engine_event)

    def _turn_answered(self, record: TurnRecord) -> None:
        """Everything that tells of the turn is made from its record, here."""
        _observe_turn(record)
        about = {"response_id": record.response_id, "turn_id": record.turn_id, "latency_ms": record.latency_ms}
        self._log.debug("turn answered", extra=about)
        self._num_turns += 1
        if record.latency_ms is not None:
            self._latency_ms = record.latency_ms
        if self._spans is not None:
            self._spans.answered(record)
        if self._on_turn is not None:
            self._on_turn(record)


def _observe_turn(record: TurnRecord) -> None:
    for name, ms in record.stages.items():
        metrics.TURN_STAGE.labels(name).observe(ms / 1e3)
    if record.inference_ms is not None:
        metrics.TURN_STAGE.labels("inference").observe(record.inference_ms / 1e3)
    if record.latency_ms is not None:
        metrics.RESPONSE_LATENCY.observe(record.latency_ms / 1e3)


def _observe(output: Observe) -> None:
    match output.name:
        case "response":
            metrics.RESPONSES.labels(output.label).inc()
        case "speculation":
            metrics.SPECULATIONS.labels(output.label).inc()
        case "interruption":
            metrics.INTERRUPTIONS.labels(output.label).inc()
