"""The files of one call while it is recorded. Used by the store's thread alone; everything here may raise OSError."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

from .crypto import Sealer
from .folder import FILE_MODE, PART, SEALED, finish_part, heal_file, know_size, open_part
from .track import Track, create_track

Side: TypeAlias = Literal["caller", "server"]
SIDES: tuple[Side, ...] = ("caller", "server")


class Piece(NamedTuple):
    """One payload on its way to the disk."""

    side: Side
    payload: bytes
    timestamp: int | None
    """In the codec's ticks; None = samples that follow the ones before."""
    at: float
    """Seconds since the recording began."""


@dataclass(frozen=True, slots=True)
class SideFormat:
    """What one direction consists of."""

    coding: str | None
    """"opus", "PCMU", "PCMA", or None for samples."""
    sample_rate: int
    """Of samples, in Hz."""


class _File:
    """A track and where it goes."""

    def __init__(self, directory: Path, date: str, name: str, track: Track, key: bytes | None) -> None:
        self._track = track
        self._sealer = None if key is None else Sealer(key, name + track.suffix)
        self.name = name + track.suffix + ("" if key is None else SEALED)
        self._file, self._path = open_part(directory, date, self.name)

    def add(self, pieces: Iterable[Piece]) -> int:
        return self._write(b"".join(self._track.add(piece.payload, piece.timestamp, piece.at) for piece in pieces))

    def finish(self, at: float) -> int:
        written = self._write(self._track.finish(at))
        if self._sealer is not None:
            written += _write_all(self._file, self._sealer.finish())
        elif self.name.endswith(".wav"):
            know_size(self._file)
        finish_part(self._path)
        return written

    def close(self) -> None:
        self._file.close()
        with suppress(OSError):  # the disk that failed may fail again; the next start tries once more
            heal_file(self._path)

    def _write(self, data: bytes) -> int:
        if self._sealer is not None and data:
            data = self._sealer.seal(data)
        return _write_all(self._file, data)


class CallFiles:
    """Both directions and the words of one call. Every method returns the bytes that were written."""

    def __init__(
        self, directory: Path, date: str, call_id: str, formats: Mapping[Side, SideFormat], key: bytes | None
    ) -> None:
        self._directory, self._date, self._call_id, self._key = directory, date, call_id, key
        self._files: dict[Side, _File] = {}
        comments = {"TITLE": call_id, "DATE": date}
        try:
            for side in SIDES:
                serial = int.from_bytes(os.urandom(4), "little")
                form = formats[side]
                track = create_track(form.coding, form.sample_rate, serial, comments | {"DESCRIPTION": side})
                self._files[side] = _File(directory, date, f"{call_id}.{side}", track, key)
        except OSError:
            self.close()
            raise

    @property
    def names(self) -> dict[str, str]:
        """The files' names, by direction."""
        return {side: file.name for side, file in self._files.items()}

    def add(self, pieces: Iterable[Piece]) -> int:
        by_side: dict[Side, list[Piece]] = {side: [] for side in SIDES}
        for piece in pieces:
            by_side[piece.side].append(piece)
        return sum(self._files[side].add(found) for side, found in by_side.items() if found)

    def describe(self, body: Mapping[str, Any]) -> int:
        """Replace the words beside the sound, in one step."""
        data = json.dumps({**body, "files": self.names}, ensure_ascii=False, indent=1).encode() + b"\n"
        name = f"{self._call_id}.json"
        if self._key is not None:
            sealer = Sealer(self._key, name)
            data, name = sealer.seal(data) + sealer.finish(), name + SEALED
        path = self._directory / self._date / (name + PART)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                written = _write_all(file, data)
            finish_part(path)
        except OSError:
            path.unlink(missing_ok=True)  # the one before stays
            raise
        return written

    def finish(self, at: float) -> int:
        """The end of both directions, `at` seconds after the beginning. They get their names."""
        return sum(file.finish(at) for file in self._files.values())

    def close(self) -> None:
        """Idempotent. What was not finished keeps what is whole of it. Never raises OSError."""
        for file in self._files.values():
            file.close()


def _write_all(file: BinaryIO, data: bytes) -> int:
    view = memoryview(data)
    while view:  # a nearly full disk takes a part first
        view = view[file.write(view) :]
    return len(data)
