"""What a response is told of: the conversation, or what a client brings along with `response.create`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from model.interface import INPUT_SAMPLE_RATE, ConversationItem, HistoryItem, Pcm16
from rtc_server.errors import ProtocolError
from rtc_server.realtime.client_items import InputItem, ItemReference, MessageItem, to_item
from rtc_server.realtime.conversation import AnyItem, AudioArchive, Conversation, Item
from rtc_server.realtime.words import NewId

DecodeSound: TypeAlias = Callable[[MessageItem], Pcm16 | None]
"""The sound of a client's message as int16 mono 16 kHz; None when it has none. Raises ProtocolError."""

HEARD_SECONDS = 180.0
"""Sound of past turns for engines that listen to it: 5.8 MB per call, and it travels with every request."""


def engine_history(
    items: Iterable[AnyItem], heard: Mapping[str, str], sounds: AudioArchive | None, waiting: Collection[str]
) -> tuple[HistoryItem, ...]:
    """The conversation as the engine shall see it, oldest first: every item that has words, or sound if it listens.

    `heard` are the words of replies that are paused, as far as they were heard. `sounds` is None for an engine that
    goes by words. `waiting` are the items whose sound is in the request itself."""
    told: list[HistoryItem] = []
    for item in items:
        if isinstance(item, Item) and item.item_id in heard:
            item = replace(item, text=heard[item.item_id])
        sound = None
        if sounds is not None and isinstance(item, Item) and item.role == "user":
            if item.item_id in waiting:
                continue
            sound = sounds.get(item.item_id)
        words = item.for_engine()
        if sound is not None and isinstance(item, Item):
            told.append(ConversationItem(item.role, item.text, sound[0]))
        elif words is not None:
            told.append(words)
    return tuple(told)


def response_context(
    sources: Sequence[InputItem],
    conversation: Conversation,
    archive: AudioArchive,
    decode: DecodeSound,
    new_id: NewId,
    *,
    listens: bool = False,
) -> tuple[tuple[HistoryItem, ...], Pcm16 | None]:
    """(what stands before, the user's sound when the last item is that). References look into the conversation.

    `listens`: the engine takes sound anywhere; otherwise an item without words can only be the last.
    Raises ProtocolError for an unknown reference, and for an item without words that is not possible there."""
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
        elif audio is not None and listens and number < len(sources) - 1:
            told.append(ConversationItem("user", "", audio))
        elif audio is None or number < len(sources) - 1:
            message = "An item without words can only be the last, and needs its sound."
            raise ProtocolError("invalid_value", message, param=param)
        else:
            return tuple(told), audio
    return tuple(told), None
