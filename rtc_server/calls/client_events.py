"""What each client event does to a call. One function per event; every mistake becomes an `error` event."""

from __future__ import annotations

from typing import Any

from rtc_server.errors import ProtocolError
from rtc_server.realtime.conversation import ContentType, Item, heard_text
from rtc_server.realtime.events import (
    ClientEvent,
    Event,
    InputAudioClear,
    InputAudioCommit,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    NewId,
    OutputAudioClear,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
    parse_client_event,
)

from .core import CallCore

TRUNCATE_TOLERANCE_MS = 20  # clients round to frames; one frame beyond the end is not a mistake


class ClientEvents:
    """Applies client messages to one call core. Returns the events to send, in order; never raises for bad input."""

    def __init__(
        self, core: CallCore, new_id: NewId, session_id: str, expires_at: int, voices: tuple[str, ...]
    ) -> None:
        self._core = core
        self._new_id = new_id
        self._session_id = session_id
        self._expires_at = expires_at
        self._voices = voices

    def session_created(self) -> Event:
        """The first event on a channel."""
        return self._core.announce.event("session.created", session=self._session())

    def receive(self, data: str | bytes, now: float) -> list[Event]:
        """Handle one message of the event channel."""
        try:
            event = parse_client_event(data)
        except ProtocolError as error:
            return [self._core.announce.error(error)]
        try:
            return self._handle(event, now)
        except ProtocolError as error:
            error.event_id = error.event_id or event.event_id
            return [self._core.announce.error(error)]

    def _session(self) -> dict[str, Any]:
        return self._core.session.to_event(self._session_id, self._expires_at)

    def _handle(self, event: ClientEvent, now: float) -> list[Event]:
        core = self._core
        announce = core.announce
        match event:
            case SessionUpdate(session=patch):
                updated = core.session.updated(patch, self._voices, voice_is_fixed=core.has_spoken)
                core.update_session(updated)
                return [announce.event("session.updated", session=self._session())]
            case ItemCreate():
                return self._create_item(event)
            case ItemDelete(item_id=item_id):
                core.conversation.delete(item_id)
                return [announce.event("conversation.item.deleted", item_id=item_id)]
            case ItemRetrieve(item_id=item_id):
                item = core.conversation.get(item_id)
                return [announce.event("conversation.item.retrieved", item=item.to_event())]
            case ItemTruncate():
                return self._truncate(event)
            case ResponseCreate():
                core.create_response(event, now)
            case ResponseCancel(response_id=response_id):
                if not core.cancel_response(response_id):
                    raise ProtocolError("response_cancel_not_active", "No response is being generated.")
            case OutputAudioClear():
                core.interrupt("client_cancelled", now)
            case InputAudioClear():
                core.clear_input(now)
                return [announce.event("input_audio_buffer.cleared")]
            case InputAudioCommit():
                if not core.commit_input():
                    raise ProtocolError("input_audio_buffer_commit_empty", "The input audio buffer is empty.")
        return []

    def _create_item(self, event: ItemCreate) -> list[Event]:
        source = event.item
        content_type: ContentType = "output_text" if source.role == "assistant" else "input_text"
        item = Item(source.id or self._new_id("item"), source.role, content_type, source.text)
        return self._core.announce.item(item, self._core.conversation.insert(item, event.previous_item_id))

    def _truncate(self, event: ItemTruncate) -> list[Event]:
        core = self._core
        item = core.conversation.get(event.item_id)
        if item.content_type != "output_audio" or item.status == "in_progress":
            message = "Only a finished assistant message with audio can be truncated."
            raise ProtocolError("invalid_truncation", message, param="item_id")
        if event.audio_end_ms > item.audio_ms + TRUNCATE_TOLERANCE_MS:
            message = f"audio_end_ms {event.audio_end_ms} is beyond the item's {item.audio_ms} ms of audio."
            raise ProtocolError("invalid_truncation", message, param="audio_end_ms")
        end_ms = min(event.audio_end_ms, item.audio_ms)
        text = _text_until(item, end_ms)
        core.conversation.update(item.item_id, text=text, audio_ms=end_ms, status="incomplete")
        return core.announce.truncated(item.item_id, end_ms)


def _text_until(item: Item, audio_end_ms: int) -> str:
    """The words of an assistant item that were spoken by `audio_end_ms`, by their share of its length."""
    if audio_end_ms >= item.audio_ms:
        return item.text
    return heard_text(item.text, round(len(item.text) * audio_end_ms / item.audio_ms))
