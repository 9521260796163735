"""When a call's snapshot is handed on: soon after what it shows has changed, never in the middle of something.

Several changes make one snapshot. While a reply is heard one follows the other every second, so that a call that is
lost with its process is cut about where its caller stopped hearing; a silent call repeats its own, so that a store can
forget those that nobody repeats. One takes 0.07 ms for 20 items, 2 ms for as much as there may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from rtc_server.realtime.words import Event

from .snapshot import CallSnapshot, ResumeGrant

SaveSnapshot: TypeAlias = Callable[[str, tuple[str, ...], bytes | None], None]
"""Gets the key of a session, whose it is, and its snapshot; None = the session is over for good. Must not block."""

SETTLE_SECONDS = 0.2  # the events of one change come within a few ticks
HEARING_SECONDS = 1.0  # how far what was heard may be behind when a process is killed in the middle of a reply
REPEAT_SECONDS = 30.0
BYTES_PER_SECOND = 256 * 1024  # a large snapshot is taken less often: 1 MB of sound every 4 s

CHANGES = frozenset(
    (
        "conversation.item.done",
        "conversation.item.truncated",
        "conversation.item.deleted",
        "conversation.item.input_audio_transcription.completed",
        "response.created",
        "response.done",
        "output_audio_buffer.stopped",
        "session.updated",
    )
)
"""Events after which a snapshot looks different."""

LOST = frozenset(("connection_failed", "client_not_reading", "setup_timeout", "internal_error", "shutdown"))
"""Reasons of an end that nobody wanted: the client may come back. All others end the session as well."""


class SnapshotTimer:
    """Of one call. `take` makes a snapshot; `on_error` gets what it raises."""

    def __init__(
        self,
        grant: ResumeGrant,
        take: Callable[[], CallSnapshot],
        save: SaveSnapshot,
        is_replying: Callable[[], bool],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._grant = grant
        self._take = take
        self._save = save
        self._is_replying = is_replying
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._is_closed = False
        self._is_connected = grant.snapshot is None

    def start(self) -> None:
        """The call begins: from now on it can be gone on with."""
        self._arm(0.0)

    def on_connected(self) -> None:
        """Its client is there: whether the session goes on is up to this call from now on."""
        self._is_connected = True

    def note(self, event: Event) -> None:
        """An event went out."""
        if event["type"] in CHANGES:
            self._arm(SETTLE_SECONDS)

    def hand_over(self) -> bytes | None:
        """The last snapshot, for whoever goes on with the session; nothing is saved any more. None after the end."""
        if self._is_closed:
            return None
        self._stop()
        return self._take().to_bytes()

    def close(self, reason: str) -> None:
        """The call is over; before its core is closed. A call that was to go on with a session and never came about
        leaves it to the next try."""
        if self._is_closed:
            return
        self._stop()
        is_lost = reason in LOST or not self._is_connected
        self._save(self._grant.key, self._grant.owner, self._take().to_bytes() if is_lost else None)

    def _stop(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, seconds: float) -> None:
        due = max(self._loop.time() + seconds, self._not_before)
        if self._is_closed or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        try:
            data = self._take().to_bytes()
        except Exception as error:  # called by the event loop, which would only log it
            self._on_error(error)
            return
        self._not_before = self._loop.time() + len(data) / BYTES_PER_SECOND
        self._save(self._grant.key, self._grant.owner, data)
        self._arm(HEARING_SECONDS if self._is_replying() else REPEAT_SECONDS)
