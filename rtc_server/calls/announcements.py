"""Event sequences of the Realtime API that belong together, in the API's order. Pure: data in, events out."""

from __future__ import annotations

from typing import Any

from model.interface import EngineFault
from rtc_server.realtime.conversation import AnyItem, FunctionCall, Item
from rtc_server.realtime.events import EventWriter
from rtc_server.realtime.words import Event

from .responses import Response, response_object

TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Announcer:
    """Builds the sequences for one session. Holds no state but the event writer."""

    def __init__(self, writer: EventWriter) -> None:
        self._event = writer.event
        self.event = writer.event
        self.error = writer.error

    # --- the user's side

    def user_audio_item(self, item: AnyItem, previous_item_id: str | None) -> list[Event]:
        """A user turn became an item of the conversation."""
        return [
            self._event("input_audio_buffer.committed", item_id=item.item_id, previous_item_id=previous_item_id),
            *self.item(item, previous_item_id),
        ]

    def item(self, item: AnyItem, previous_item_id: str | None) -> list[Event]:
        """A finished item entered the conversation."""
        body = item.to_event()
        return [
            self._event("conversation.item.added", item=body, previous_item_id=previous_item_id),
            self._event("conversation.item.done", item=body, previous_item_id=previous_item_id),
        ]

    def transcript_delta(self, item_id: str, text: str) -> list[Event]:
        """The next words of what the user said."""
        return [self._event(f"{TRANSCRIPTION}.delta", item_id=item_id, content_index=0, delta=text)]

    def transcript(self, item_id: str, text: str, audio_seconds: float) -> list[Event]:
        """All that the user was understood to say."""
        usage = {"type": "duration", "seconds": round(audio_seconds, 2)}
        kind = f"{TRANSCRIPTION}.completed"
        return [self._event(kind, item_id=item_id, content_index=0, transcript=text, usage=usage)]

    def transcript_failed(self, item_id: str, fault: EngineFault) -> list[Event]:
        """Nobody could write down what the user said."""
        error = {"type": "server_error", "code": fault.code, "message": fault.message}
        return [self._event(f"{TRANSCRIPTION}.failed", item_id=item_id, content_index=0, error=error)]

    def truncated(self, item_id: str, audio_end_ms: int) -> list[Event]:
        return [self._event("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=audio_end_ms)]

    # --- a response

    def response_created(self, response: Response) -> list[Event]:
        return [self._event("response.created", response=response_object(response, "in_progress"))]

    def output_item_added(self, response: Response, item: AnyItem) -> list[Event]:
        """An item of the response opens, before its first text, sound or argument."""
        body, index = item.to_event(), response.output_index[item.item_id]
        events = [
            self._event("response.output_item.added", response_id=response.response_id, output_index=index, item=body)
        ]
        if response.plan.in_conversation:
            previous = response.previous_item_id[item.item_id]
            events.append(self._event("conversation.item.added", item=body, previous_item_id=previous))
        if isinstance(item, Item):
            part = _part(item, "")
            events.append(self._event("response.content_part.added", **_where(response, item), part=part))
        return events

    def reply_text(self, response: Response, item: Item, delta: str) -> list[Event]:
        kind = "response.output_audio_transcript.delta" if item.is_audio else "response.output_text.delta"
        return [self._event(kind, **_where(response, item), delta=delta)]

    def reply_audio(self, response: Response, item: Item) -> Event:
        """`response.output_audio.delta` without the sound."""
        return self._event("response.output_audio.delta", **_where(response, item))

    def call_arguments(self, response: Response, call: FunctionCall, delta: str) -> list[Event]:
        where = {"response_id": response.response_id, "item_id": call.item_id, "call_id": call.call_id}
        index = response.output_index[call.item_id]
        kind = "response.function_call_arguments.delta"
        return [self._event(kind, **where, output_index=index, delta=delta)]

    def item_done(self, response: Response, item: AnyItem) -> list[Event]:
        """An item of the response is complete, or will not be completed."""
        body, index = item.to_event(), response.output_index[item.item_id]
        events = []
        if isinstance(item, Item):
            where = _where(response, item)
            if item.is_audio:
                events += [
                    self._event("response.output_audio.done", **where),
                    self._event("response.output_audio_transcript.done", **where, transcript=item.text),
                ]
            else:
                events.append(self._event("response.output_text.done", **where, text=item.text))
            events.append(self._event("response.content_part.done", **where, part=_part(item, item.text)))
        elif isinstance(item, FunctionCall) and item.status == "completed":
            call = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            where = {"response_id": response.response_id, "item_id": item.item_id, "output_index": index}
            events.append(self._event("response.function_call_arguments.done", **where, **call))
        if response.plan.in_conversation:
            previous = response.previous_item_id[item.item_id]
            events.append(self._event("conversation.item.done", item=body, previous_item_id=previous))
        kind = "response.output_item.done"
        return [*events, self._event(kind, response_id=response.response_id, output_index=index, item=body)]

    def response_done(self, response: Response, status: str, details: dict[str, Any] | None) -> list[Event]:
        """The response is over for the engine."""
        return [self._event("response.done", response=response_object(response, status, details))]

    def output_buffer(self, what: str, response_id: str) -> list[Event]:
        """`what` is started, stopped or cleared: tied to the frames that leave."""
        return [self._event(f"output_audio_buffer.{what}", response_id=response_id)]


def _part(item: Item, text: str) -> dict[str, Any]:
    return {"type": "audio", "transcript": text} if item.is_audio else {"type": "text", "text": text}


def _where(response: Response, item: Item) -> dict[str, Any]:
    return {
        "response_id": response.response_id,
        "item_id": item.item_id,
        "output_index": response.output_index[item.item_id],
        "content_index": 0,
    }
