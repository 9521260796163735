"""The one thread of a process that writes recordings, and what the calls may ask of it.

Calls hand over what they have about once per second and never wait. When the disk is full, or too slow to keep up, the
recording ends; the call that is recorded does not notice, but is told.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from rtc_server import metrics
from rtc_server.config import RecordingSection
from rtc_server.errors import ConfigError

from .crypto import read_key
from .folder import FOLDER_MODE, check_call_id, heal, sweep
from .notice import BUNDLED, read_notice
from .writer import CallFiles, Piece, Side, SideFormat

log = logging.getLogger(__name__)

MAX_WAITING = 256  # batches of a second of a call: a disk that stands still for 25 s with ten calls
SWEEP_SECONDS = 600.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DAY_SECONDS = 86_400.0

OnFailure: TypeAlias = Callable[[str], None]


class Entry:
    """One recording, from the call's side a handle."""

    def __init__(self, call_id: str, formats: Mapping[Side, SideFormat], on_failure: OnFailure) -> None:
        self.call_id = check_call_id(call_id)
        self.formats = formats
        self.on_failure = on_failure
        self.has_failed = False
        """Set by either thread, never cleared: nothing more is written."""
        self.files: CallFiles | None = None
        """The writing thread's alone."""


@dataclass(frozen=True, slots=True)
class _Open:
    entry: Entry
    started_at: datetime
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Add:
    entry: Entry
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class _Describe:
    entry: Entry
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Finish:
    entry: Entry
    at: float
    body: Mapping[str, Any]


_Work: TypeAlias = _Open | _Add | _Describe | _Finish


class RecordingStore:
    """Made once per media process where recording is enabled; `close` it after the last call."""

    def __init__(self, settings: RecordingSection) -> None:
        """Raises ConfigError for what `check` would have refused."""
        self.settings = settings
        self._directory = Path(settings.directory)
        self.notice = read_notice(Path(settings.notice_sound) if settings.notice_sound else BUNDLED)
        """The sentence that callers hear, and its rate."""
        self._key = read_key(Path(settings.key_file)) if settings.key_file else None
        # What is put in beside sound is a few messages per recording's life.
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()  # `add` ends a recording beyond MAX_WAITING
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    @property
    def is_sealed(self) -> bool:
        return self._key is not None

    # --- from the event loop

    def open(
        self, call_id: str, formats: Mapping[Side, SideFormat], body: Mapping[str, Any], on_failure: OnFailure
    ) -> Entry:
        """Begin a recording. `on_failure(reason)` is called once, by the writing thread or inside a method of this,
        when it cannot go on: "disk_full", "disk_error", "too_slow" or "internal_error"."""
        entry = Entry(call_id, formats, on_failure)
        self._queue.put(_Open(entry, datetime.now(UTC), body))
        return entry

    def add(self, entry: Entry, pieces: Sequence[Piece]) -> None:
        """More of a recording."""
        if entry.has_failed:
            return
        if self._queue.qsize() >= MAX_WAITING:
            self._fail(entry, "too_slow")
            return
        self._queue.put(_Add(entry, pieces))

    def describe(self, entry: Entry, body: Mapping[str, Any]) -> None:
        """What stands beside the sound, as of now."""
        if not entry.has_failed and self._queue.qsize() < MAX_WAITING:
            self._queue.put(_Describe(entry, body))

    def finish(self, entry: Entry, at: float, body: Mapping[str, Any]) -> None:
        """The recording is over, `at` seconds after it began; also after it failed."""
        self._queue.put(_Finish(entry, at, body))

    def close(self) -> None:
        """Write what waits, end the thread and wait for it: blocks, so not on the event loop. Idempotent."""
        self._queue.put(None)
        self._thread.join()

    # --- the thread

    def _run(self) -> None:
        next_sweep = time.monotonic()
        while True:
            if time.monotonic() >= next_sweep:
                self._keep_house()
                next_sweep = time.monotonic() + SWEEP_SECONDS
            try:
                work = self._queue.get(timeout=max(0.0, next_sweep - time.monotonic()))
            except queue.Empty:
                continue
            if work is None:
                return
            try:
                metrics.RECORDING_BYTES.inc(self._do(work))
            except OSError as error:
                self._give_up(work.entry, "disk_full" if error.errno in DISK_FULL else "disk_error", error)
            except Exception as error:  # a bug ends this recording; the thread serves every other call too
                log.exception("a recording failed", extra={"call_id": work.entry.call_id})
                self._give_up(work.entry, "internal_error", error)

    def _do(self, work: _Work) -> int:
        entry = work.entry
        if isinstance(work, _Finish):
            return self._finish(work)
        if entry.has_failed:
            return 0
        match work:
            case _Open(started_at=started_at, body=body):
                date = started_at.date().isoformat()
                entry.files = CallFiles(self._directory, date, entry.call_id, entry.formats, self._key)
                return entry.files.describe(body)
            case _Add(pieces=pieces):
                assert entry.files is not None, "opened before"
                return entry.files.add(pieces)
            case _Describe(body=body):
                assert entry.files is not None, "opened before"
                return entry.files.describe(body)

    def _finish(self, work: _Finish) -> int:
        files, work.entry.files = work.entry.files, None
        if files is None:
            return 0
        try:
            if not work.entry.has_failed:
                return files.finish(work.at) + files.describe(work.body)
            with suppress(OSError):  # what failed before, and was told
                return files.describe(work.body)
            return 0
        finally:
            files.close()

    def _give_up(self, entry: Entry, reason: str, error: Exception) -> None:
        detail = error.strerror if isinstance(error, OSError) else type(error).__name__
        log.error("a recording stopped", extra={"call_id": entry.call_id, "reason": reason, "error": detail})
        if entry.files is not None:
            entry.files.close()
        self._fail(entry, reason)

    def _fail(self, entry: Entry, reason: str) -> None:
        if entry.has_failed:
            return
        entry.has_failed = True
        metrics.RECORDING_FAILURES.labels(reason).inc()
        entry.on_failure(reason)

    def _keep_house(self) -> None:
        now = time.time()
        settings = self.settings
        try:
            healed = heal(self._directory, now)
            too_old, too_much = sweep(
                self._directory, now, settings.retention_days * DAY_SECONDS, settings.max_total_mb * 1_000_000
            )
        except OSError as error:
            log.error("recordings cannot be looked after", extra={"error": error.strerror})
            return
        if healed:
            log.warning("recordings of an earlier process were finished", extra={"files": healed})
        for reason, count in (("too old", too_old), ("too much", too_much)):
            if count:
                log.info("recordings were deleted", extra={"reason": reason, "recordings": count})


def check(settings: RecordingSection) -> None:
    """Before the server starts: can it record as it is told to? Raises ConfigError."""
    if not settings.enabled:
        return
    directory = Path(settings.directory)
    try:
        directory.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"recording.directory = {settings.directory!r} cannot be written to: {error.strerror}."
        ) from error
    if settings.key_file:
        read_key(Path(settings.key_file))
    if settings.notice_sound:
        read_notice(Path(settings.notice_sound))
    if settings.notice == "none":
        log.warning('calls are recorded and nobody is told (recording.notice = "none"); see docs/recording.md')
