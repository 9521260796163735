"""The rules of one call: who speaks, what is asked of the engine, what the client is told. Pure.

Feed it audio, messages, engine events and playout pulls, each with `now` (monotonic seconds); drain `outputs()`
after every call. It owns the conversation, the session and the user's turns, and through its parts (`replies`,
`transcripts`, `listening`) all responses; it shares the detector and the playout with nobody. Barge-in, in order:
voice -> playout paused in the same tick -> verdict -> playout flushed, response dead by id, engine cancelled,
conversation cut to what was heard, events sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from model.interface import (
    INPUT_SAMPLE_RATE,
    ConversationItem,
    EngineEvent,
    EngineFault,
    EngineInfo,
    GenerateRequest,
    HistoryItem,
    Pcm16,
    ResponseDone,
    Transcript,
    TranscriptDelta,
)
from rtc_server.audio.playout import Playout, PlayoutFrame
from rtc_server.errors import ProtocolError
from rtc_server.realtime.conversation import AnyItem, AudioArchive, Conversation, FunctionResult, Item
from rtc_server.realtime.events import EventWriter, ResponseCreate, ResponseParameters
from rtc_server.realtime.session import Capabilities, SessionConfig, TurnDetection
from rtc_server.realtime.words import NewId
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
from .budget import ResponseBudget
from .contexts import HEARD_SECONDS, DecodeSound, engine_history, response_context
from .idle import PROMPT, IdleTimer
from .intents import CancelRequest, CoreOutput, Outbox
from .listening import ListenAhead
from .plans import ResponsePlan, plan_response
from .replies import Replies, ReplySettings
from .responses import InputClock, Response, TurnTiming
from .transcripts import Transcripts
from .turn_endings import TurnEnding
from .user_turns import Unanswered, UserTurn, joined

SAMPLES_PER_MS = INPUT_SAMPLE_RATE // 1000


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the rules depend on, apart from the session."""

    audio_credit_ms: int = 1_000
    response_timeout_seconds: float = 20.0
    speculate: bool = True
    pause_limit_seconds: float = 2.0
    """A reply that was paused for a voice nobody decided about goes on after this."""
    audio_in_events: bool = False
    """The client gets its sound in events (WebSocket) instead of a media stream."""
    responses_per_minute: int = 120
    kept_audio_seconds: float = 60.0
    """Sound of the conversation that is kept for `conversation.item.retrieve`."""
    wall_offset: float = 0.0
    """Wall clock minus `now`, in seconds, as the call began: a clock that is set later moves no record of it."""


