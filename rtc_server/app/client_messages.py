"""Cuts what a WebSocket client sends into pieces that a call can work on between two frames of its neighbours.

Long messages are read here, in signaling, where no audio waits: the sound of a long `input_audio_buffer.append` goes on
as binary pieces in its place in the order of messages; any other event that is longer than an event may be is refused.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator
from typing import Any

from rtc_server.errors import ProtocolError
from rtc_server.realtime.events import MAX_SOCKET_MESSAGE_BYTES

PIECE = 4_096  # bytes of sound: 85 ms of 24 kHz PCM, half a second of G.711, of which a call takes one at a time
SHORT = 4_096  # characters of text; shorter events are left to the call, appends included
MAX_AUDIO = 15 * 1024 * 1024  # bytes in one append event, OpenAI's own limit
MAX_MESSAGE = MAX_AUDIO // 3 * 4 + MAX_SOCKET_MESSAGE_BYTES  # as base64, and the rest of the event
TOO_LONG = f"The event exceeds {MAX_SOCKET_MESSAGE_BYTES} bytes."
BLOCKS_LOOP = 1 << 16  # characters from which reading a message belongs into a thread


def pieces(message: str | bytes, *, is_sideband: bool = False) -> Iterator[str | bytes]:
    """What to send to the call, in order. Raises ProtocolError at once, before the first piece. A sideband carries
    events only."""
    if is_sideband:
        if isinstance(message, bytes):
            raise ProtocolError("invalid_event", "Events are JSON text messages; a binary message was received.")
        if len(message) > MAX_SOCKET_MESSAGE_BYTES:
            raise ProtocolError("invalid_event", TOO_LONG)
        return iter((message,))
    if isinstance(message, bytes):
        return _cut(message)
    if len(message) <= SHORT:
        return iter((message,))
    return _read(message)


def _read(message: str) -> Iterator[str | bytes]:
    is_event = len(message) <= MAX_SOCKET_MESSAGE_BYTES
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        if is_event:
            return iter((message,))
        raise ProtocolError("invalid_json", "The event is not valid JSON.") from error
    if isinstance(event, dict) and event.get("type") == "input_audio_buffer.append":
        try:
            return _cut(_audio(event))
        except ProtocolError:
            if not is_event:
                raise
    if is_event:
        return iter((message,))  # whatever is wrong with it, the call says it
    raise ProtocolError("invalid_event", TOO_LONG, event_id=_event_id(event))


def _audio(event: dict[str, Any]) -> bytes:
    event_id = _event_id(event)
    unknown = sorted(event.keys() - {"type", "event_id", "audio"})
    if unknown:
        raise ProtocolError("unknown_parameter", f"Unknown parameter: '{unknown[0][:64]}'.", event_id=event_id)
    audio = event.get("audio")
    if not isinstance(audio, str) or ("event_id" in event and event["event_id"] is not None and event_id is None):
        raise ProtocolError("invalid_value", "'audio' must be base64.", param="audio", event_id=event_id)
    try:
        data = binascii.a2b_base64(audio.encode("ascii"), strict_mode=True)
    except ValueError as error:
        raise ProtocolError(
            "invalid_value", "'audio' is not valid base64.", param="audio", event_id=event_id
        ) from error
    if len(data) > MAX_AUDIO:
        message = f"'audio' holds {len(data)} bytes; one event may hold {MAX_AUDIO}."
        raise ProtocolError("invalid_value", message, param="audio", event_id=event_id)
    return data


def _event_id(event: object) -> str | None:
    event_id = event.get("event_id") if isinstance(event, dict) else None
    return event_id if isinstance(event_id, str) and len(event_id) <= 512 else None


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[start : start + PIECE] for start in range(0, len(data), PIECE))
