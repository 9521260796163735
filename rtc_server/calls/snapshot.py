"""What of a call outlives it: enough for another call, in another process, to go on with its session. Pure.

A snapshot is plain data. `take_snapshot` reads a core without changing it; `restore` puts it into a new one, whose next
request then carries the same history, so that an engine's prefix cache matches by itself. Item ids stay the same.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.realtime.conversation import AnyItem, AudioArchive, FunctionCall, FunctionResult, Item
from rtc_server.realtime.session import SessionConfig
from rtc_server.realtime.words import Event

from .core import CallCore

MAX_TEXT_BYTES = 256 * 1024  # of all items: several hours of talk; beyond it the oldest are left out
MAX_SOUND_BYTES = 1024 * 1024  # 32 s of the latest turns, for engines that listen to what was said
MAX_TOLD_BYTES = 128 * 1024  # of events that tell a client what there is: half of what a data channel may have unread
ITEM_BYTES = 256  # of an item beside its words, in a snapshot; in its two events it is about twice that
VERSION = 1

KINDS: dict[str, type[Item | FunctionCall | FunctionResult]] = {
    "message": Item,
    "function_call": FunctionCall,
    "function_call_output": FunctionResult,
}


@dataclass(frozen=True, slots=True)
class CallSnapshot:
    """A session as it stands, between two processes."""

    call_id: str
    """The call that it was taken of."""
    session_id: str
    conversation_id: str
    expires_at: int
    """When the session reaches its time limit, wall clock in seconds."""
    dialect: str
    """A `sessions.EventDialect`."""
    session: SessionConfig
    items: tuple[AnyItem, ...] = ()
    """The latest that fit. A reply that is not over yet is cut to what was heard of it."""
    sounds: tuple[tuple[str, Pcm16], ...] = ()
    """(item id, int16 mono 16 kHz) of the user's latest turns, where the engine listens to them."""
    has_spoken: bool = False
    """The voice cannot change any more."""

    def to_bytes(self) -> bytes:
        """For a store: a JSON head, then the samples."""
        head = {
            "version": VERSION,
            "call_id": self.call_id,
            "session_id": self.session_id,
            "conversation_id": self.conversation_id,
            "expires_at": self.expires_at,
            "dialect": self.dialect,
            "session": self.session.model_dump_json(),
            "items": [_item_fields(item) for item in self.items],
            "sounds": [[item_id, len(pcm)] for item_id, pcm in self.sounds],
            "has_spoken": self.has_spoken,
        }
        text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
        return b"".join([struct.pack(">I", len(text)), text, *(pcm.astype("<i2").tobytes() for _, pcm in self.sounds)])

    @classmethod
    def from_bytes(cls, data: bytes) -> CallSnapshot:
        """What `to_bytes` made. Raises ValueError for anything else, such as the snapshot of another version."""
        try:
            (length,) = struct.unpack_from(">I", data)
            head = json.loads(data[4 : 4 + length])
            if head.pop("version") != VERSION:
                raise ValueError("another version")
            head["session"] = SessionConfig.model_validate_json(head["session"])
            head["items"] = tuple(_item(fields) for fields in head["items"])
            position, sounds = 4 + length, []
            for item_id, num_samples in head["sounds"]:
                pcm = np.frombuffer(data, "<i2", num_samples, position).astype(np.int16)
                sounds.append((item_id, pcm))
                position += 2 * num_samples
            return cls(**{**head, "sounds": tuple(sounds)})
        except (ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
            raise ValueError("This is no snapshot of a call that this version can read.") from error


@dataclass(frozen=True, slots=True)
class ResumeGrant:
    """A call's right to be gone on with."""

    token: str = field(repr=False)
    """What the client shows. A secret: whoever stores something under it uses `key`."""
    owner: tuple[str, ...]
    """Who may show it (`media.owners.account`)."""
    snapshot: CallSnapshot | None = None
    """What this call goes on with; None = it is new."""

    @property
    def key(self) -> str:
        """The token as stores know it."""
        return resume_key(self.token)


def resume_key(token: str) -> str:
    """SHA-256 of a token, as hex: looked up by it, the time taken tells nothing about the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def take_snapshot(core: CallCore, *, session_id: str, expires_at: int, dialect: str) -> CallSnapshot:
    """The session of `core` as it stands."""
    sounds = _latest_sounds(core.sounds, core.conversation)
    heard = core.replies.as_heard()
    sounding = {item_id for item_id, _ in sounds}
    items = [heard.get(item.item_id, item) for item in core.conversation]
    kept = _latest([item for item in items if _is_of_use(item, sounding)])
    return CallSnapshot(
        call_id=core.call_id,
        session_id=session_id,
        conversation_id=core.conversation_id,
        expires_at=expires_at,
        dialect=dialect,
        session=core.session,
        items=tuple(_without_marks(kept)),
        sounds=sounds,
        has_spoken=core.replies.has_spoken,
    )


def restore(core: CallCore, snapshot: CallSnapshot) -> None:
    """Let a new core, made with the snapshot's session, go on where the old one was."""
    core.conversation_id = core.replies.conversation_id = snapshot.conversation_id
    core.replies.has_spoken = snapshot.has_spoken
    for item in snapshot.items:
        core.conversation.append(item)
    if core.sounds is not None:
        for item_id, pcm in snapshot.sounds:
            core.sounds.add(item_id, pcm, INPUT_SAMPLE_RATE)


def resumable_events(core: CallCore, grant: ResumeGrant, seconds: float) -> list[Event]:
    """What the call's own client is told after `session.created`: how to come back, and what the conversation is. Of a
    long one the latest items that `MAX_TOLD_BYTES` holds; a client that kept its own loses nothing."""
    items = () if grant.snapshot is None else grant.snapshot.items
    first = _first_that_fits(items, MAX_TOLD_BYTES, lambda item: 2 * (_num_bytes(item) + ITEM_BYTES))
    events = [
        core.announce.event(
            "rtc_server.session.resumable",
            resume_token=grant.token,
            keep_seconds=seconds,
            resumed=grant.snapshot is not None,
            num_items=len(items) - first,
        )
    ]
    for number in range(first, len(items)):
        events += core.announce.item(items[number], items[number - 1].item_id if number else None)
    return events


# --- what is worth keeping


def _is_of_use(item: AnyItem, sounding: set[str]) -> bool:
    """The engine or the client can make something of it. What nobody has heard yet, or understood, is gone."""
    match item:
        case FunctionCall():
            return item.status == "completed"
        case Item(role="assistant"):
            return bool(item.text) or item.status == "completed"
        case Item():
            return bool(item.text) or item.item_id in sounding
    return True


def _latest(items: list[AnyItem]) -> list[AnyItem]:
    """As many of the end as `MAX_TEXT_BYTES` holds; no result of a call that is left out."""
    kept = items[_first_that_fits(items, MAX_TEXT_BYTES, lambda item: _num_bytes(item) + ITEM_BYTES) :]
    calls = {item.call_id for item in kept if isinstance(item, FunctionCall)}
    return [item for item in kept if not isinstance(item, FunctionResult) or item.call_id in calls]


def _first_that_fits(items: Sequence[AnyItem], room: int, weight: Callable[[AnyItem], int]) -> int:
    """From which item on all of them together weigh no more than `room`."""
    first = len(items)
    while first > 0 and (room := room - weight(items[first - 1])) >= 0:
        first -= 1
    return first


def _without_marks(items: list[AnyItem]) -> Iterable[AnyItem]:
    """Only the latest reply can still be truncated by a client that plays it itself: it keeps where its words are."""
    replies = [item.item_id for item in items if isinstance(item, Item) and item.role == "assistant"]
    for item in items:
        if isinstance(item, Item) and item.whole_text and item.item_id != replies[-1]:
            yield Item(item.item_id, item.role, item.content_type, item.text, item.status, item.audio_ms)
        else:
            yield item


def _latest_sounds(archive: AudioArchive | None, items: Iterable[AnyItem]) -> tuple[tuple[str, Pcm16], ...]:
    if archive is None:
        return ()
    found: list[tuple[str, Pcm16]] = []
    room = MAX_SOUND_BYTES
    for item in reversed(list(items)):
        clip = archive.get(item.item_id)
        if clip is not None:
            room -= clip[0].nbytes
            if room < 0:
                break
            found.append((item.item_id, clip[0]))
    return tuple(reversed(found))


def _num_bytes(item: AnyItem) -> int:
    match item:
        case Item():
            return len(item.text.encode()) + len(item.whole_text.encode())
        case FunctionCall():
            return len(item.name.encode()) + len(item.arguments.encode())
        case FunctionResult():
            return len(item.output.encode())


def _item_fields(item: AnyItem) -> dict[str, Any]:
    kind = next(name for name, cls in KINDS.items() if isinstance(item, cls))
    return {"kind": kind, **{name: getattr(item, name) for name in item.__slots__}}


def _item(fields: dict[str, Any]) -> AnyItem:
    cls = KINDS[fields.pop("kind")]
    if "marks" in fields:
        fields["marks"] = tuple((ms, end) for ms, end in fields["marks"])
    return cls(**fields)
