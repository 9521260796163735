"""Events of the Realtime API: client messages parsed and validated, server messages built.

Anything a client sends is either one of the typed events below or a ProtocolError with the `error` event to
send back; nothing else is ever raised.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from rtc_server.errors import ProtocolError

from .client_items import ClientItem, InputItem, ItemId, decode_base64
from .compatibility import SERVER_EVENTS
from .session import AudioFormat, Modalities, TokenLimit
from .tools import MAX_TOOLS, FunctionTool, NamedTool
from .validation import Strict, protocol_error
from .words import Event, NewId

MAX_MESSAGE_BYTES = 64 * 1024
"""Of a data-channel message: what aiortc's SCTP advertises; audio never travels there, so text is all there is."""
MAX_SOCKET_MESSAGE_BYTES = 1024 * 1024
"""Of a WebSocket message that reaches a call: an item with 16 s of sound. Longer appends come in pieces."""
MAX_METADATA_KEY, MAX_METADATA_VALUE = 64, 512


class _ClientEvent(Strict):
    event_id: str | None = Field(None, max_length=512)


class SessionUpdate(_ClientEvent):
    type: Literal["session.update"]
    session: dict[str, Any]


class ItemCreate(_ClientEvent):
    type: Literal["conversation.item.create"]
    previous_item_id: str | None = Field(None, max_length=64)
    item: ClientItem


class ItemDelete(_ClientEvent):
    type: Literal["conversation.item.delete"]
    item_id: ItemId


class ItemRetrieve(_ClientEvent):
    type: Literal["conversation.item.retrieve"]
    item_id: ItemId


class ItemTruncate(_ClientEvent):
    type: Literal["conversation.item.truncate"]
    item_id: ItemId
    content_index: int = Field(0, ge=0, le=0)
    audio_end_ms: int = Field(ge=0)


class ResponseAudioOutput(Strict):
    format: AudioFormat | None = None
    voice: str | None = Field(None, max_length=100)

    @field_validator("voice", mode="before")
    @classmethod
    def _unwrap(cls, value: object) -> object:
        return value["id"] if isinstance(value, dict) and set(value) == {"id"} else value


class ResponseAudio(Strict):
    output: ResponseAudioOutput = ResponseAudioOutput()


class ResponseParameters(Strict):
    """Overrides for one response; None = the session's."""

    conversation: Literal["auto", "none"] | None = None
    input: tuple[InputItem, ...] | None = Field(None, max_length=256)
    instructions: str | None = Field(None, max_length=20_000)
    output_modalities: Modalities | None = None
    audio: ResponseAudio = ResponseAudio()
    tools: tuple[FunctionTool, ...] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: TokenLimit | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    prompt: None = None

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for key, text in (value or {}).items():
            if len(key) > MAX_METADATA_KEY or len(text) > MAX_METADATA_VALUE:
                raise ValueError(
                    f"keys have at most {MAX_METADATA_KEY} characters and values at most {MAX_METADATA_VALUE}"
                )
        return value


class ResponseCreate(_ClientEvent):
    type: Literal["response.create"]
    response: ResponseParameters | None = None


class ResponseCancel(_ClientEvent):
    type: Literal["response.cancel"]
    response_id: str | None = Field(None, max_length=64)


class OutputAudioClear(_ClientEvent):
    type: Literal["output_audio_buffer.clear"]


class InputAudioAppend(_ClientEvent):
    type: Literal["input_audio_buffer.append"]
    audio: str

    def samples(self) -> bytes:
        """The sound in the session's input format. Raises ProtocolError when it is not base64."""
        return decode_base64(self.audio, "audio")


class InputAudioClear(_ClientEvent):
    type: Literal["input_audio_buffer.clear"]


class InputAudioCommit(_ClientEvent):
    type: Literal["input_audio_buffer.commit"]


class RecordingStart(_ClientEvent):
    type: Literal["rtc_server.recording.start"]


class RecordingStop(_ClientEvent):
    type: Literal["rtc_server.recording.stop"]


class DtmfSend(_ClientEvent):
    type: Literal["rtc_server.dtmf.send"]
    digits: str = Field(pattern=r"^[0-9*#A-D]{1,64}$")
    duration_ms: int = Field(100, ge=40, le=1_000)
    gap_ms: int = Field(100, ge=40, le=1_000)


ClientEvent: TypeAlias = (
    SessionUpdate
    | ItemCreate
    | ItemDelete
    | ItemRetrieve
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | OutputAudioClear
    | InputAudioAppend
    | InputAudioClear
    | InputAudioCommit
    | RecordingStart
    | RecordingStop
    | DtmfSend
)
_ADAPTER: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


CLIENT_EVENTS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(ClientEvent)
}
"""Every event that a client may send, by its `type`."""


def parse_client_event(data: str | bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> ClientEvent:
    """One data-channel or WebSocket message -> a typed event. Raises ProtocolError for anything else."""
    if isinstance(data, bytes):
        raise ProtocolError("invalid_event", "Events are JSON text messages; a binary message was received.")
    if len(data) > max_bytes:
        raise ProtocolError("invalid_event", f"The event exceeds {max_bytes} bytes.")
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("invalid_json", "The event is not valid JSON.") from error
    if not isinstance(payload, dict):
        raise ProtocolError("invalid_event", "The event must be a JSON object.")
    event_id = payload.get("event_id")
    event_id = event_id if isinstance(event_id, str) and len(event_id) <= 512 else None
    kind = payload.get("type")
    if kind is None:
        raise ProtocolError("invalid_event", "The event has no 'type'.", param="type", event_id=event_id)
    if not isinstance(kind, str) or kind not in CLIENT_EVENTS:
        message = "Unknown or unsupported event type; supported: " + ", ".join(CLIENT_EVENTS) + "."
        raise ProtocolError("invalid_event", message, param="type", event_id=event_id)
    try:
        return _ADAPTER.validate_python(payload)
    except ValidationError as error:
        raise protocol_error(error, payload, event_id=event_id) from error


class EventWriter:
    """Builds server events, each with its own `event_id`. Keys and order follow the API reference."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id

    def event(self, kind: str, **fields: Any) -> Event:
        """One server event of type `kind`, which must be one of `compatibility.SERVER_EVENTS`."""
        assert kind in SERVER_EVENTS, kind
        return {"type": kind, "event_id": self._new_id("event"), **fields}

    def error(self, error: ProtocolError) -> Event:
        """The `error` event for a client's mistake; the session stays open."""
        return self.event("error", error=error.to_event_error())
