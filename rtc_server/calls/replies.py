"""The responses of a call, from request to last sample: their items, their sound, their end. Pure.

Owns every response that is alive and is the only writer of assistant items. The core decides when one begins, when a
held one is released and when the user takes the floor; this carries it out and tells the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from model.interface import (
    INPUT_SAMPLE_RATE,
    AudioDelta,
    EngineEvent,
    GenerateRequest,
    Pcm16,
    ResponseDone,
    TextDelta,
    ToolCallDelta,
)
from rtc_server.audio.pcm import rms_dbfs
from rtc_server.audio.playout import Playout, PlayoutFrame
from rtc_server.realtime.conversation import (
    AnyItem,
    AudioArchive,
    ContentType,
    Conversation,
    FunctionCall,
    Item,
    ItemStatus,
    heard_text,
)
from rtc_server.realtime.words import Event, NewId

from .announcements import Announcer
from .intents import (
    CancelRequest,
    GrantAudio,
    Outbox,
    ReleaseRequest,
    ResponseOver,
    SendAudio,
    SubmitRequest,
    TurnAnswered,
)
from .plans import ResponsePlan
from .reply_playout import ReplyPlayout
from .responses import Response, TurnTiming
from .turn_records import record_turn

EMPTY: Pcm16 = np.zeros(0, np.int16)
VOICED_DBFS = -45.0  # a frame louder than this is sound to a listener; quieter is the decoder's noise floor


@dataclass(frozen=True, slots=True)
class ReplySettings:
    """What replies depend on, apart from the session."""

    call_id: str
    conversation_id: str
    engine_sample_rate: int
    audio_credit_ms: int
    response_timeout_seconds: float
    audio_in_events: bool = False
    """The client gets sound in events and plays it itself: the playout then only models what it has heard by now."""
    wall_offset: float = 0.0
    """Wall clock minus `now`."""


class Replies:
    """See the module's docstring. `on_forgotten` is called when a response is over and gone."""

    def __init__(
        self,
        conversation: Conversation,
        archive: AudioArchive,
        announce: Announcer,
        playout: Playout,
        outbox: Outbox,
        new_id: NewId,
        settings: ReplySettings,
        on_forgotten: Callable[[], None],
    ) -> None:
        self._conversation = conversation
        self._archive = archive
        self._announce = announce
        self._playout = playout
        self._outbox = outbox
        self._new_id = new_id
        self._settings = settings
        self.conversation_id = settings.conversation_id
        self._on_forgotten = on_forgotten
        self._alive: dict[str, Response] = {}  # held, generating or playing
        self._sound = ReplyPlayout(playout, settings.engine_sample_rate)
        self._after_tail: list[Event] = []  # "cleared" of a reply whose fade leaves with the next frame
        self.has_spoken = False  # from the first audio on, the voice is fixed

    def __iter__(self) -> Iterator[Response]:
        return iter(list(self._alive.values()))

    def get(self, response_id: str) -> Response | None:
        """None when it is dead: what arrives under that id is late."""
        return self._alive.get(response_id)

    @property
    def is_active(self) -> bool:
        """A reply is being made or played (held ones and silent ones beside the conversation do not count)."""
        return any(response.is_floor_holder for response in self._alive.values())

    @property
    def is_generating(self) -> bool:
        """The conversation's reply is being made: another one has to wait."""
        return any(r.is_generating and not r.is_held and r.plan.in_conversation for r in self._alive.values())

    # --- the beginning

    def begin(self, request: GenerateRequest, plan: ResponsePlan, timing: TurnTiming | None, now: float) -> Response:
        """Ask the engine. One that is not held has to be opened next."""
        response = Response(
            response_id=request.response_id,
            turn_id=request.turn_id,
            plan=plan,
            is_held=request.is_held,
            conversation_id=self.conversation_id if plan.in_conversation else None,
            speculated=request.is_held,
            timing=timing,
            granted_ms=request.audio_credit_ms,
        )
        response.stages.submitted = now
        response.audio = request.audio
        response.audio_seconds = 0.0 if request.audio is None else len(request.audio) / INPUT_SAMPLE_RATE
        self._alive[response.response_id] = response
        self._outbox.add(SubmitRequest(request))
        return response

    def open(self, response: Response, now: float) -> None:
        """The response becomes visible."""
        if response.is_held:
            response.is_held = False
            self._outbox.add(ReleaseRequest(response.response_id))
        response.deadline = now + self._settings.response_timeout_seconds
        self._outbox.send(self._announce.response_created(response))

    # --- what the engine sends

    def apply(self, response: Response, event: EngineEvent) -> None:
        """One engine event of an open response (transcripts are the core's)."""
        match event:
            case TextDelta(_, text, _):
                message = self._open_message(response)
                response.text += text
                self._outbox.send(self._announce.reply_text(response, message, text))
            case AudioDelta():
                self._on_audio(response, event)
            case ToolCallDelta():
                self._on_call(response, event)
            case ResponseDone():
                self._on_done(response, event)

    def _on_audio(self, response: Response, delta: AudioDelta) -> None:
        message = self._open_message(response)
        rate = self._settings.engine_sample_rate
        response.received_audio_ms += len(delta.pcm) * 1e3 / rate
        if delta.text_end is not None:
            response.marks.append((round(response.received_audio_ms), delta.text_end))
        if response.plan.in_conversation:
            self._archive.add(message.item_id, delta.pcm, rate)
        if self._settings.audio_in_events:
            self._outbox.add(SendAudio(self._announce.reply_audio(response, message), delta.pcm))
        self._sound.play(response, delta)

    def _on_call(self, response: Response, delta: ToolCallDelta) -> None:
        response.deadline = None
        call = response.calls.get(delta.index)
        if call is None:
            call = FunctionCall(self._new_id("item"), self._new_id("call"), delta.name, "", "in_progress")
            self._add_output(response, call)
            response.calls[delta.index] = call
            self._outbox.send(self._announce.output_item_added(response, call))
        if delta.arguments:
            self._outbox.send(self._announce.call_arguments(response, call, delta.arguments))
        status: ItemStatus = "completed" if delta.is_last else "in_progress"
        call = replace(call, arguments=call.arguments + delta.arguments, status=status)
        response.calls[delta.index] = call
        self._store(response, call)
        if delta.is_last:
            self._outbox.send(self._announce.item_done(response, call))

    def _open_message(self, response: Response) -> Item:
        response.deadline = None
        if response.message is None:
            kind: ContentType = "output_audio" if response.plan.output == "audio" else "output_text"
            message = Item(self._new_id("item"), "assistant", kind, "", "in_progress")
            self._add_output(response, message)
            response.message = message
            self._outbox.send(self._announce.output_item_added(response, message))
        return response.message

    def _add_output(self, response: Response, item: AnyItem) -> None:
        response.output_index[item.item_id] = len(response.output_index)
        if response.plan.in_conversation:
            response.previous_item_id[item.item_id] = self._conversation.append(item)

    def _store(self, response: Response, item: AnyItem) -> None:
        if response.plan.in_conversation:
            self._conversation.replace(item)

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
            self._sound.finish(response)
        else:
            self.forget(response)

    # --- the end

    def cancel(self, response_id: str | None) -> bool:
        """`response.cancel`: generation stops, queued audio plays on. False when nothing is being generated."""
        making = [r for r in self._alive.values() if r.is_generating and not r.is_held]
        making.sort(key=lambda r: not r.plan.in_conversation)
        for response in making:
            if response_id not in (None, response.response_id):
                continue
            self._outbox.add(CancelRequest(response.response_id))
            response.deadline = None
            response.done = ResponseDone(response.response_id, "cancelled", 0.0)
            self._announce_done(response, "cancelled", {"type": "cancelled", "reason": "client_cancelled"})
            self._playout.finish(response.response_id)
            if not response.received_audio_ms:
                self.forget(response)
            return True
        return False

    def interrupt(self, reason: str) -> list[Response]:
        """Stop everything that is heard or will be: flush what was queued, cut the conversation to what was heard.

        Returns the responses that died before anything of them was heard."""
        flushed = self._playout.flush()
        unheard = []
        for response in [r for r in self._alive.values() if r.is_floor_holder]:
            is_playing = flushed.response_id == response.response_id
            if response.output_started and not self._settings.audio_in_events:
                cleared = self._announce.output_buffer("cleared", response.response_id)
                if is_playing and self._playout.has_tail:
                    self._after_tail += cleared
                else:
                    self._outbox.send(cleared)
            played_ms = round(flushed.played_ms) if is_playing else 0
            if response.is_generating:
                self._outbox.add(CancelRequest(response.response_id))
                response.done = ResponseDone(response.response_id, "cancelled", 0.0)
            heard = heard_text(response.text, flushed.heard_text_end) if is_playing else ""
            self._cut(response, heard, played_ms)
            if not response.is_announced_done:
                details = {"type": "cancelled", "reason": reason}
                self._close_items(response)
                self._outbox.send(self._announce.response_done(response, "cancelled", details))
                self._outbox.observe("response", "cancelled")
            message = response.message
            if message is not None and message.is_audio and not self._settings.audio_in_events:
                if response.plan.in_conversation:
                    self._archive.cut(message.item_id, played_ms)
                self._outbox.send(self._announce.truncated(message.item_id, played_ms))
            if not response.output_started:
                unheard.append(response)
            self.forget(response)
        return unheard

    def kill(self, response: Response) -> None:
        """End one that nobody saw."""
        if response.is_generating:
            self._outbox.add(CancelRequest(response.response_id))
        self.forget(response)

    def close(self) -> None:
        """Cancel what is alive."""
        for response in self:
            if response.is_generating:
                self._outbox.add(CancelRequest(response.response_id))
        self._alive.clear()
        self._playout.flush()

    def forget(self, response: Response) -> None:
        """It is over."""
        self._alive.pop(response.response_id, None)
        self._sound.forget(response)
        done = None if response.is_held else response.done
        self._outbox.add(ResponseOver(response.response_id, "dropped" if done is None else done.status))
        self._on_forgotten()

    def _cut(self, response: Response, heard: str, played_ms: int) -> None:
        """What was not heard leaves the message. A client that plays by itself may still correct where it was cut."""
        message = response.message
        if message is None:
            return
        if message.is_audio:
            response.message = self._cut_message(response, message, heard, played_ms)
        else:
            response.message = replace(message, text=response.text, status="incomplete")
        self._store(response, response.message)

    def _cut_message(self, response: Response, message: Item, heard: str, played_ms: int) -> Item:
        audio_ms = round(response.received_audio_ms) if self._settings.audio_in_events else played_ms
        return replace(
            message,
            text=heard,
            status="incomplete",
            audio_ms=audio_ms,
            whole_text=response.text,
            marks=tuple(response.marks),
        )

    def _announce_done(self, response: Response, status: str, details: dict[str, str] | None) -> None:
        response.is_announced_done = True
        message = response.message
        if message is not None:
            response.message = replace(
                message,
                text=response.text,
                status="completed" if status == "completed" else "incomplete",
                audio_ms=round(response.received_audio_ms),
                whole_text=response.text,
                marks=tuple(response.marks),
            )
            self._store(response, response.message)
            if self._settings.audio_in_events and message.is_audio:
                event = self._announce.reply_audio(response, message)
                self._outbox.add(SendAudio(event, EMPTY, is_last=True))  # the encoder's rest, before the `done` events
        self._close_items(response)
        self._outbox.send(self._announce.response_done(response, status, details))
        self._outbox.observe("response", status)

    def _close_items(self, response: Response) -> None:
        """The `done` events of its items; calls whose arguments were not finished end incomplete."""
        for index, call in response.calls.items():
            if call.status == "in_progress":
                response.calls[index] = replace(call, status="incomplete")
                self._store(response, response.calls[index])
                self._outbox.send(self._announce.item_done(response, response.calls[index]))
        if response.message is not None:
            self._outbox.send(self._announce.item_done(response, response.message))

    # --- the sound

    def on_frame(self, frame: PlayoutFrame, now: float) -> Response | None:
        """A frame was pulled. Returns the response that has played its last."""
        if self._after_tail:
            self._outbox.send(self._after_tail)
            self._after_tail = []
        response = None if frame.response_id is None else self._alive.get(frame.response_id)
        if response is None:
            return None
        if frame.is_first:
            response.output_started = True
            self.has_spoken = True
            self._tell_buffer("started", response)
        is_voiced = not frame.is_silence and rms_dbfs(frame.pcm) > VOICED_DBFS
        if not response.measured and (is_voiced or frame.is_last):
            self._measure(response, now)
        if response.is_generating:
            played_ms = self._playout.played_ms(response.response_id)
            due = response.credit_due(played_ms, self._settings.audio_credit_ms)
            if due:
                self._outbox.add(GrantAudio(response.response_id, due))
        if not frame.is_last:
            return None
        self._tell_buffer("stopped", response)
        self.forget(response)
        self._sound.play_next(self._alive.values())
        return response

    def heard_so_far(self) -> list[tuple[str, str]]:
        """(item id, words heard) of every message that is being played."""
        heard = []
        for response in self._alive.values():
            message = response.message
            if message is not None and message.is_audio and response.plan.in_conversation:
                played_ms = self._playout.played_ms(response.response_id)
                heard.append((message.item_id, heard_text(response.text, self._playout.text_end_at(played_ms))))
        return heard

    def as_heard(self) -> dict[str, Item]:
        """Messages that are not over yet, by id, as they would be if the call ended now."""
        found = {}
        for response in self._alive.values():
            message = response.message
            if message is None or not response.plan.in_conversation:
                continue
            if not message.is_audio:
                if response.is_generating:
                    found[message.item_id] = replace(message, text=response.text, status="incomplete")
                continue
            played_ms = self._playout.played_ms(response.response_id)
            heard = heard_text(response.text, self._playout.text_end_at(played_ms)) if played_ms else ""
            found[message.item_id] = self._cut_message(response, message, heard, round(played_ms))
        return found

    def _tell_buffer(self, what: str, response: Response) -> None:
        if not self._settings.audio_in_events:
            self._outbox.send(self._announce.output_buffer(what, response.response_id))

    def _measure(self, response: Response, now: float) -> None:
        response.measured = True
        record = record_turn(self._settings.call_id, response, now, self._settings.wall_offset)
        event = record.to_event()
        if response.message is not None:
            event["item_id"] = response.message.item_id
        self._outbox.send([self._announce.event("rtc_server.turn.metrics", **event)])
        self._outbox.add(TurnAnswered(record))
