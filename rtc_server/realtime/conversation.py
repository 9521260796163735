"""The conversation of one session: an ordered list of items, the single source for the engine's history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from model.interface import ConversationItem, HistoryItem, Pcm16, Role, ToolCallItem, ToolResultItem
from rtc_server.errors import ProtocolError

MAX_ITEMS = 1_000  # an hour of quick turns; beyond it the oldest are forgotten

ContentType = Literal["input_text", "input_audio", "output_text", "output_audio"]
ItemType = Literal["message", "function_call", "function_call_output"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
AUDIO_TYPES = ("input_audio", "output_audio")


@dataclass(frozen=True, slots=True)
class Item:
    """One item. `text` is a message's text or the transcript of its audio."""

    item_id: str
    role: Role
    content_type: ContentType
    text: str
    status: ItemStatus = "completed"
    audio_ms: int = 0
    """Length of the assistant's audio as far as it is known; the limit for truncation."""
    whole_text: str = ""
    """Everything the assistant's audio says, heard or not: what a later truncation cuts from."""
    marks: tuple[tuple[int, int], ...] = ()
    """(milliseconds, characters of `whole_text` spoken by then), rising; empty when the engine did not say."""

    @property
    def is_audio(self) -> bool:
        return self.content_type in AUDIO_TYPES

    def to_event(self) -> dict[str, Any]:
        """The item as clients see it. Fields that have no value are left out: client SDKs reject nulls."""
        part = {"type": self.content_type, ("transcript" if self.is_audio else "text"): self.text}
        has_content = bool(self.text) or self.role != "assistant"
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [part] if has_content else [],
        }

    def for_engine(self) -> HistoryItem | None:
        """None when it has no words."""
        return ConversationItem(self.role, self.text) if self.text.strip() else None

    def text_until(self, audio_end_ms: int) -> str:
        """The words of an assistant item that are spoken by `audio_end_ms`: by the engine's marks, else by share."""
        whole = self.whole_text or self.text
        if audio_end_ms >= self.audio_ms and self.status == "completed":
            return whole
        if not self.marks:
            if audio_end_ms >= self.audio_ms:
                return self.text
            return heard_text(whole, round(len(whole) * audio_end_ms / max(1, self.audio_ms)))
        start_ms, start_text = 0, 0
        for end_ms, end_text in self.marks:
            if audio_end_ms < end_ms:
                share = (audio_end_ms - start_ms) / (end_ms - start_ms)
                return heard_text(whole, start_text + int(share * (end_text - start_text)))
            start_ms, start_text = end_ms, end_text
        return heard_text(whole, start_text)


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call that the model asked for."""

    item_id: str
    call_id: str
    name: str
    arguments: str = ""
    """JSON text."""
    status: ItemStatus = "completed"

    def to_event(self) -> dict[str, Any]:
        """The item as clients see it."""
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "function_call",
            "status": self.status,
            "name": self.name,
            "call_id": self.call_id,
            "arguments": self.arguments,
        }

    def for_engine(self) -> HistoryItem | None:
        """None while its arguments are not complete."""
        return ToolCallItem(self.call_id, self.name, self.arguments) if self.status == "completed" else None


@dataclass(frozen=True, slots=True)
class FunctionResult:
    """What the client's function returned."""

    item_id: str
    call_id: str
    output: str
    status: ItemStatus = "completed"

    def to_event(self) -> dict[str, Any]:
        """The item as clients see it."""
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "function_call_output",
            "status": self.status,
            "call_id": self.call_id,
            "output": self.output,
        }

    def for_engine(self) -> HistoryItem | None:
        """Always something."""
        return ToolResultItem(self.call_id, self.output)


AnyItem = Item | FunctionCall | FunctionResult


