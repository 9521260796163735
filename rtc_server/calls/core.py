"""The rules of one call: who speaks, what is asked of the engine, what the client is told. Pure.

Feed it audio, messages, engine events and playout pulls, each with `now` (monotonic seconds); drain `outputs()`
after every call. It owns the conversation, the session and all responses of the call; it shares the detector
and the playout with nobody. Barge-in, in order: voice -> playout paused in the same tick -> verdict -> playout
flushed, response dead by id, engine cancelled, conversation cut to what was heard, events sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from model.interface import (
    INPUT_SAMPLE_RATE,
    AudioDelta,
    ConversationItem,
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
from rtc_server.audio.pcm import rms_dbfs
from rtc_server.audio.playout import Playout, PlayoutFrame
from rtc_server.errors import ProtocolError
from rtc_server.realtime.conversation import Conversation, Item, heard_text
from rtc_server.realtime.events import Event, EventWriter, NewId, ResponseCreate, ResponseParameters
from rtc_server.realtime.session import SessionConfig
from rtc_server.turns.detector import TurnDetector
from rtc_server.turns.events import (
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnEvent,
    VoiceDropped,
    VoiceOnset,
)
from rtc_server.turns.interruption import BargeIn, Verdict

from .announcements import Announcer
from .intents import CancelRequest, CoreOutput, GrantAudio, Observe, SendEvent, SubmitRequest
from .reply_playout import ReplyPlayout
from .responses import InputClock, Response, TurnTiming, response_latency_ms, turn_stages
from .user_turns import Unanswered, UserTurn, joined

VOICED_DBFS = -45.0  # a frame louder than this is sound to a listener; quieter is the decoder's noise floor
SAMPLES_PER_MS = INPUT_SAMPLE_RATE // 1000


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the rules depend on, apart from the session."""

    audio_credit_ms: int = 1_000
    response_timeout_seconds: float = 20.0
    speculate: bool = True
    pause_limit_seconds: float = 2.0
    """A reply that was paused for a voice nobody decided about goes on after this."""