class CallCore:
    """See the module's docstring. `new_id("item")` makes ids; all times are monotonic seconds."""

    def __init__(
        self,
        call_id: str,
        engine: EngineInfo,
        session: SessionConfig,
        can: Capabilities,
        detector: TurnDetector,
        playout: Playout,
        barge_in: BargeIn,
        new_id: NewId,
        settings: CoreSettings,
        on_session: Callable[[SessionConfig], None],
    ) -> None:
        self.call_id = call_id
        self.conversation_id = new_id("conv")
        self.conversation = Conversation()
        self.archive = AudioArchive(settings.kept_audio_seconds)
        self.sounds = AudioArchive(HEARD_SECONDS) if engine.listens_to_history else None
        self.can = can
        self.announce = Announcer(EventWriter(new_id))
        self._engine = engine
        self._detector = detector
        self._playout = playout
        self._barge_in = barge_in
        self._new_id = new_id
        self._settings = settings
        self._on_session = on_session
        self._outbox = Outbox()
        self._clock = InputClock()
        self._turn: UserTurn | None = None
        self._unanswered: list[Unanswered] = []
        self._held: Response | None = None
        self._listening = ListenAhead(engine.listen_ahead_ms, self._outbox)
        self._paused_at: float | None = None
        self._idle = IdleTimer()
        self._ending = TurnEnding(detector, self._outbox)
        self._budget = ResponseBudget(settings.responses_per_minute)
        self.replies = Replies(
            self.conversation,
            self.archive,
            self.announce,
            playout,
            self._outbox,
            new_id,
            ReplySettings(
                call_id=call_id,
                conversation_id=self.conversation_id,
                engine_sample_rate=engine.sample_rate,
                audio_credit_ms=settings.audio_credit_ms,
                response_timeout_seconds=settings.response_timeout_seconds,
                audio_in_events=settings.audio_in_events,
                wall_offset=settings.wall_offset,
            ),
            on_forgotten=self._on_reply_forgotten,
        )
        self.transcripts = Transcripts(
            call_id, self.conversation, self.announce, self._outbox, new_id, is_possible=engine.gives_transcripts
        )
        self.session = session
        self._apply_session(session)

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
        response = self.replies.get(event.response_id)
        if response is None:
            if not self._listening.receive(event):
                self.transcripts.receive(event)
            return
        response.note(event)
        if not response.is_held:
            self._apply(response, event)
            return
        response.held_events.append(event)
        if isinstance(event, Transcript):
            if self._barge_in.is_pending:
                self._apply_verdict(self._barge_in.transcript(event.text), now)
            if response is self._held:
                self._ending.on_words(event.text)
                self._decide_silence(now)
        elif isinstance(event, ResponseDone) and event.status == "failed":
            self._drop_held("failed")  # the endpoint will ask again
            if self._barge_in.is_pending:
                self._apply_verdict(self._barge_in.transcript_unavailable(self._detector.voiced_ms), now)

    def receive_completion(self, probability: float, now: float) -> None:
        """The turn model's answer to the latest `JudgeTurn`."""
        self._ending.on_sound(probability)
        self._decide_silence(now)

    def pull_frame(self, now: float) -> PlayoutFrame:
        """The next 20 ms of output at the playout rate."""
        frame = self._playout.pull()
        if self.replies.on_frame(frame, now) is not None and not self.replies.is_active and self._turn is None:
            self._idle.start(now, self._detector.samples_received)
        return frame

    def next_deadline(self) -> float | None:
        """When `handle_deadline` wants to be called; None = no need."""
        deadlines = [r.deadline for r in self.replies if r.deadline is not None]
        if self._paused_at is not None:
            deadlines.append(self._paused_at + self._settings.pause_limit_seconds)
        for deadline in (self.transcripts.next_deadline(), self._idle_deadline()):
            if deadline is not None:
                deadlines.append(deadline)
        return min(deadlines, default=None)

    def handle_deadline(self, now: float) -> None:
        """Act on everything that is due at `now`."""
        for response in [r for r in self.replies if r.deadline is not None and r.deadline <= now]:
            self._outbox.add(CancelRequest(response.response_id))
            fault = EngineFault("response_timeout", "The engine produced nothing in time.")
            self.receive_engine(ResponseDone(response.response_id, "failed", now, fault), now)
        if self._paused_at is not None and now >= self._paused_at + self._settings.pause_limit_seconds:
            self._apply_verdict(self._barge_in.timed_out(), now)
        self.transcripts.handle_deadline(now)
        idle = self._idle_deadline()
        if idle is not None and now >= idle:
            self._on_idle(now)

    def outputs(self) -> list[CoreOutput]:
        """What happened since the last call, in order."""
        return self._outbox.drain()

    def close(self) -> None:
        """Cancel what is alive."""
        self.replies.close()
        self._listening.stop()
        self.transcripts.close()
        self._held = None
        self._detector.close()

    # --- turns

    @property
    def _detection(self) -> TurnDetection | None:
        return self.session.audio.input.turn_detection

    @property
    def is_agent_active(self) -> bool:
        """A reply is being made or played (held ones do not count)."""
        return self.replies.is_active

    @property
    def is_answering(self) -> bool:
        """A reply is made or played, or is due: the user has stopped, and waits."""
        return self.is_agent_active or (self._turn is not None and self._turn.stopped is not None)

    def _on_turn_events(self, events: Iterable[TurnEvent], now: float) -> None:
        for event in events:
            self._on_turn_event(event, now)
        if self._turn is not None and self._barge_in.is_pending:
            self._apply_verdict(self._barge_in.voiced(self._detector.voiced_ms), now)
        self._listen_ahead()

    def _on_turn_event(self, event: TurnEvent, now: float) -> None:
        match event:
            case VoiceOnset():
                self._on_voice(now)
            case VoiceDropped():
                self._apply_verdict(self._barge_in.voice_dropped(), now)
            case SpeechStarted(start_sample):
                self._idle.stop()
                self._turn = UserTurn(self._new_id("turn"), self._new_id("item"), start_sample)
                if not self._barge_in.is_pending:
                    self._announce_turn(self._turn)
            case SpeechPaused():
                self._ending.ask(self._detection)
                self._speculate(now)
            case SpeechResumed():
                self._ending.forget(self._detection)
                self._drop_held("resumed")
                if self._turn is not None and not self._turn.is_announced:
                    self._on_voice(now)
            case SpeechStopped():
                self._ending.forget(self._detection)
                self._on_speech_stopped(event, now)

    def _decide_silence(self, now: float) -> None:
        """A witness has spoken: the pause may have to last longer or less long than was thought."""
        silence_ms = self._ending.silence_ms(self._detection)
        if silence_ms is not None:
            self._on_turn_events(self._detector.decide_silence(silence_ms), now)

    def _on_voice(self, now: float) -> None:
        self._idle.stop()
        detection = self._detection
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
            self._abandon("backchannel")

    def _apply_verdict(self, verdict: Verdict, now: float) -> None:
        match verdict:
            case Verdict.PAUSE:
                self._playout.pause()
                self._paused_at = now
            case Verdict.RESUME:
                self._playout.resume()
                self._paused_at = None
                self._outbox.observe("interruption", "resumed")
                if self._turn is not None and self._turn.stopped is not None:
                    self._turn = None
                self._abandon("backchannel")
            case Verdict.INTERRUPT:
                self._outbox.observe("interruption", "interrupted")
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
        self._outbox.send([event])

    def _complete_turn(self, turn: UserTurn, now: float) -> None:
        """The endpoint: the turn enters the conversation and, if wanted, is answered."""
        assert turn.stopped is not None, "a turn is completed once it stopped"
        assert turn.audio is not None, "a stopped turn has its audio"
        self._turn = None
        end_ms = turn.stopped.end_sample // SAMPLES_PER_MS
        kind = "input_audio_buffer.speech_stopped"
        self._outbox.send([self.announce.event(kind, audio_end_ms=end_ms, item_id=turn.item_id)])
        self.commit_audio(turn.item_id, turn.turn_id, turn.audio, turn.pauses, now)
        is_silent = self._held is not None and self._held.transcript == ""
        if not self._answers_turns or self.is_agent_active or is_silent:
            # Nobody may answer now, or there were no words. What was said waits in `_unanswered`.
            if is_silent:
                self._unanswered.pop()
                self.transcripts.cover(turn.item_id)
                self.transcripts.on_transcript(turn.item_id, "", len(turn.audio) / INPUT_SAMPLE_RATE)
            self._abandon("unwanted")
            return
        arrived, jitter_ms = self._clock.arrival(turn.stopped.last_voiced_sample)
        timing = TurnTiming(arrived, jitter_ms, now)
        held = self._held
        if held is None or held.turn_id != turn.turn_id:
            self._drop_held("stale")
            plan = self._plan()
            request = self._request(plan, turn.turn_id, self._history(), self._unanswered_audio())
            self._open(self.replies.begin(request, plan, timing, now), now)
        else:
            self._held = None
            self._outbox.observe("speculation", "used")
            self._release(held, timing, now)

    def _speculate(self, now: float) -> None:
        """Start recognition and the reply before it is known that the turn is over; nothing of it is shown."""
        turn = self._turn
        if turn is None or not self._settings.speculate or not self._may_answer:
            return
        self._drop_held("restarted")
        plan = self._plan()
        self._held = self.replies.begin(self._guess(turn, plan), plan, None, now)

    def _listen_ahead(self) -> None:
        """Let the engine hear what was said of a long turn so far. A held response hears all of it anyway."""
        turn = self._turn
        if turn is None or turn.stopped is not None or self._held is not None or not self._may_answer:
            return
        num_samples = self._detector.utterance_samples + sum(len(part.audio) for part in self._unanswered)
        if self._listening.is_due(turn.turn_id, num_samples):
            self._listening.begin(self._guess(turn, self._plan()))

    def _guess(self, turn: UserTurn, plan: ResponsePlan) -> GenerateRequest:
        """What would be asked if the turn were over: nobody waits for it yet."""
        audio, pauses = turn.audio, turn.pauses
        if audio is None:
            audio, pauses = self._detector.utterance(), self._detector.pauses
        waiting = self._unanswered_audio(Unanswered("", audio, pauses))
        return replace(self._request(plan, turn.turn_id, self._history(), waiting), is_held=True)

    def _drop_held(self, outcome: str) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._outbox.observe("speculation", outcome)
            self.replies.kill(held)

    def _abandon(self, outcome: str) -> None:
        """The turn will not be answered as it stands: nothing that was prepared for it is of use."""
        self._drop_held(outcome)
        self._listening.stop()

    @property
    def _may_answer(self) -> bool:
        """The turn that is going on will be answered, as far as one can tell."""
        return self._answers_turns and (self._barge_in.is_pending or not self.is_agent_active)

    @property
    def _answers_turns(self) -> bool:
        """A finished turn is answered by itself."""
        detection = self._detection
        return self.session.answers and detection is not None and detection.create_response

    # --- the silence after a reply

    def _idle_deadline(self) -> float | None:
        return self._idle.deadline(self._detection) if self._answers_turns else None

    def _on_idle(self, now: float) -> None:
        """Nobody spoke for `idle_timeout_ms` after the reply had been heard: the model speaks again."""
        self._idle.stop()
        item = Item(self._new_id("item"), "user", "input_audio", "")
        times = {
            "audio_start_ms": self._idle.start_sample // SAMPLES_PER_MS,
            "audio_end_ms": self._detector.samples_received // SAMPLES_PER_MS,
        }
        self._outbox.send([self.announce.event("input_audio_buffer.timeout_triggered", **times, item_id=item.item_id)])
        self._outbox.send(self.announce.user_audio_item(item, self.conversation.append(item)))
        plan, items = self._plan(), (*self._history(), ConversationItem("system", PROMPT))
        request = self._request(plan, self._new_id("turn"), items, None)
        self._open(self.replies.begin(request, plan, None, now), now)

    # --- what the client may do as well (used by `client_events`)

    def commit_audio(self, item_id: str, turn_id: str, audio: Pcm16, pauses: tuple[int, ...], now: float) -> None:
        """User audio becomes an item of the conversation and waits for a response."""
        item = Item(item_id, "user", "input_audio", "")
        self._outbox.send(self.announce.user_audio_item(item, self.conversation.append(item)))
        self._keep_audio(item_id, turn_id, audio, pauses, now)

    def _keep_audio(self, item_id: str, turn_id: str, audio: Pcm16, pauses: tuple[int, ...], now: float) -> None:
        self.archive.add(item_id, audio, INPUT_SAMPLE_RATE)
        if self.sounds is not None:
            self.sounds.add(item_id, audio, INPUT_SAMPLE_RATE)
        self.transcripts.expect(item_id, turn_id, audio, now, at_once=not self.session.answers)
        if self.session.answers:
            self._unanswered.append(Unanswered(item_id, audio, pauses))

    def commit_input(self, now: float) -> bool:
        """Push-to-talk: what was received since the last commit becomes an item. False when there is none."""
        audio = self._detector.commit()
        turn, self._turn = self._turn, None
        self._abandon("committed")
        if not len(audio):
            return False
        item_id, turn_id = (
            (turn.item_id, turn.turn_id) if turn is not None else (self._new_id("item"), self._new_id("turn"))
        )
        self.commit_audio(item_id, turn_id, audio, (), now)
        return True

    def clear_input(self, now: float) -> None:
        """Forget received audio that is not in the conversation yet."""
        self._detector.clear()
        self._turn = None
        self._abandon("cleared")
        self._apply_verdict(self._barge_in.voice_dropped(), now)

    def add_item(self, item: AnyItem, previous_item_id: str | None, audio: Pcm16 | None, now: float) -> None:
        """`conversation.item.create`. `audio` is the user's sound of the item. Raises ProtocolError."""
        if isinstance(item, FunctionResult) and not self.conversation.has_call(item.call_id):
            message = f"There is no function call '{item.call_id}' in the conversation."
            raise ProtocolError("invalid_value", message, param="item.call_id")
        self._abandon("replaced")
        self._idle.stop()
        self._outbox.send(self.announce.item(item, self.conversation.insert(item, previous_item_id)))
        if audio is not None and isinstance(item, Item) and not item.text:
            self._keep_audio(item.item_id, self._new_id("turn"), audio, (), now)

    def delete_item(self, item_id: str) -> None:
        """`conversation.item.delete`. Raises ProtocolError."""
        self.conversation.delete(item_id)
        self.archive.drop(item_id)
        if self.sounds is not None:
            self.sounds.drop(item_id)
        self._unanswered = [part for part in self._unanswered if part.item_id != item_id]

    def update_session(self, session: SessionConfig) -> None:
        """Take over a new session configuration."""
        self._apply_session(session)
        self._on_session(session)
        if session.audio.input.turn_detection is None:
            self._turn = None
            self._abandon("unwanted")

    def _apply_session(self, session: SessionConfig) -> None:
        self.session = session
        self.transcripts.is_wanted = session.audio.input.transcription is not None or not session.answers

    def create_response(self, event: ResponseCreate, now: float, decode: DecodeSound) -> None:
        """`response.create`; `decode` turns a message's sound into samples. Raises ProtocolError when one is being
        generated or there is nothing to answer."""
        if not self.session.answers:
            raise ProtocolError("invalid_event", "A transcription session has no responses.", param="type")
        parameters = event.response or ResponseParameters()
        plan = plan_response(self.session, parameters, self.can, voice_is_fixed=self.replies.has_spoken)
        if plan.in_conversation and self.replies.is_generating:
            message = "A response is being generated already; cancel it first."
            raise ProtocolError("conversation_already_has_active_response", message)
        if wait := self._budget.wait(now):
            message = f"Too many responses; the next may begin in {wait:.1f} s."
            raise ProtocolError("rate_limit_exceeded", message)
        if parameters.input is not None:
            sounds, listens = self.sounds or self.archive, self.sounds is not None
            items, audio = response_context(
                parameters.input, self.conversation, sounds, decode, self._new_id, listens=listens
            )
            waiting = None if audio is None else Unanswered("", audio, ())
        else:
            items, waiting = self._history(), self._unanswered_audio()
        if waiting is None and not items and not plan.instructions:
            message = "The conversation is empty: there is nothing to respond to."
            raise ProtocolError("invalid_value", message, param="response")
        self._idle.stop()
        if plan.in_conversation:
            self._abandon("replaced")
        request = self._request(plan, self._new_id("turn"), items, waiting)
        self._open(self.replies.begin(request, plan, None, now), now, answers=parameters.input is None)

    def cancel_response(self, response_id: str | None) -> bool:
        """`response.cancel`. False when nothing is being generated."""
        return self.replies.cancel(response_id)

    def interrupt(self, reason: str, now: float) -> None:
        """Stop the reply now: flush what was queued, cut the conversation to what was heard."""
        self._paused_at = None
        self._barge_in.reset()
        for response in reversed(self.replies.interrupt(reason)):
            if response.audio is not None and response.user_item_id is not None:
                # The user went on before anything was heard and before the words were known: ask again, with both.
                part = Unanswered(response.user_item_id, response.audio, (), response.user_items)
                self._unanswered.insert(0, part)

    # --- responses

    def _plan(self) -> ResponsePlan:
        return plan_response(self.session, None, self.can, voice_is_fixed=self.replies.has_spoken)

    def _request(
        self, plan: ResponsePlan, turn_id: str, items: tuple[HistoryItem, ...], waiting: Unanswered | None
    ) -> GenerateRequest:
        return plan.request(self.call_id, self._new_id("resp"), turn_id, items, waiting, self._settings.audio_credit_ms)

    def _history(self) -> tuple[HistoryItem, ...]:
        """The conversation as the engine shall see it: a paused reply counts only as far as it was heard."""
        heard = dict(self.replies.heard_so_far()) if self._barge_in.is_pending else {}
        waiting = {item_id for part in self._unanswered for item_id in part.item_ids}
        return engine_history(self.conversation, heard, self.sounds, waiting)

    def _unanswered_audio(self, latest: Unanswered | None = None) -> Unanswered | None:
        """Everything said that nobody answered yet, as one stretch of audio."""
        return joined([*self._unanswered, *([latest] if latest is not None else [])])

    def _open(self, response: Response, now: float, *, answers: bool = True) -> None:
        """The response becomes visible. Unless it brought its own context (`answers` is False) or stands beside the
        conversation, everything said so far is answered by it."""
        if answers and response.plan.in_conversation and self._unanswered:
            *earlier, last = self._unanswered
            response.user_items = tuple(item_id for part in self._unanswered for item_id in part.item_ids)
            # Its transcript is that of all it answers. Where earlier turns have one of their own, so has the last.
            if not any(self._has_own_transcript(part.item_id) for part in earlier):
                response.user_item_id = last.item_id
                self.transcripts.cover(last.item_id)
            self._unanswered.clear()
        self.replies.open(response, now)
        self._budget.take(now)
        self._outbox.send([self.announce.event("rate_limits.updated", rate_limits=self._budget.to_event(now))])

    def _has_own_transcript(self, item_id: str) -> bool:
        item = self.conversation.find(item_id)
        return self.transcripts.is_expected(item_id) or (isinstance(item, Item) and bool(item.text))

    def _release(self, response: Response, timing: TurnTiming, now: float) -> None:
        response.timing = timing
        self._open(response, now)
        events, response.held_events = response.held_events, []
        for event in events:
            self._apply(response, event)

    def _apply(self, response: Response, event: EngineEvent) -> None:
        item_id = response.user_item_id
        if isinstance(event, TranscriptDelta):
            if item_id is not None:
                self.transcripts.on_delta(item_id, event.text)
        elif isinstance(event, Transcript):
            if item_id is not None:
                self.transcripts.on_transcript(item_id, event.text, response.audio_seconds)
        else:
            self.replies.apply(response, event)
            if isinstance(event, ResponseDone) and event.fault is not None and item_id is not None:
                self.transcripts.on_failure(item_id, event.fault)

    def _on_reply_forgotten(self) -> None:
        if self._barge_in.is_pending and not self.is_agent_active:
            # The reply ended by itself while a voice was being judged: it is an ordinary turn now.
            self._barge_in.reset()
            self._paused_at = None
            self._playout.resume()
            if self._turn is not None and not self._turn.is_announced:
                self._announce_turn(self._turn)
