"""What the command line gives back of a recording."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtc_server.cli.app import app
from rtc_server.config import RecordingSection
from rtc_server.errors import ConfigError
from rtc_server.recording.crypto import new_key_text
from rtc_server.recording.errors import RecordingInProgressError, RecordingNotFoundError, SealedFileError
from rtc_server.recording.store import RecordingStore
from rtc_server.recording.writer import Piece, Side, SideFormat

FORMATS: dict[Side, SideFormat] = {"caller": SideFormat("opus", 16_000), "server": SideFormat(None, 24_000)}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(new_key_text())
    return path


@pytest.fixture(params=["plain", "sealed"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, key: Path) -> Path:
    """A folder with the recording "rtc_1", two seconds long."""
    return keep(tmp_path / "kept", key if request.param == "sealed" else None)


def keep(directory: Path, key: Path | None) -> Path:
    settings = RecordingSection(enabled=True, directory=str(directory), key_file="" if key is None else str(key))
    store = RecordingStore(settings)
    entry = store.open("rtc_1", FORMATS, {"complete": False}, lambda reason: None)
    for index in range(100):
        store.add(entry, [Piece("caller", b"\xf8\xff\xfe", index * 960, index * 0.02)])
    store.add(entry, [Piece("server", bytes(960), None, 0.02)])
    store.finish(entry, 2.0, {"complete": True})
    store.close()
    return directory


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["recordings", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recording_is_listed_shown_opened_and_deleted(kept: Path, key: Path, tmp_path: Path) -> None:
    where = ("--directory", kept)
    (row,) = json.loads(run("list", *where, "--json"))
    assert row["call_id"] == "rtc_1"
    assert row["bytes"] > 96_000
    assert row["encrypted"] == any(path.suffix == ".enc" for path in kept.rglob("rtc_*"))
    assert not row["in_progress"]
    assert "rtc_1" in run("list", *where)
    assert json.loads(run("show", "rtc_1", *where, "--key", key))["complete"] is True
    shown = run("decrypt", "rtc_1", "--to", tmp_path / "out", *where, "--key", key)
    names = {"rtc_1.caller.opus", "rtc_1.server.wav", "rtc_1.json"}
    assert {Path(line).name for line in shown.split()} == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    with wave.open(str(tmp_path / "out" / "rtc_1.server.wav")) as file:
        assert file.getnframes() == 48_000
    with pytest.raises(ConfigError, match="cannot be written: File exists"):
        run("decrypt", "rtc_1", "--to", tmp_path / "out", *where, "--key", key)
    run("delete", "rtc_1", *where)
    assert list(kept.rglob("rtc_*")) == []
    assert "no recordings" in run("list", *where)
    with pytest.raises(RecordingNotFoundError):
        run("show", "rtc_1", *where)


def test_a_changed_file_is_refused_and_nothing_is_left_of_it(tmp_path: Path, key: Path) -> None:
    kept = keep(tmp_path / "kept", key)
    (path,) = kept.rglob("*.opus.enc")
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    arguments = ("decrypt", "rtc_1", "--to", tmp_path / "out", "--directory", kept, "--key", key)
    for more in ((), ("--partial",)):
        with pytest.raises(SealedFileError, match="not genuine"):
            run(*arguments, *more)
        assert not (tmp_path / "out" / "rtc_1.caller.opus").exists()
        (tmp_path / "out" / "rtc_1.json").unlink()


def test_a_file_that_was_cut_off_opens_only_if_that_is_wanted(tmp_path: Path, key: Path) -> None:
    kept = keep(tmp_path / "kept", key)
    (path,) = kept.rglob("*.opus.enc")
    path.write_bytes(path.read_bytes()[:-10])
    arguments = ("decrypt", "rtc_1", "--directory", kept, "--key", key)
    with pytest.raises(SealedFileError, match="was cut off"):
        run(*arguments, "--to", tmp_path / "refused")
    run(*arguments, "--to", tmp_path / "out", "--partial")
    assert (tmp_path / "out" / "rtc_1.caller.opus").read_bytes().startswith(b"OggS")


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[Path]:
    """A folder in which "rtc_1" is being recorded."""
    store = RecordingStore(RecordingSection(enabled=True, directory=str(tmp_path / "kept")))
    entry = store.open("rtc_1", FORMATS, {}, lambda reason: None)
    store.finish(store.open("rtc_2", FORMATS, {}, lambda reason: None), 0.1, {})  # the first is open once this is over
    while not list((tmp_path / "kept").rglob("rtc_2.caller.opus")):
        store._thread.join(0.01)
    yield tmp_path / "kept"
    store.finish(entry, 0.1, {})
    store.close()


def test_a_call_that_goes_on_is_neither_opened_nor_deleted(going_on: Path, tmp_path: Path) -> None:
    rows = {row["call_id"]: row["in_progress"] for row in json.loads(run("list", "--directory", going_on, "--json"))}
    assert rows == {"rtc_1": True, "rtc_2": False}
    for arguments in (("delete",), ("decrypt", "--to", tmp_path / "out")):
        with pytest.raises(RecordingInProgressError, match="hang it up first"):
            run(*arguments, "rtc_1", "--directory", going_on)


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "recordings.key"
    run("key", path)
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="cannot be made: File exists"):
        run("key", path)
    assert path.read_text() == first
