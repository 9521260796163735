"""The context that a client brings along with `response.create`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from model.interface import INPUT_SAMPLE_RATE, HistoryItem, Pcm16
from rtc_server.errors import ProtocolError
from rtc_server.realtime.client_items import InputItem, ItemReference, MessageItem, to_item
from rtc_server.realtime.conversation import AudioArchive, Conversation
from rtc_server.realtime.words import NewId

DecodeSound: TypeAlias = Callable[[MessageItem], Pcm16 | None]
"""The sound of a client's message as int16 mono 16 kHz; None when it has none. Raises ProtocolError."""


def response_context(
    sources: Sequence[InputItem],
    conversation: Conversation,
    archive: AudioArchive,
    decode: DecodeSound,
    new_id: NewId,
) -> tuple[tuple[HistoryItem, ...], Pcm16 | None]:
    """(what stands before, the user's sound when the last item is that). References look into the conversation.

    Raises ProtocolError for an unknown reference and for an item that is neither words nor the last."""
    told: list[HistoryItem] = []
    for number, source in enumerate(sources):
        param = f"response.input.{number}"
        audio: Pcm16 | None = None
        if isinstance(source, ItemReference):
            item = conversation.find(source.id)
            if item is None:
                raise ProtocolError("item_not_found", f"There is no item '{source.id}'.", param=f"{param}.id")
            kept = archive.get(source.id)
            if kept is not None and kept[1] == INPUT_SAMPLE_RATE:
                audio = kept[0]
        else:
            item = to_item(source, new_id)
            audio = decode(source) if isinstance(source, MessageItem) else None
        words = item.for_engine()
        if words is not None:
            told.append(words)
        elif audio is None or number < len(sources) - 1:
            message = "An item without words can only be the last, and needs its sound."
            raise ProtocolError("invalid_value", message, param=param)
        else:
            return tuple(told), audio
    return tuple(told), None
