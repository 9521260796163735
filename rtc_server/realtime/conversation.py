"""The conversation of one session: an ordered list of message items, the single source for the engine's history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from model.interface import ConversationItem, Role
from rtc_server.errors import ProtocolError

MAX_ITEMS = 1_000  # an hour of quick turns; beyond it the oldest are forgotten

ContentType = Literal["input_text", "input_audio", "output_text", "output_audio"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


@dataclass(frozen=True, slots=True)
class Item:
    """One message. `text` is the text itself or the transcript of the audio."""

    item_id: str
    role: Role
    content_type: ContentType
    text: str
    status: ItemStatus = "completed"
    audio_ms: int = 0
    """Length of the assistant's audio as far as it is known; the limit for truncation."""

    def to_event(self) -> dict[str, Any]:
        """The item as clients see it. Fields that have no value are left out: client SDKs reject nulls."""
        is_audio = self.content_type in ("input_audio", "output_audio")
        part = {"type": self.content_type, ("transcript" if is_audio else "text"): self.text}
        has_content = bool(self.text) or self.role != "assistant"
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [part] if has_content else [],
        }


class Conversation:
    """Items in order. Owned by one call."""

    def __init__(self) -> None:
        self._items: list[Item] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Any:
        return iter(self._items)

    @property
    def last_item_id(self) -> str | None:
        return self._items[-1].item_id if self._items else None

    def append(self, item: Item) -> str | None:
        """Add at the end; returns the id of the item before it."""
        previous = self.last_item_id
        self._items.append(item)
        if len(self._items) > MAX_ITEMS:
            del self._items[0]
        return previous

    def insert(self, item: Item, previous_item_id: str | None) -> str | None:
        """Add after `previous_item_id` ("root" = first, None = last). Raises ProtocolError if it is unknown."""
        if any(known.item_id == item.item_id for known in self._items):
            raise ProtocolError("invalid_value", f"Item '{item.item_id}' exists already.", param="item.id")
        if previous_item_id is None:
            return self.append(item)
        index = 0 if previous_item_id == "root" else self._index(previous_item_id, "previous_item_id") + 1
        self._items.insert(index, item)
        return self._items[index - 1].item_id if index else None

    def get(self, item_id: str) -> Item:
        """Raises ProtocolError(item_not_found)."""
        return self._items[self._index(item_id, "item_id")]

    def update(self, item_id: str, **changes: Any) -> Item | None:
        """Replace fields of an item; None when it was deleted meanwhile."""
        for index, item in enumerate(self._items):
            if item.item_id == item_id:
                self._items[index] = replace(item, **changes)
                return self._items[index]
        return None

    def delete(self, item_id: str) -> None:
        """Raises ProtocolError(item_not_found)."""
        del self._items[self._index(item_id, "item_id")]

    def history(self) -> tuple[ConversationItem, ...]:
        """What the engine is told: every item that has words, oldest first."""
        return tuple(ConversationItem(item.role, item.text) for item in self._items if item.text.strip())

    def _index(self, item_id: str, param: str) -> int:
        for index, item in enumerate(self._items):
            if item.item_id == item_id:
                return index
        raise ProtocolError("item_not_found", f"There is no item '{item_id}'.", param=param)


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
