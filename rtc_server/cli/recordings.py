"""`rtc-server recordings`: list, read, decrypt and delete the recordings of calls; make the key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .console import ConfigOption, JsonOption, err, out, print_json

EPILOG = """
Examples:

  rtc-server recordings key recordings.key     make a key; name it in recording.key_file

  rtc-server recordings list     what there is

  rtc-server recordings decrypt rtc_9Xb2 --to out     files that any player opens

  rtc-server recordings delete rtc_9Xb2     all that is kept of that call
"""

app = typer.Typer(
    help="List, read, decrypt and delete the recordings of calls.", epilog=EPILOG, rich_markup_mode="markdown"
)

DirectoryOption = Annotated[
    Path | None, typer.Option("--directory", metavar="FOLDER", help="Where they are; default: recording.directory.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Key that they are sealed with; default: recording.key_file."),
]
CallArgument = Annotated[str, typer.Argument(metavar="CALL_ID", help="As `recordings list` shows it.")]


@app.command("list")
def list_recordings(
    config: ConfigOption = None, directory: DirectoryOption = None, json_output: JsonOption = False
) -> None:
    """List all recordings, oldest first."""
    from rtc_server.recording.folder import recordings

    folder = _directory(config, directory)
    rows: list[dict[str, Any]] = [
        {
            "call_id": recording.call_id,
            "date": recording.date,
            "bytes": recording.num_bytes,
            "encrypted": recording.is_sealed,
            "in_progress": recording.is_in_progress,
        }
        for recording in recordings(folder)
    ]
    if json_output:
        print_json(rows)
        return
    if not rows:
        err().print(f"There are no recordings in {folder}.", markup=False)
        return
    table = Table("date", "call", "MB", "")
    for row in rows:
        notes = [name.replace("_", " ") for name in ("encrypted", "in_progress") if row[name]]
        table.add_row(row["date"], row["call_id"], f"{row['bytes'] / 1e6:.1f}", ", ".join(notes))
    out().print(table)


@app.command("show")
def show(
    call_id: CallArgument, config: ConfigOption = None, directory: DirectoryOption = None, key: KeyOption = None
) -> None:
    """Print what is written beside the sound, with the transcript, as JSON."""
    from rtc_server.recording.folder import find
    from rtc_server.recording.reading import describe

    print_json(describe(find(_directory(config, directory), call_id), _key(config, key)))


@app.command("decrypt")
def decrypt(
    call_id: CallArgument,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the files go; none is overwritten.")],
    config: ConfigOption = None,
    directory: DirectoryOption = None,
    key: KeyOption = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Keep what there is of a file that was cut off, as by a crash.")
    ] = False,
) -> None:
    """Write the files of a recording as ordinary Ogg, WAV and JSON. One that was changed is refused."""
    from rtc_server.errors import ConfigError
    from rtc_server.recording.folder import find
    from rtc_server.recording.reading import copy_to

    recording = find(_directory(config, directory), call_id)
    try:
        written = copy_to(recording, to, _key(config, key), partial=partial)
    except OSError as error:
        raise ConfigError(f"{error.filename or to} cannot be written: {error.strerror}.") from error
    for path in written:
        out().print(str(path), markup=False, soft_wrap=True)


@app.command("delete")
def delete(call_id: CallArgument, config: ConfigOption = None, directory: DirectoryOption = None) -> None:
    """Delete all that is kept of a call. Not while it goes on."""
    from rtc_server.recording.folder import delete as delete_recording

    folder = _directory(config, directory)
    delete_recording(folder, call_id)
    err().print(f"The recording of '{call_id}' is deleted from {folder}.", markup=False)


@app.command("key")
def make_key(file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")]) -> None:
    """Make a key for recording.key_file. Who loses it loses the recordings; who has it can read them."""
    from rtc_server.errors import ConfigError
    from rtc_server.recording.crypto import new_key_text

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"The key file {file} cannot be made: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(new_key_text() + "\n")
    err().print(f"A new key is in {file}. Keep a copy where the recordings are not.", markup=False)


def _directory(config: Path | None, directory: Path | None) -> Path:
    from rtc_server.config import load_settings

    return directory or Path(load_settings(config).recording.directory)


def _key(config: Path | None, key: Path | None) -> bytes | None:
    from rtc_server.config import load_settings
    from rtc_server.recording.crypto import read_key

    configured = load_settings(config).recording.key_file
    path = key or (Path(configured) if configured else None)
    return None if path is None else read_key(path)
