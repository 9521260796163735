"""What each client event does to a call. One function per event; every mistake becomes an `error` event."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.errors import ProtocolError
from rtc_server.realtime.client_items import MessageItem, to_item
from rtc_server.realtime.conversation import Item
from rtc_server.realtime.events import (
    MAX_MESSAGE_BYTES,
    ClientEvent,
    DtmfSend,
    InputAudioAppend,
    InputAudioClear,
    InputAudioCommit,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    OutputAudioClear,
    RecordingStart,
    RecordingStop,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
    parse_client_event,
)
from rtc_server.realtime.words import Event, NewId

from .core import CallCore

TRUNCATE_TOLERANCE_MS = 20  # clients round to frames; one frame beyond the end is not a mistake
CLIP_SAMPLE_RATE = 24_000  # of the sound in `conversation.item.retrieved`, s16le whatever the session's formats are


class ClientEvents:
    """Applies client messages to one call core. Returns the events to send, in order; never raises for bad input.

    `append_audio` takes sound in the session's input format; None on connections whose sound comes as media.
    `decode_clip` turns the sound of an item, in that format, into int16 mono 16 kHz; `record(wanted, now)` starts and
    stops recording or raises ProtocolError, None where the server does not record; `send_digits` is that of the
    transport."""

    def __init__(
        self,
        core: CallCore,
        new_id: NewId,
        session_id: str,
        expires_at: int,
        *,
        append_audio: Callable[[bytes], None] | None = None,
        decode_clip: Callable[[bytes], Pcm16] | None = None,
        record: Callable[[bool, float], None] | None = None,
        send_digits: Callable[[str, int, int], bool] | None = None,
        max_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._core = core
        self._new_id = new_id
        self._session_id = session_id
        self._expires_at = expires_at
        self._append_audio = append_audio
        self._decode_clip = decode_clip or pcm_clip
        self._record = record
        self._send_digits = send_digits
        self._max_bytes = max_bytes

    def opening(self) -> list[Event]:
        """The first events on a channel."""
        conversation = {"id": self._core.conversation_id, "object": "realtime.conversation"}
        announce = self._core.announce
        events = [announce.event("session.created", session=self._session())]
        if self._core.session.answers:
            events.append(announce.event("conversation.created", conversation=conversation))
        return events

    def receive(self, data: str | bytes, now: float) -> list[Event]:
        """Handle one message of the event channel."""
        try:
            event = parse_client_event(data, self._max_bytes)
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
                core.update_session(core.session.updated(patch, core.can, voice_is_fixed=core.replies.has_spoken))
                return [announce.event("session.updated", session=self._session())]
            case ItemCreate(item=source, previous_item_id=previous):
                audio = self._decode(source) if isinstance(source, MessageItem) else None
                core.add_item(to_item(source, self._new_id), previous, audio, now)
            case ItemDelete(item_id=item_id):
                core.delete_item(item_id)
                return [announce.event("conversation.item.deleted", item_id=item_id)]
            case ItemRetrieve(item_id=item_id):
                return [announce.event("conversation.item.retrieved", item=self._with_audio(item_id))]
            case ItemTruncate():
                return self._truncate(event)
            case ResponseCreate():
                core.create_response(event, now, self._decode)
            case ResponseCancel(response_id=response_id):
                if not core.cancel_response(response_id):
                    raise ProtocolError("response_cancel_not_active", "No response is being generated.")
            case OutputAudioClear():
                core.interrupt("client_cancelled", now)
            case InputAudioAppend():
                if self._append_audio is None:
                    message = "On this connection the sound comes as media; it cannot be appended by events."
                    raise ProtocolError("invalid_event", message, param="type")
                self._append_audio(event.samples())
            case InputAudioClear():
                core.clear_input(now)
                return [announce.event("input_audio_buffer.cleared")]
            case InputAudioCommit():
                if not core.commit_input(now):
                    raise ProtocolError("input_audio_buffer_commit_empty", "The input audio buffer is empty.")
            case RecordingStart() | RecordingStop():
                if self._record is None:
                    raise ProtocolError("recording_not_enabled", "This server does not record calls.", param="type")
                self._record(isinstance(event, RecordingStart), now)
            case DtmfSend(digits=digits, duration_ms=duration_ms, gap_ms=gap_ms):
                self._press(digits, duration_ms, gap_ms)
        return []

    def enter_text(self, text: str, now: float) -> None:
        """Words of the user that nobody spoke: into the conversation, and answered if turns are. They end a reply."""
        core = self._core
        detection = core.session.audio.input.turn_detection
        is_answered = core.session.answers and detection is not None and detection.create_response
        if is_answered:
            core.interrupt("turn_detected", now)
        core.add_item(Item(self._new_id("item"), "user", "input_text", text), None, None, now)
        if is_answered:
            with suppress(ProtocolError):  # too many responses: the words stand there, and the next one sees them
                core.create_response(ResponseCreate(type="response.create"), now, self._decode)

    def _press(self, digits: str, duration_ms: int, gap_ms: int) -> None:
        try:
            is_taken = self._send_digits is not None and self._send_digits(digits, duration_ms, gap_ms)
        except ValueError as error:
            raise ProtocolError("invalid_value", str(error), param="digits") from error
        if not is_taken:
            message = "The peer takes no keys: it did not offer 'telephone-event' at the rate of its voice."
            raise ProtocolError("dtmf_not_negotiated", message, param="type")

    def _decode(self, source: MessageItem) -> Pcm16 | None:
        """The sound of a client's message; None when it has none."""
        audio = source.audio()
        return self._decode_clip(audio) if audio else None

    def _with_audio(self, item_id: str) -> dict[str, Any]:
        """An item with its sound, as far as it is kept: base64, s16le mono at CLIP_SAMPLE_RATE."""
        body = self._core.conversation.get(item_id).to_event()
        clip = self._core.archive.get(item_id)
        if clip is not None and body["content"]:
            pcm, rate = clip
            if rate != CLIP_SAMPLE_RATE:
                pcm = _resampled(pcm, rate, CLIP_SAMPLE_RATE)
            body["content"][0]["audio"] = base64.b64encode(pcm.astype("<i2").tobytes()).decode()
        return body

    def _truncate(self, event: ItemTruncate) -> list[Event]:
        core = self._core
        item = core.conversation.get(event.item_id)
        if not isinstance(item, Item) or item.content_type != "output_audio" or item.status == "in_progress":
            message = "Only a finished assistant message with audio can be truncated."
            raise ProtocolError("invalid_truncation", message, param="item_id")
        if event.audio_end_ms > item.audio_ms + TRUNCATE_TOLERANCE_MS:
            message = f"audio_end_ms {event.audio_end_ms} is beyond the item's {item.audio_ms} ms of audio."
            raise ProtocolError("invalid_truncation", message, param="audio_end_ms")
        end_ms = min(event.audio_end_ms, item.audio_ms)
        text = item.text_until(end_ms)
        core.conversation.update(item.item_id, text=text, audio_ms=end_ms, status="incomplete")
        core.archive.cut(item.item_id, end_ms)
        return core.announce.truncated(item.item_id, end_ms)


def pcm_clip(audio: bytes) -> Pcm16:
    """s16le mono 24 kHz -> int16 16 kHz. Raises ProtocolError for half a sample."""
    if len(audio) % 2:
        raise ProtocolError("invalid_value", "The sound ends inside a sample.", param="item.content.audio")
    return _resampled(np.frombuffer(audio, "<i2").astype(np.int16), CLIP_SAMPLE_RATE, INPUT_SAMPLE_RATE)


def _resampled(pcm: Pcm16, rate: int, wanted: int) -> Pcm16:
    resampler = StreamResampler(rate, wanted)
    return np.concatenate([resampler.resample(pcm), resampler.flush()])
