"""Where recordings lie, and what becomes of them: names, what is finished, retention, and repair after a crash.

    DIRECTORY/2026-11-26/CALL_ID.caller.opus     what came from the caller
                         CALL_ID.server.opus     what went to the caller
                         CALL_ID.json            when, how, and the words

A sealed file ends in ".enc", one that is being written in ".part". A writer holds a lock (flock) on its ".part" files,
so one without it was left by a process that is gone. Only this user can read them.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import RecordingInProgressError, RecordingNotFoundError
from .ogg import whole_pages
from .track import with_known_size

PART, SEALED = ".part", ".enc"
FOLDER_MODE, FILE_MODE = 0o700, 0o600
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # as the server makes them: no path can be built from one
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})\.(json|(caller|server)\.(opus|wav))(\.enc)?(\.part)?")
FRESH_SECONDS = 10.0
MAX_HEAL_BYTES = 1 << 30  # a longer plain file is kept as it is: to look at all of it would take too long at a start


@dataclass(frozen=True, slots=True)
class Recording:
    """The files of one recorded call."""

    call_id: str
    folder: Path
    files: tuple[Path, ...]

    @property
    def date(self) -> str:
        """UTC, of its beginning."""
        return self.folder.name

    @property
    def num_bytes(self) -> int:
        return sum(_size(path) for path in self.files)

    @property
    def modified_at(self) -> float:
        """Wall-clock seconds of the last byte."""
        return max((_modified(path) for path in self.files), default=0.0)

    @property
    def is_sealed(self) -> bool:
        return any(path.name.removesuffix(PART).endswith(SEALED) for path in self.files)

    @property
    def is_in_progress(self) -> bool:
        """A running process writes it."""
        return any(path.name.endswith(PART) and _is_locked(path) for path in self.files)

    def file(self, kind: str) -> Path | None:
        """The finished file of "json", "caller" or "server"."""
        for path in self.files:
            if path.name.startswith(f"{self.call_id}.{kind}") and not path.name.endswith(PART):
                return path
        return None

    def delete(self) -> None:
        """All its files, those that somebody else has just deleted left out."""
        for path in self.files:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # other calls of that day
            self.folder.rmdir()


def check_call_id(call_id: str) -> str:
    """The id, once it can be a file's name. Raises RecordingNotFoundError."""
    if not _CALL_ID.fullmatch(call_id):
        raise RecordingNotFoundError(f"'{call_id[:64]}' is not the id of a call.")
    return call_id


def open_part(directory: Path, date: str, name: str) -> tuple[BinaryIO, Path]:
    """A new file that is being written, locked. Raises OSError."""
    directory.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    folder = directory / date
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    path = folder / (name + PART)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return os.fdopen(descriptor, "wb", buffering=0), path


def finish_part(path: Path) -> None:
    """It is whole: it gets its name. Raises OSError."""
    path.rename(path.with_name(path.name.removesuffix(PART)))


def recordings(directory: Path) -> list[Recording]:
    """All that there are, oldest first. What is no recording is not looked at."""
    found: dict[tuple[Path, str], list[Path]] = {}
    for folder in _folders(directory):
        for path in sorted(folder.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is not None and path.is_file() and not path.is_symlink():
                found.setdefault((folder, match[1]), []).append(path)
    listed = [Recording(call_id, folder, tuple(files)) for (folder, call_id), files in found.items()]
    return sorted(listed, key=lambda recording: (recording.date, recording.modified_at))


def find(directory: Path, call_id: str) -> Recording:
    """The recording of a call. Raises RecordingNotFoundError."""
    check_call_id(call_id)
    for recording in recordings(directory):
        if recording.call_id == call_id:
            return recording
    raise RecordingNotFoundError(f"There is no recording of the call '{call_id}' in {directory}.")


def delete(directory: Path, call_id: str) -> None:
    """Raises RecordingNotFoundError, and RecordingInProgressError while the call goes on."""
    recording = find(directory, call_id)
    if recording.is_in_progress:
        raise RecordingInProgressError(f"The call '{call_id}' is being recorded; hang it up first.")
    recording.delete()


def sweep(directory: Path, now: float, max_age_seconds: float, max_bytes: int) -> tuple[int, int]:
    """Delete finished recordings that are too old, then the oldest until all fit `max_bytes`; 0 = no limit. `now`:
    wall-clock seconds. Returns how many were too old and how many too much."""
    kept, too_old, too_much = [], 0, 0
    for recording in recordings(directory):
        if max_age_seconds and now - recording.modified_at > max_age_seconds and not recording.is_in_progress:
            recording.delete()
            too_old += 1
        else:
            kept.append(recording)
    total = sum(recording.num_bytes for recording in kept)
    for recording in kept:
        if not max_bytes or total <= max_bytes:
            break
        if not recording.is_in_progress:
            total -= recording.num_bytes
            recording.delete()
            too_much += 1
    return too_old, too_much


def heal(directory: Path, now: float) -> int:
    """Finish what a process that is gone left behind. Returns the number of files. The ".json" beside them says
    "complete": false. Files that were written a moment before `now`, wall-clock seconds, wait for the next time: their
    writer may not have locked them yet."""
    healed = 0
    for recording in recordings(directory):
        for path in recording.files:
            if path.name.endswith(PART) and now - _modified(path) > FRESH_SECONDS:
                healed += heal_file(path)
    return healed


def heal_file(path: Path) -> bool:
    """Whole pages, samples or chunks are kept, the torn rest is cut off. False when there is nothing to do."""
    try:
        with path.open("r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if ".json" in path.name:
                path.unlink()  # the one that it was to replace is there
                return True
            size = os.fstat(file.fileno()).st_size
            if path.name.endswith(f".opus{PART}") and size <= MAX_HEAL_BYTES:
                file.truncate(whole_pages(file.read()))
            elif path.name.endswith(f".wav{PART}"):
                know_size(file)
            finish_part(path)
    except BlockingIOError:
        return False  # a running process writes it
    except FileNotFoundError:
        return False  # another process healed it first
    return True


def know_size(file: BinaryIO) -> None:
    """Write the length into a plain WAV that is complete."""
    size = os.fstat(file.fileno()).st_size
    header = os.pread(file.fileno(), 64, 0)
    if len(header) == 64:
        os.pwrite(file.fileno(), with_known_size(header, size), 0)


def _folders(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        for folder in sorted(directory.iterdir()):
            if _DATE.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                yield folder


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
