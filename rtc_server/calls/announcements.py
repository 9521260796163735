"""Event sequences of the Realtime API that belong together, in the API's order. Pure: data in, events out."""

from __future__ import annotations

from typing import Any

from rtc_server.realtime.conversation import Item
from rtc_server.realtime.events import Event, EventWriter

from .responses import Response, response_object


class Announcer:
    """Builds the sequences for one session. Holds no state but the event writer."""

    def __init__(self, writer: EventWriter) -> None:
        self._event = writer.event
        self.event = writer.event
        self.error = writer.error

    def user_audio_item(self, item: Item, previous_item_id: str | None) -> list[Event]:
        """A user turn became an item of the conversation."""
        return [
            self._event("input_audio_buffer.committed", item_id=item.item_id, previous_item_id=previous_item_id),
            *self.item(item, previous_item_id),
        ]

    def item(self, item: Item, previous_item_id: str | None) -> list[Event]:
        """A finished item entered the conversation."""
        body = item.to_event()
        return [
            self._event("conversation.item.added", item=body, previous_item_id=previous_item_id),
            self._event("conversation.item.done", item=body, previous_item_id=previous_item_id),
        ]

    def transcript(self, item_id: str, text: str, audio_seconds: float) -> list[Event]:
        """What the user was understood to say."""
        kind = "conversation.item.input_audio_transcription"
        where = {"item_id": item_id, "content_index": 0}
        usage = {"type": "duration", "seconds": round(audio_seconds, 2)}
        events = [self._event(f"{kind}.delta", **where, delta=text)] if text else []
        return [*events, self._event(f"{kind}.completed", **where, transcript=text, usage=usage)]

    def response_created(self, response: Response) -> list[Event]:
        return [self._event("response.created", response=response_object(response, "in_progress", []))]

    def reply_item_added(self, response: Response, item: Item, previous_item_id: str | None) -> list[Event]:
        """The assistant's item opens, before its first text or sound."""
        body = item.to_event()
        return [
            self._event("response.output_item.added", response_id=response.response_id, output_index=0, item=body),
            self._event("conversation.item.added", item=body, previous_item_id=previous_item_id),
            self._event(
                "response.content_part.added",
                **self._part(response),
                part={"type": "audio", "transcript": ""},
            ),
        ]

    def reply_text(self, response: Response, delta: str) -> list[Event]:
        return [self._event("response.output_audio_transcript.delta", **self._part(response), delta=delta)]

    def reply_done(
        self, response: Response, item: Item | None, status: str, details: dict[str, Any] | None
    ) -> list[Event]:
        """The response is over for the engine; `item` is the assistant's item as it stands, None if there is none."""
        events: list[Event] = []
        items: list[dict[str, Any]] = []
        if item is not None:
            body = item.to_event()
            items.append(body)
            part = self._part(response)
            events += [
                self._event("response.output_audio.done", **part),
                self._event("response.output_audio_transcript.done", **part, transcript=item.text),
                self._event("response.content_part.done", **part, part={"type": "audio", "transcript": item.text}),
                self._event("conversation.item.done", item=body, previous_item_id=response.previous_item_id),
                self._event("response.output_item.done", response_id=response.response_id, output_index=0, item=body),
            ]
        resource = response_object(response, status, items)
        if details is not None:
            resource["status_details"] = details
        return [*events, self._event("response.done", response=resource)]

    def output_buffer(self, what: str, response_id: str) -> list[Event]:
        """`what` is started, stopped or cleared: tied to the frames that leave."""
        return [self._event(f"output_audio_buffer.{what}", response_id=response_id)]

    def truncated(self, item_id: str, audio_end_ms: int) -> list[Event]:
        return [self._event("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=audio_end_ms)]

    def _part(self, response: Response) -> dict[str, Any]:
        return {
            "response_id": response.response_id,
            "item_id": response.item_id,
            "output_index": 0,
            "content_index": 0,
        }
