"""A call on virtual time: real core, detector and playout, a scripted user and a scripted engine, no clock.

Vocabulary: `say(ms)` and `be_quiet(ms)` move time on in 20 ms ticks; `engine` answers requests when told to;
`heard()` is what left the playout; `sent(kind)` are the events the client got.
"""

from __future__ import annotations

import itertools
import json
from typing import Any, Literal

import numpy as np

from model.interface import (
    AudioDelta,
    EngineEvent,
    EngineFault,
    EngineInfo,
    GenerateRequest,
    Pcm16,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    Transcript,
)
from rtc_server.audio.pcm import FRAME_MS, INPUT_SAMPLE_RATE
from rtc_server.audio.playout import Playout
from rtc_server.calls.client_events import ClientEvents, pcm_clip
from rtc_server.calls.core import CallCore, CoreSettings
from rtc_server.calls.intents import (
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
from rtc_server.calls.snapshot import CallSnapshot, ResumeGrant, restore, resumable_events, take_snapshot
from rtc_server.calls.turn_records import TurnRecord
from rtc_server.realtime.events import MAX_SOCKET_MESSAGE_BYTES
from rtc_server.realtime.session import (
    Audio,
    AudioInput,
    AudioOutput,
    Capabilities,
    SemanticVad,
    ServerVad,
    SessionConfig,
    Transcription,
)
from rtc_server.turns.completion import LONGEST_WAIT_MS
from rtc_server.turns.detector import TurnDetector, TurnDetectorConfig
from rtc_server.turns.interruption import BargeIn
from rtc_server.turns.vad import EnergyVoiceDetector

RATE = 24_000
WALL_OFFSET = 1_700_000_000.0  # wall clock minus virtual time
SETTINGS = {"min_speech_ms": 100, "max_utterance_ms": 20_000, "speculation_silence_ms": 120}


def tone(ms: int, rate: int = INPUT_SAMPLE_RATE, hz: float = 220.0, level: float = 0.3) -> Pcm16:
    """A sine of `ms` milliseconds, loud enough for the energy detector."""
    t = np.arange(rate * ms // 1000) / rate
    return (np.sin(2 * np.pi * hz * t) * level * 32767).astype(np.int16)


class VirtualCall:
    """One call; see the module's docstring."""

    def __init__(
        self,
        *,
        gives_transcripts: bool = True,
        silence_ms: int = 400,
        listens_to_history: bool = False,
        over_socket: bool = False,
        session_type: Literal["realtime", "transcription"] = "realtime",
        responses_per_minute: int = 120,
        listen_ahead_ms: int = 0,
        **detection: Any,
    ) -> None:
        """`over_socket`: sound in events both ways, as over a WebSocket."""
        counter = itertools.count()

        def new_id(prefix: str) -> str:
            return f"{prefix}_{next(counter)}"

        self.info = EngineInfo(
            "scripted",
            RATE,
            4,
            gives_transcripts,
            ("default", "other"),
            speed_range=(0.5, 1.5),
            supports_tools=True,
            listens_to_history=listens_to_history,
            listen_ahead_ms=listen_ahead_ms,
        )
        session = SessionConfig(
            type=session_type,
            model="scripted",
            audio=Audio(
                input=AudioInput(
                    turn_detection=ServerVad(silence_duration_ms=silence_ms, **detection),
                    transcription=Transcription() if gives_transcripts else None,
                ),
                output=AudioOutput(voice="default"),
            ),
        )
        self.new_id = new_id
        self.settings = CoreSettings(
            audio_in_events=over_socket, responses_per_minute=responses_per_minute, wall_offset=WALL_OFFSET
        )
        self._start("rtc_test", session)
        self.now = 100.0
        self.events: list[dict[str, Any]] = []
        self.requests: list[GenerateRequest] = []
        self.cancelled: list[str] = []
        self.granted: list[tuple[str, int]] = []
        self.released: list[str] = []
        self.observed: list[Observe] = []
        self.turns: list[TurnRecord] = []
        self.over: list[ResponseOver] = []
        self.frames: list[Pcm16] = []
        self.judged: list[Pcm16] = []
        """What the turn model was asked about."""
        self.is_judging_stopped = False
        self.sent_audio: dict[str, list[Pcm16]] = {}
        """What went out in events, by item."""

    def _start(self, call_id: str, session: SessionConfig) -> None:
        self.detector = TurnDetector(EnergyVoiceDetector(), self._detector_config(session))
        self.playout = Playout(sample_rate=RATE)
        self.core = CallCore(
            call_id=call_id,
            engine=self.info,
            session=session,
            can=Capabilities.of(self.info),
            detector=self.detector,
            playout=self.playout,
            barge_in=BargeIn(interruption_min_ms=400, gives_transcripts=self.info.gives_transcripts),
            new_id=self.new_id,
            settings=self.settings,
            on_session=self._on_session,
        )
        self.client = ClientEvents(
            self.core,
            self.new_id,
            "sess_1",
            1_700_000_000,
            append_audio=self._append,
            max_bytes=MAX_SOCKET_MESSAGE_BYTES,
        )

    # --- a call that is lost

    def snapshot(self) -> CallSnapshot:
        """What would outlive the call now."""
        return take_snapshot(self.core, session_id="sess_1", expires_at=1_700_000_000, dialect="realtime")

    def resume(self, snapshot: CallSnapshot | None = None) -> None:
        """The process is gone with everything it knew; another one goes on with what was kept, as bytes. Its client has
        just connected."""
        snapshot = CallSnapshot.from_bytes((snapshot or self.snapshot()).to_bytes())
        self._start("rtc_again", snapshot.session)
        restore(self.core, snapshot)
        self.events += self.client.opening()
        self.events += resumable_events(self.core, ResumeGrant("rsm_1", ("key", "a"), snapshot), 90.0)
        self._drain()

    def _append(self, audio: bytes) -> None:
        self.core.receive_audio(pcm_clip(audio), self.now)
        self._drain()

    def _on_session(self, session: SessionConfig) -> None:
        self.detector.update(self._detector_config(session))

    @staticmethod
    def _detector_config(session: SessionConfig) -> TurnDetectorConfig:
        detection = session.audio.input.turn_detection
        values = detection if isinstance(detection, ServerVad) else ServerVad()
        silence_ms = values.silence_duration_ms
        if isinstance(detection, SemanticVad):
            silence_ms = LONGEST_WAIT_MS[detection.eagerness]
        return TurnDetectorConfig(is_enabled=detection is not None, silence_duration_ms=silence_ms, **SETTINGS)

    # --- the user

    def say(self, ms: int, hz: float = 220.0) -> None:
        """Speak for `ms`, in 20 ms packets."""
        pcm = tone(ms, hz=hz)
        for start in range(0, len(pcm), 320):
            self._tick(pcm[start : start + 320])

    def be_quiet(self, ms: int) -> None:
        for _ in range(ms // FRAME_MS):
            self._tick(np.zeros(320, np.int16))

    def send(self, **event: Any) -> None:
        """One client event over the data channel."""
        self.events += self.client.receive(json.dumps(event), self.now)
        self._drain()

    def send_raw(self, data: str | bytes) -> None:
        """One message as it is."""
        self.events += self.client.receive(data, self.now)
        self._drain()

    def _tick(self, pcm: Pcm16) -> None:
        self.now += FRAME_MS / 1e3
        self.core.receive_audio(pcm, self.now, 80.0)
        self._drain()
        self.frames.append(self.core.pull_frame(self.now).pcm.copy())
        self._drain()
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.core.handle_deadline(self.now)
            self._drain()

    def _drain(self) -> None:
        for output in self.core.outputs():
            match output:
                case SendEvent(event):
                    json.dumps(event)
                    self.events.append(event)
                case SendAudio(event, pcm):
                    self.sent_audio.setdefault(event["item_id"], []).append(pcm)
                    if len(pcm):
                        self.events.append(event)
                case SubmitRequest(request):
                    self.requests.append(request)
                case CancelRequest(response_id):
                    self.cancelled.append(response_id)
                case GrantAudio(response_id, audio_ms):
                    self.granted.append((response_id, audio_ms))
                case ReleaseRequest(response_id):
                    self.released.append(response_id)
                case JudgeTurn(audio):
                    self.judged.append(audio)
                case StopJudging():
                    self.is_judging_stopped = True
                case TurnAnswered(record):
                    self.turns.append(record)
                case ResponseOver():
                    self.over.append(output)
                case Observe():
                    self.observed.append(output)

    def sounds_complete(self, probability: float) -> None:
        """The turn model answers."""
        self.core.receive_completion(probability, self.now)
        self._drain()

    # --- the engine

    def engine(self, *events: EngineEvent) -> None:
        for event in events:
            self.core.receive_engine(event, self.now)
            self._drain()

    def answer(self, text: str = "Paris is nice.", *, transcript: str | None = "Hello there.", ms: int = 1000) -> str:
        """The engine answers the latest request in full. Returns the response id."""
        response_id = self.requests[-1].response_id
        self.engine(ResponseStarted(response_id, self.now))
        if transcript is not None:
            self.engine(Transcript(response_id, transcript, self.now))
        if text:
            pcm = tone(ms, RATE, 440.0)
            self.engine(TextDelta(response_id, text, self.now), AudioDelta(response_id, pcm, len(text), self.now))
        self.engine(ResponseDone(response_id, "completed", self.now))
        return response_id

    def fail(self, code: str = "engine_lost") -> None:
        done = ResponseDone(self.requests[-1].response_id, "failed", self.now, EngineFault(code, "It broke."))
        self.engine(done)

    # --- what the client saw and heard

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def forget(self) -> None:
        """Look only at what happens from here on."""
        self.events.clear()
        self.frames.clear()

    def heard(self) -> float:
        """Milliseconds of sound that left since `forget`."""
        return sum(FRAME_MS for frame in self.frames if np.abs(frame).max() > 300)
