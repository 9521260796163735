"""Events of the Realtime API: client messages parsed and validated, server messages built.

Anything a client sends is either one of the typed events below or a ProtocolError with the `error` event to
send back; nothing else is ever raised.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rtc_server.errors import ProtocolError

MAX_MESSAGE_BYTES = 64 * 1024  # what aiortc's SCTP advertises; audio never travels here, so text is all there is

Event: TypeAlias = dict[str, Any]
NewId: TypeAlias = Callable[[str], str]
"""Makes an id from a prefix: new_id("item") -> "item_8f3a..."; given in, so that tests are reproducible."""


class _ClientEvent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    event_id: str | None = Field(None, max_length=512)


class SessionUpdate(_ClientEvent):
    type: Literal["session.update"]
    session: dict[str, Any]


class InputText(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["input_text", "output_text", "text"]
    text: str = Field(max_length=20_000)


class MessageItem(BaseModel):
    """A message that the client puts into the conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str | None = Field(None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    type: Literal["message"]
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    role: Literal["system", "user", "assistant"]
    content: list[InputText] = Field(min_length=1, max_length=64)

    @property
    def text(self) -> str:
        return " ".join(part.text for part in self.content)


class ItemCreate(_ClientEvent):
    type: Literal["conversation.item.create"]
    previous_item_id: str | None = Field(None, max_length=64)
    item: MessageItem


class ItemDelete(_ClientEvent):
    type: Literal["conversation.item.delete"]
    item_id: str = Field(max_length=64)


class ItemRetrieve(_ClientEvent):
    type: Literal["conversation.item.retrieve"]
    item_id: str = Field(max_length=64)


class ItemTruncate(_ClientEvent):
    type: Literal["conversation.item.truncate"]
    item_id: str = Field(max_length=64)
    content_index: int = Field(0, ge=0, le=0)
    audio_end_ms: int = Field(ge=0)


class ResponseParameters(BaseModel):
    """Overrides for one response."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    conversation: Literal["auto"] | None = None
    instructions: str | None = Field(None, max_length=20_000)
    output_modalities: tuple[Literal["audio"]] | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)


class ResponseCreate(_ClientEvent):
    type: Literal["response.create"]
    response: ResponseParameters | None = None


class ResponseCancel(_ClientEvent):
    type: Literal["response.cancel"]
    response_id: str | None = Field(None, max_length=64)


class OutputAudioClear(_ClientEvent):
    type: Literal["output_audio_buffer.clear"]


class InputAudioClear(_ClientEvent):
    type: Literal["input_audio_buffer.clear"]


class InputAudioCommit(_ClientEvent):
    type: Literal["input_audio_buffer.commit"]


ClientEvent: TypeAlias = (
    SessionUpdate
    | ItemCreate
    | ItemDelete
    | ItemRetrieve
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | OutputAudioClear
    | InputAudioClear
    | InputAudioCommit
)
_ADAPTER: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def parse_client_event(data: str | bytes) -> ClientEvent:
    """One data-channel or WebSocket message -> a typed event. Raises ProtocolError for anything else."""
    if isinstance(data, bytes):
        raise ProtocolError("invalid_event", "Events are JSON text messages; a binary message was received.")
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError("invalid_event", f"The event exceeds {MAX_MESSAGE_BYTES} bytes.")
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("invalid_json", "The event is not valid JSON.") from error
    if not isinstance(payload, dict):
        raise ProtocolError("invalid_event", "The event must be a JSON object.")
    event_id = payload.get("event_id")
    event_id = event_id if isinstance(event_id, str) and len(event_id) <= 512 else None
    try:
        return _ADAPTER.validate_python(payload)
    except ValidationError as error:
        raise _protocol_error(error, event_id) from error


def _protocol_error(error: ValidationError, event_id: str | None) -> ProtocolError:
    first = error.errors(include_url=False, include_input=False)[0]
    # The first element of `loc` is the event type that the union chose; the rest is the path the client wrote.
    param = ".".join(str(part) for part in first["loc"][1:]) or "type"
    match first["type"]:
        case "union_tag_invalid":
            message = "Unknown or unsupported event type; supported: " + first["ctx"]["expected_tags"] + "."
            return ProtocolError("invalid_event", message, param="type", event_id=event_id)
        case "union_tag_not_found":
            return ProtocolError("invalid_event", "The event has no 'type'.", param="type", event_id=event_id)
        case "extra_forbidden":
            return ProtocolError("unknown_parameter", f"Unknown parameter: '{param}'.", param=param, event_id=event_id)
        case "missing":
            message = f"Missing required parameter: '{param}'."
            return ProtocolError("missing_required_parameter", message, param=param, event_id=event_id)
        case _:
            return ProtocolError("invalid_value", f"'{param}': {first['msg']}.", param=param, event_id=event_id)


class EventWriter:
    """Builds server events, each with its own `event_id`. Keys and order follow the API reference."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id

    def event(self, kind: str, **fields: Any) -> Event:
        """One server event of type `kind`."""
        return {"type": kind, "event_id": self._new_id("event"), **fields}

    def error(self, error: ProtocolError) -> Event:
        """The `error` event for a client's mistake; the session stays open."""
        return self.event("error", error=error.to_event_error())
