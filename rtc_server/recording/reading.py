"""Recordings that are there: what they are, and their contents, sealed or not. For the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rtc_server.errors import ConfigError

from .crypto import open_sealed
from .errors import RecordingInProgressError, SealedFileError
from .folder import FILE_MODE, SEALED, Recording, know_size

KINDS = ("json", "caller", "server")
READ_BYTES = 1 << 20


def describe(recording: Recording, key: bytes | None) -> dict[str, Any]:
    """The ".json" of a recording. Raises SealedFileError and ConfigError like `contents`."""
    path = recording.file("json")
    if path is None:
        return {"call_id": recording.call_id, "complete": False}
    described: dict[str, Any] = json.loads(b"".join(_contents(path, key)))
    return described


def copy_to(recording: Recording, folder: Path, key: bytes | None, *, partial: bool) -> list[Path]:
    """Write the files, opened, into `folder`. Raises SealedFileError when one is not what the server wrote; with
    `partial` the whole chunks of one that was cut off are kept. Raises RecordingInProgressError."""
    if recording.is_in_progress:
        raise RecordingInProgressError(f"The call '{recording.call_id}' is being recorded; hang it up first.")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in KINDS:
        source = recording.file(kind)
        if source is None:
            continue
        target = folder / source.name.removesuffix(SEALED)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                try:
                    for data in _contents(source, key):
                        file.write(data)
                except SealedFileError as error:
                    if not (partial and error.is_cut_off):
                        raise
        except BaseException:  # half a file, or one that nobody vouches for, is not left behind
            target.unlink()
            raise
        if target.suffix == ".wav":
            with target.open("r+b", buffering=0) as file:
                know_size(file)  # a sealed one could not be told its length at its end
        written.append(target)
    return written


def _contents(path: Path, key: bytes | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        if not path.name.endswith(SEALED):
            while data := file.read(READ_BYTES):
                yield data
            return
        if key is None:
            raise ConfigError(f"{path.name} is encrypted; name the key in recording.key_file or with --key.")
        yield from open_sealed(file, key, path.name.removesuffix(SEALED))
