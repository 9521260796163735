"""The store of lost sessions of a server on one machine, and how snapshots of calls get into any store."""

from __future__ import annotations

import asyncio

from rtc_server.calls.snapshot_timer import REPEAT_SECONDS

from .owners import Owner
from .snapshots import SavedSession, SnapshotStore, SnapshotTable


class LocalSnapshotStore:
    """A `SnapshotStore` in the memory of this process: it ends with it, as the calls do."""

    def __init__(self, resume_seconds: float) -> None:
        """`resume_seconds`: for at least so long after a call was lost its session is here."""
        self._table = SnapshotTable(resume_seconds + REPEAT_SECONDS)

    async def put(self, key: str, saved: SavedSession) -> None:
        """See `SnapshotStore`."""
        self._table.put(key, saved, asyncio.get_running_loop().time())

    async def take(self, key: str, owner: Owner) -> SavedSession | None:
        """See `SnapshotStore`."""
        return self._table.take(key, owner, asyncio.get_running_loop().time())

    async def drop(self, key: str) -> None:
        """See `SnapshotStore`."""
        self._table.drop(key)


class SnapshotWriter:
    """Brings what calls hand on into a store, in order. While a store is slow the latest of each session counts, so
    what waits is bounded by the number of sessions."""

    def __init__(self, store: SnapshotStore, tasks: asyncio.TaskGroup) -> None:
        self._store = store
        self._tasks = tasks
        self._waiting: dict[str, SavedSession | None] = {}
        self._is_writing = False

    def write(self, key: str, owner: Owner, data: bytes | None) -> None:
        """A `calls.snapshot_timer.SaveSnapshot`."""
        self._waiting[key] = None if data is None else SavedSession(owner, data)
        if not self._is_writing:
            self._is_writing = True
            self._tasks.create_task(self._write(), name="snapshot-writer")

    async def _write(self) -> None:
        try:
            while self._waiting:
                key = next(iter(self._waiting))
                saved = self._waiting.pop(key)
                if saved is None:
                    await self._store.drop(key)
                else:
                    await self._store.put(key, saved)
        finally:
            self._is_writing = False
