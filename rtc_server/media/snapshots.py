"""Where sessions of lost calls wait to be gone on with: the seam, and the bounds of a store in memory. Pure.

A store knows a session by the hash of its token, whose it is, and bytes. It forgets what nobody has put for a while;
calls that live put theirs again and again (`calls.snapshot_timer`), so it need not know which of them do.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from .owners import Owner

MAX_SNAPSHOTS = 20_000
MAX_BYTES = 256 * 1024 * 1024  # of all together; a session with an hour of talk has about 50 KB


@dataclass(frozen=True, slots=True)
class SavedSession:
    """What a store keeps of one."""

    owner: Owner
    """Who may take it."""
    data: bytes
    """A `calls.snapshot.CallSnapshot`."""


class SnapshotStore(Protocol):
    """Keys are `calls.snapshot.resume_key`s. Everything that crosses can be sent to another process."""

    async def put(self, key: str, saved: SavedSession) -> None:
        """Keep it in place of an earlier one, for as long as this store keeps."""

    async def take(self, key: str, owner: Owner) -> SavedSession | None:
        """Remove and return it, at once: of two who ask, one gets it. None when there is none, or not for `owner`."""

    async def drop(self, key: str) -> None:
        """Forget it, if it is there."""


class SnapshotTable:
    """The bounds of a local store. Pure: `now` is monotonic seconds. What was put longest ago makes room."""

    def __init__(self, keep_seconds: float, max_snapshots: int = MAX_SNAPSHOTS, max_bytes: int = MAX_BYTES) -> None:
        self._keep_seconds = keep_seconds
        self._max_snapshots = max_snapshots
        self._max_bytes = max_bytes
        self._saved: OrderedDict[str, tuple[float, SavedSession]] = OrderedDict()  # with its end, in order of ends
        self.num_bytes = 0
        """Of all that is kept."""

    def __len__(self) -> int:
        return len(self._saved)

    def put(self, key: str, saved: SavedSession, now: float) -> None:
        """See `SnapshotStore.put`."""
        self.drop(key)
        self._saved[key] = (now + self._keep_seconds, saved)
        self.num_bytes += len(saved.data)
        while self._saved and (
            next(iter(self._saved.values()))[0] <= now
            or len(self._saved) > self._max_snapshots
            or self.num_bytes > self._max_bytes
        ):
            self.drop(next(iter(self._saved)))

    def take(self, key: str, owner: Owner, now: float) -> SavedSession | None:
        """See `SnapshotStore.take`."""
        ends_at, saved = self._saved.get(key, (0.0, None))
        if saved is None or saved.owner != owner:
            return None
        self.drop(key)
        return saved if now < ends_at else None

    def drop(self, key: str) -> None:
        """See `SnapshotStore.drop`."""
        _, saved = self._saved.pop(key, (0.0, None))
        if saved is not None:
            self.num_bytes -= len(saved.data)