class Conversation:
    """Items in order. Owned by one call."""

    def __init__(self) -> None:
        self._items: list[AnyItem] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[AnyItem]:
        return iter(self._items)

    @property
    def last_item_id(self) -> str | None:
        return self._items[-1].item_id if self._items else None

    def append(self, item: AnyItem) -> str | None:
        """Add at the end; returns the id of the item before it."""
        previous = self.last_item_id
        self._items.append(item)
        if len(self._items) > MAX_ITEMS:
            del self._items[0]
        return previous

    def insert(self, item: AnyItem, previous_item_id: str | None) -> str | None:
        """Add after `previous_item_id` ("root" = first, None = last). Raises ProtocolError if it is unknown."""
        if any(known.item_id == item.item_id for known in self._items):
            raise ProtocolError("invalid_value", f"Item '{item.item_id}' exists already.", param="item.id")
        if previous_item_id is None:
            return self.append(item)
        index = 0 if previous_item_id == "root" else self._index(previous_item_id, "previous_item_id") + 1
        self._items.insert(index, item)
        if len(self._items) > MAX_ITEMS:
            del self._items[0]
            index -= 1
        return self._items[index - 1].item_id if index > 0 else None

    def get(self, item_id: str) -> AnyItem:
        """Raises ProtocolError(item_not_found)."""
        return self._items[self._index(item_id, "item_id")]

    def find(self, item_id: str) -> AnyItem | None:
        """None when there is none (any more)."""
        return next((item for item in self._items if item.item_id == item_id), None)

    def update(self, item_id: str, **changes: Any) -> Item | None:
        """Replace fields of a message; None when it was deleted meanwhile."""
        for index, item in enumerate(self._items):
            if item.item_id == item_id and isinstance(item, Item):
                self._items[index] = changed = replace(item, **changes)
                return changed
        return None

    def replace(self, item: AnyItem) -> None:
        """Put `item` where the one of its id is; nothing if that was deleted meanwhile."""
        for index, known in enumerate(self._items):
            if known.item_id == item.item_id:
                self._items[index] = item

    def delete(self, item_id: str) -> None:
        """Raises ProtocolError(item_not_found)."""
        del self._items[self._index(item_id, "item_id")]

    def has_call(self, call_id: str) -> bool:
        """The model asked for this function call."""
        return any(isinstance(item, FunctionCall) and item.call_id == call_id for item in self._items)

    def _index(self, item_id: str, param: str) -> int:
        for index, item in enumerate(self._items):
            if item.item_id == item_id:
                return index
        raise ProtocolError("item_not_found", f"There is no item '{item_id}'.", param=param)


class AudioArchive:
    """The sound of the latest items, for `conversation.item.retrieve`. Bounded in seconds: the oldest go first."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._clips: dict[str, tuple[int, list[Pcm16]]] = {}
        self._seconds = 0.0

    def add(self, item_id: str, pcm: Pcm16, sample_rate: int) -> None:
        """More sound of an item."""
        if self._max_seconds <= 0:
            return
        self._clips.setdefault(item_id, (sample_rate, []))[1].append(pcm)
        self._seconds += len(pcm) / sample_rate
        while self._seconds > self._max_seconds and len(self._clips) > 1:
            self.drop(next(iter(self._clips)))
        if self._seconds > self._max_seconds:
            self.drop(item_id)  # longer than everything that may be kept: better nothing than a part

    def get(self, item_id: str) -> tuple[Pcm16, int] | None:
        """(samples, rate) or None when it is not kept."""
        clip = self._clips.get(item_id)
        return None if clip is None else (_joined(clip[1]), clip[0])

    def cut(self, item_id: str, audio_ms: int) -> None:
        """Keep the first `audio_ms`."""
        clip = self._clips.get(item_id)
        if clip is not None:
            rate, pieces = clip
            kept = _joined(pieces)[: rate * audio_ms // 1000]
            self.drop(item_id)
            if len(kept):
                self.add(item_id, kept.copy(), rate)

    def drop(self, item_id: str) -> None:
        """Forget an item's sound, if there is any."""
        rate, pieces = self._clips.pop(item_id, (1, []))
        self._seconds -= sum(len(piece) for piece in pieces) / rate


def _joined(pieces: Sequence[Pcm16]) -> Pcm16:
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def heard_text(text: str, text_end: int | None) -> str:
    """The words of `text` that were heard when `text_end` characters had been spoken: cut at a word's end.

    None means that nobody knows how text and audio line up: then nothing is claimed to have been heard."""
    if text_end is None or text_end <= 0:
        return ""
    if text_end >= len(text):
        return text.rstrip()
    cut = text[:text_end]
    if not text[text_end].isspace() and not cut[-1].isspace():
        cut = cut.rpartition(" ")[0]  # the word was cut off in the middle: it was not heard
    return cut.rstrip()