class CallCore:
    """See the module's docstring. `new_id("item")` makes ids; all times are monotonic seconds."""

    def __init__(
        self,
        call_id: str,
        engine: EngineInfo,
        session: SessionConfig,
        detector: TurnDetector,
        playout: Playout,
        barge_in: BargeIn,
        new_id: NewId,
        settings: CoreSettings,
        on_session: Callable[[SessionConfig], None],
    ) -> None:
        self.call_id = call_id
        self.conversation = Conversation()
        self.session = session
        self.announce = Announcer(EventWriter(new_id))
        self._engine = engine
        self._detector = detector
        self._playout = playout
        self._barge_in = barge_in
        self._new_id = new_id
        self._settings = settings
        self._on_session = on_session
        self._outputs: list[CoreOutput] = []
        self._clock = InputClock()
        self._turn: UserTurn | None = None
        self._unanswered: list[Unanswered] = []
        self._responses: dict[str, Response] = {}  # alive: held, generating or playing
        self._held: Response | None = None
        self._replies = ReplyPlayout(playout, engine.sample_rate)
        self._paused_at: float | None = None
        self.has_spoken = False  # from the first audio on, the voice is fixed

    # --- inputs

    def receive_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float = 0.0) -> None:
        """Input samples, int16 mono 16 kHz, any length."""
        self._clock.received(self._detector.samples_received + len(pcm), now, jitter_buffer_ms)
        self._on_turn_events(self._detector.receive_audio(pcm), now)

    def judge_audio(self, now: float) -> None:
        """The voice detector has an answer that it owed (`turns.vad.VadFactory`)."""
        self._on_turn_events(self._detector.judge(), now)

    def receive_engine(self, event: EngineEvent, now: float) -> None:
        """One engine event; events of dead responses are ignored."""
        response = self._responses.get(event.response_id)
        if response is None:
            return
        if isinstance(event, ResponseStarted):
            response.stages.started = event.at
        elif isinstance(event, Transcript):
            response.stages.transcript = event.at
            response.transcript = event.text
            response.audio = None
        elif isinstance(event, TextDelta) and response.stages.first_text is None:
            response.stages.first_text = event.at
        elif isinstance(event, AudioDelta) and response.stages.first_audio is None:
            response.stages.first_audio = event.at
        if not response.is_held:
            self._apply(response, event, now)
            return
        response.held_events.append(event)
        if isinstance(event, Transcript) and self._barge_in.is_pending:
            self._apply_verdict(self._barge_in.transcript(event.text), now)
        elif isinstance(event, ResponseDone) and event.status == "failed":
            self._drop_held("failed")  # the endpoint will ask again
            if self._barge_in.is_pending:
                self._apply_verdict(self._barge_in.transcript_unavailable(self._detector.voiced_ms), now)

    def pull_frame(self, now: float) -> PlayoutFrame:
        """The next 20 ms of output at the playout rate."""
        frame = self._playout.pull()
        response = None if frame.response_id is None else self._responses.get(frame.response_id)
        if response is None:
            return frame
        if frame.is_first:
            response.output_started = True
            self.has_spoken = True
            self._emit(self.announce.output_buffer("started", response.response_id))
        is_voiced = not frame.is_silence and rms_dbfs(frame.pcm) > VOICED_DBFS
        if not response.measured and (is_voiced or frame.is_last):
            self._measure(response, now)
        if response.is_generating:
            played_ms = self._playout.played_ms(response.response_id)
            due = response.credit_due(played_ms, self._settings.audio_credit_ms)
            if due:
                self._outputs.append(GrantAudio(response.response_id, due))
        if frame.is_last:
            self._emit(self.announce.output_buffer("stopped", response.response_id))
            self._forget(response)
            self._replies.play_next(self._responses.values())
        return frame

    def next_deadline(self) -> float | None:
        """When `handle_deadline` wants to be called; None = no need."""
        deadlines = [r.deadline for r in self._responses.values() if r.deadline is not None]
        if self._paused_at is not None:
            deadlines.append(self._paused_at + self._settings.pause_limit_seconds)
        return min(deadlines, default=None)

    def handle_deadline(self, now: float) -> None:
        """Act on everything that is due at `now`."""
        for response in [r for r in self._responses.values() if r.deadline is not None and r.deadline <= now]:
            self._outputs.append(CancelRequest(response.response_id))
            fault = EngineFault("response_timeout", "The engine produced nothing in time.")
            self.receive_engine(ResponseDone(response.response_id, "failed", now, fault), now)
        if self._paused_at is not None and now >= self._paused_at + self._settings.pause_limit_seconds:
            self._apply_verdict(self._barge_in.timed_out(), now)

    def outputs(self) -> list[CoreOutput]:
        """What happened since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def close(self) -> None:
        """Cancel what is alive."""
        for response in list(self._responses.values()):
            if response.is_generating:
                self._outputs.append(CancelRequest(response.response_id))
        self._responses.clear()
        self._held = None
        self._playout.flush()
        self._detector.close()

    # --- turns

    @property
    def is_agent_active(self) -> bool:
        """A reply is being made or played (held ones do not count)."""
        return any(not response.is_held for response in self._responses.values())

    def _on_turn_events(self, events: Iterable[TurnEvent], now: float) -> None:
        for event in events:
            self._on_turn_event(event, now)
        if self._turn is not None and self._barge_in.is_pending:
            self._apply_verdict(self._barge_in.voiced(self._detector.voiced_ms), now)

    def _on_turn_event(self, event: TurnEvent, now: float) -> None:
        match event:
            case VoiceOnset():
                self._on_voice(now)
            case VoiceDropped():
                self._apply_verdict(self._barge_in.voice_dropped(), now)
            case SpeechStarted(start_sample):
                self._turn = UserTurn(self._new_id("turn"), self._new_id("item"), start_sample)
                if not self._barge_in.is_pending:
                    self._announce_turn(self._turn)
            case SpeechPaused():
                self._speculate(now)
            case SpeechResumed():
                self._drop_held("resumed")
                if self._turn is not None and not self._turn.is_announced:
                    self._on_voice(now)
            case SpeechStopped():
                self._on_speech_stopped(event, now)

    def _on_voice(self, now: float) -> None:
        detection = self.session.audio.input.turn_detection
        if detection is not None and detection.interrupt_response and self.is_agent_active:
            self._apply_verdict(self._barge_in.voice_onset(), now)

    def _on_speech_stopped(self, event: SpeechStopped, now: float) -> None:
        turn = self._turn
        if turn is None:
            return
        turn.stopped, turn.audio, turn.pauses = event, self._detector.utterance(), self._detector.pauses
        if self._barge_in.is_pending:
            if self._held is None and self._engine.gives_transcripts:
                self._speculate(now)  # its transcript is what the verdict waits for
            self._apply_verdict(self._barge_in.speech_ended(self._detector.voiced_ms), now)
        elif turn.is_announced:
            self._complete_turn(turn, now)
        else:
            self._turn = None  # judged a backchannel while it was spoken
            self._drop_held("backchannel")

    def _apply_verdict(self, verdict: Verdict, now: float) -> None:
        match verdict:
            case Verdict.PAUSE:
                self._playout.pause()
                self._paused_at = now
            case Verdict.RESUME:
                self._playout.resume()
                self._paused_at = None
                self._outputs.append(Observe("interruption", "resumed"))
                if self._turn is not None and self._turn.stopped is not None:
                    self._turn = None
                self._drop_held("backchannel")
            case Verdict.INTERRUPT:
                self._outputs.append(Observe("interruption", "interrupted"))
                turn = self._turn
                if turn is not None and not turn.is_announced:
                    self._announce_turn(turn)
                self.interrupt("turn_detected", now)
                if turn is not None and turn.stopped is not None:
                    self._complete_turn(turn, now)

    def _announce_turn(self, turn: UserTurn) -> None:
        turn.is_announced = True
        start_ms = turn.start_sample // SAMPLES_PER_MS
        event = self.announce.event("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=turn.item_id)
        self._emit([event])

    def _complete_turn(self, turn: UserTurn, now: float) -> None:
        """The endpoint: the turn enters the conversation and, if wanted, is answered."""
        assert turn.stopped is not None, "a turn is completed once it stopped"
        assert turn.audio is not None, "a stopped turn has its audio"
        self._turn = None
        detection = self.session.audio.input.turn_detection
        end_ms = turn.stopped.end_sample // SAMPLES_PER_MS
        kind = "input_audio_buffer.speech_stopped"
        self._emit([self.announce.event(kind, audio_end_ms=end_ms, item_id=turn.item_id)])
        self.commit_audio(turn.item_id, turn.audio, turn.pauses)
        is_silent = self._held is not None and self._held.transcript == ""
        if detection is None or not detection.create_response or self.is_agent_active or is_silent:
            # Nobody may answer now, or there were no words. What was said waits in `_unanswered`.
            if is_silent:
                self._unanswered.pop()
                self._emit(self.announce.transcript(turn.item_id, "", len(turn.audio) / INPUT_SAMPLE_RATE))
            self._drop_held("unwanted")
            return
        arrived, jitter_ms = self._clock.arrival(turn.stopped.last_voiced_sample)
        timing = TurnTiming(arrived, jitter_ms, now)
        held = self._held
        if held is None or held.turn_id != turn.turn_id:
            self._drop_held("stale")
            self._begin(self._request(turn.turn_id, self._unanswered_audio()), False, timing, now)
        else:
            self._held = None
            self._outputs.append(Observe("speculation", "used"))
            self._release(held, timing, now)

    def _speculate(self, now: float) -> None:
        """Start recognition and the reply before it is known that the turn is over; nothing of it is shown."""
        turn = self._turn
        detection = self.session.audio.input.turn_detection
        if turn is None or detection is None or not detection.create_response or not self._settings.speculate:
            return
        if self.is_agent_active and not self._barge_in.is_pending:
            return
        self._drop_held("restarted")
        audio, pauses = turn.audio, turn.pauses
        if audio is None:
            audio, pauses = self._detector.utterance(), self._detector.pauses
        request = self._request(turn.turn_id, self._unanswered_audio(Unanswered("", audio, pauses)))
        self._held = self._begin(request, True, None, now)

    def _drop_held(self, outcome: str) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._outputs.append(Observe("speculation", outcome))
            self._kill(held)

    # --- what the client may do as well (used by `client_events`)

    def commit_audio(self, item_id: str, audio: Pcm16, pauses: tuple[int, ...] = ()) -> None:
        """User audio becomes an item of the conversation and waits for a response."""
        item = Item(item_id, "user", "input_audio", "")
        self._emit(self.announce.user_audio_item(item, self.conversation.append(item)))
        self._unanswered.append(Unanswered(item_id, audio, pauses))

    def commit_input(self) -> bool:
        """Push-to-talk: what was received since the last commit becomes an item. False when there is none."""
        audio = self._detector.commit()
        turn, self._turn = self._turn, None
        self._drop_held("committed")
        if not len(audio):
            return False
        self.commit_audio(turn.item_id if turn is not None else self._new_id("item"), audio)
        return True

    def clear_input(self, now: float) -> None:
        """Forget received audio that is not in the conversation yet."""
        self._detector.clear()
        self._turn = None
        self._drop_held("cleared")
        self._apply_verdict(self._barge_in.voice_dropped(), now)

    def update_session(self, session: SessionConfig) -> None:
        """Take over a new session configuration."""
        self.session = session
        self._on_session(session)
        if session.audio.input.turn_detection is None:
            self._turn = None
            self._drop_held("unwanted")

    def create_response(self, event: ResponseCreate, now: float) -> None:
        """`response.create`. Raises ProtocolError when one is being generated or there is nothing to answer."""
        if any(r.is_generating and not r.is_held for r in self._responses.values()):
            message = "A response is being generated already; cancel it first."
            raise ProtocolError("conversation_already_has_active_response", message, event_id=event.event_id)
        if not self._unanswered and not self.conversation.history() and not self.session.instructions:
            message = "The conversation is empty: there is nothing to respond to."
            raise ProtocolError("invalid_value", message, param="response", event_id=event.event_id)
        parameters = event.response or ResponseParameters()
        self._drop_held("replaced")
        request = self._request(self._new_id("turn"), self._unanswered_audio(), parameters)
        self._begin(request, False, None, now, parameters.metadata)

    def cancel_response(self, response_id: str | None) -> bool:
        """`response.cancel`: generation stops, queued audio plays on. False when nothing is being generated."""
        for response in self._responses.values():
            if response.is_generating and not response.is_held and response_id in (None, response.response_id):
                self._outputs.append(CancelRequest(response.response_id))
                response.deadline = None
                response.done = ResponseDone(response.response_id, "cancelled", 0.0)
                self._announce_done(response, "cancelled", {"type": "cancelled", "reason": "client_cancelled"})
                self._playout.finish(response.response_id)
                if not response.received_audio_ms:
                    self._forget(response)
                return True
        return False

    def interrupt(self, reason: str, now: float) -> None:
        """Stop the reply now: flush what was queued, cut the conversation to what was heard."""
        flushed = self._playout.flush()
        self._paused_at = None
        self._barge_in.reset()
        for response in [r for r in self._responses.values() if not r.is_held]:
            is_playing = flushed.response_id == response.response_id
            if response.output_started:
                self._emit(self.announce.output_buffer("cleared", response.response_id))
            heard = heard_text(response.text, flushed.heard_text_end) if is_playing else ""
            item = None
            if response.has_item:
                item = self.conversation.update(response.item_id, text=heard, status="incomplete")
            if response.is_generating:
                self._outputs.append(CancelRequest(response.response_id))
            if not response.is_announced_done:
                details = {"type": "cancelled", "reason": reason}
                self._emit(self.announce.reply_done(response, item, "cancelled", details))
                self._outputs.append(Observe("response", "cancelled"))
            if response.has_item:
                played_ms = round(flushed.played_ms) if is_playing else 0
                self.conversation.update(response.item_id, audio_ms=played_ms)
                self._emit(self.announce.truncated(response.item_id, played_ms))
            if response.audio is not None and response.user_item_id is not None and not response.output_started:
                # The user went on before anything was heard and before the words were known: ask again, with both.
                self._unanswered.insert(0, Unanswered(response.user_item_id, response.audio, ()))
            self._forget(response)

    # --- responses

    def _request(
        self,
        turn_id: str,
        unanswered: Unanswered | None,
        parameters: ResponseParameters | None = None,
    ) -> GenerateRequest:
        parameters = parameters or ResponseParameters()
        limit = parameters.max_output_tokens or self.session.max_output_tokens
        return GenerateRequest(
            call_id=self.call_id,
            response_id=self._new_id("resp"),
            turn_id=turn_id,
            items=self._history(),
            audio=None if unanswered is None else unanswered.audio,
            pauses=() if unanswered is None else unanswered.pauses,
            instructions=parameters.instructions or self.session.instructions,
            voice=self.session.audio.output.voice,
            max_output_tokens=limit if isinstance(limit, int) else None,
            audio_credit_ms=self._settings.audio_credit_ms,
        )

    def _history(self) -> tuple[ConversationItem, ...]:
        """The conversation as the engine shall see it: a paused reply counts only as far as it was heard."""
        if not self._barge_in.is_pending:
            return self.conversation.history()
        history = Conversation()
        for item in self.conversation:
            history.append(item)
        for response in self._responses.values():
            if response.has_item:
                played_ms = self._playout.played_ms(response.response_id)
                heard = heard_text(response.text, self._playout.text_end_at(played_ms))
                history.update(response.item_id, text=heard)
        return history.history()

    def _unanswered_audio(self, latest: Unanswered | None = None) -> Unanswered | None:
        """Everything said that nobody answered yet, as one stretch of audio."""
        return joined([*self._unanswered, *([latest] if latest is not None else [])])

    def _begin(
        self,
        request: GenerateRequest,
        is_held: bool,
        timing: TurnTiming | None,
        now: float,
        metadata: dict[str, str] | None = None,
    ) -> Response:
        response = Response(
            response_id=request.response_id,
            item_id=self._new_id("item"),
            turn_id=request.turn_id,
            is_held=is_held,
            speculated=is_held,
            timing=timing,
            metadata=metadata,
            granted_ms=request.audio_credit_ms,
        )
        response.stages.submitted = now
        response.audio = request.audio
        response.audio_seconds = 0.0 if request.audio is None else len(request.audio) / INPUT_SAMPLE_RATE
        self._responses[response.response_id] = response
        self._outputs.append(SubmitRequest(request))
        if not is_held:
            self._open(response, now)
        return response

    def _open(self, response: Response, now: float) -> None:
        """The response becomes visible. Everything said so far is answered by it."""
        response.user_item_id = self._unanswered[-1].item_id if self._unanswered else None
        self._unanswered.clear()
        response.deadline = now + self._settings.response_timeout_seconds
        self._emit(self.announce.response_created(response))

    def _release(self, response: Response, timing: TurnTiming, now: float) -> None:
        response.is_held = False
        response.timing = timing
        self._open(response, now)
        events, response.held_events = response.held_events, []
        for event in events:
            self._apply(response, event, now)

    def _apply(self, response: Response, event: EngineEvent, now: float) -> None:
        match event:
            case Transcript(_, text, _):
                if response.user_item_id is not None:
                    self.conversation.update(response.user_item_id, text=text)
                    self._emit(self.announce.transcript(response.user_item_id, text, response.audio_seconds))
            case TextDelta(_, text, _):
                response.deadline = None
                self._open_item(response)
                response.text += text
                self._emit(self.announce.reply_text(response, text))
            case AudioDelta():
                response.deadline = None
                self._open_item(response)
                self._replies.play(response, event)
            case ResponseDone():
                self._on_done(response, event)

    def _open_item(self, response: Response) -> None:
        if response.has_item:
            return
        response.has_item = True
        item = Item(response.item_id, "assistant", "output_audio", "", "in_progress")
        response.previous_item_id = self.conversation.append(item)
        self._emit(self.announce.reply_item_added(response, item, response.previous_item_id))

    def _on_done(self, response: Response, done: ResponseDone) -> None:
        response.done = done
        response.deadline = None
        details = None
        if done.status == "incomplete":
            details = {"type": "incomplete", "reason": "max_output_tokens"}
        self._announce_done(response, done.status, details)
        if response.unplayed:
            return
        if response.received_audio_ms:
            self._replies.finish(response)
        else:
            self._forget(response)

    def _announce_done(self, response: Response, status: str, details: dict[str, str] | None) -> None:
        response.is_announced_done = True
        item = None
        if response.has_item:
            item_status = "completed" if status == "completed" else "incomplete"
            audio_ms = round(response.received_audio_ms)
            item = self.conversation.update(response.item_id, text=response.text, status=item_status, audio_ms=audio_ms)
        self._emit(self.announce.reply_done(response, item, status, details))
        self._outputs.append(Observe("response", status))

    def _measure(self, response: Response, now: float) -> None:
        response.measured = True
        latency, stages = response_latency_ms(response, now), turn_stages(response, now)
        event = self.announce.event(
            "rtc_server.turn.metrics",
            response_id=response.response_id,
            item_id=response.item_id,
            response_latency_ms=latency,
            speculated=response.speculated,
            stages=stages,
        )
        self._emit([event])
        for name, stage in stages.items():
            self._outputs.append(Observe("stage", name, (stage["end_ms"] - stage["start_ms"]) / 1e3))
        if latency is not None:
            self._outputs.append(Observe("latency", "", latency / 1e3))

    def _kill(self, response: Response) -> None:
        if response.is_generating:
            self._outputs.append(CancelRequest(response.response_id))
        self._forget(response)

    def _forget(self, response: Response) -> None:
        self._responses.pop(response.response_id, None)
        self._replies.forget(response)
        if self._barge_in.is_pending and not self.is_agent_active:
            # The reply ended by itself while a voice was being judged: it is an ordinary turn now.
            self._barge_in.reset()
            self._paused_at = None
            self._playout.resume()
            if self._turn is not None and not self._turn.is_announced:
                self._announce_turn(self._turn)

    def _emit(self, events: list[Event]) -> None:
        self._outputs += [SendEvent(event) for event in events]
