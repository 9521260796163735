"""Items as clients write them: messages, function calls and their results, references. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from rtc_server.errors import ProtocolError

from .conversation import AnyItem, ContentType, FunctionCall, FunctionResult, Item
from .validation import Strict
from .words import NewId

MAX_TEXT = 20_000
ItemId = Annotated[str, Field(min_length=1, max_length=64)]
Status: TypeAlias = Literal["completed", "incomplete", "in_progress"]


class TextPart(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str = Field(max_length=MAX_TEXT)


class AudioPart(Strict):
    """Sound of the user, in the session's input format."""

    type: Literal["input_audio"]
    audio: str | None = None
    transcript: str | None = Field(None, max_length=MAX_TEXT)


class SpokenPart(Strict):
    """What the assistant said earlier; only its words are of use."""

    type: Literal["output_audio", "audio"]
    audio: str | None = None
    transcript: str | None = Field(None, max_length=MAX_TEXT)


ContentPart: TypeAlias = Annotated[TextPart | AudioPart | SpokenPart, Field(discriminator="type")]
PARTS = {
    "system": ("input_text", "text"),
    "user": ("input_text", "text", "input_audio"),
    "assistant": ("output_text", "text", "output_audio", "audio"),
}
"""Content that a message of each role may have."""


class _Item(Strict):
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Status | None = None


class MessageItem(_Item):
    """A message that the client puts into the conversation."""

    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: list[ContentPart] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _parts_fit(self) -> MessageItem:
        for part in self.content:
            if part.type not in PARTS[self.role]:
                raise ValueError(f"a message of role '{self.role}' cannot have content of type '{part.type}'")
        return self

    @property
    def text(self) -> str:
        """All its words."""
        words = (part.text if isinstance(part, TextPart) else part.transcript for part in self.content)
        return " ".join(word for word in words if word)

    def audio(self) -> bytes:
        """The user's sound, parts joined. Raises ProtocolError when it is not base64."""
        parts = [part.audio for part in self.content if isinstance(part, AudioPart) and part.audio]
        return b"".join(decode_base64(part, "item.content.audio") for part in parts)


class FunctionCallItem(_Item):
    type: Literal["function_call"]
    name: str = Field(min_length=1, max_length=64)
    call_id: ItemId | None = None
    arguments: str = Field(max_length=MAX_TEXT)


class FunctionCallOutputItem(_Item):
    type: Literal["function_call_output"]
    call_id: ItemId
    output: str = Field(max_length=MAX_TEXT)


class ItemReference(Strict):
    """An item of the conversation, by id; for the input of a response."""

    type: Literal["item_reference"]
    id: ItemId


ClientItem: TypeAlias = Annotated[MessageItem | FunctionCallItem | FunctionCallOutputItem, Field(discriminator="type")]
InputItem: TypeAlias = Annotated[
    MessageItem | FunctionCallItem | FunctionCallOutputItem | ItemReference, Field(discriminator="type")
]


def to_item(source: MessageItem | FunctionCallItem | FunctionCallOutputItem, new_id: NewId) -> AnyItem:
    """The client's item as one of the conversation, without its sound."""
    item_id = source.id or new_id("item")
    match source:
        case FunctionCallItem():
            return FunctionCall(item_id, source.call_id or new_id("call"), source.name, source.arguments)
        case FunctionCallOutputItem():
            return FunctionResult(item_id, source.call_id, source.output)
        case MessageItem():
            content_type: ContentType = "input_text"
            if source.role == "assistant":
                content_type = "output_text"
            elif any(isinstance(part, AudioPart) for part in source.content):
                content_type = "input_audio"
            return Item(item_id, source.role, content_type, source.text)


def decode_base64(text: str, param: str) -> bytes:
    """Raises ProtocolError for anything but base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError("invalid_value", f"'{param}' is not valid base64.", param=param) from error
