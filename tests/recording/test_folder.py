"""What lies on the disk: finished or not, kept or deleted, healed after a crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rtc_server.recording import folder
from rtc_server.recording.errors import RecordingInProgressError, RecordingNotFoundError
from rtc_server.recording.folder import finish_part, heal, open_part, recordings, sweep
from rtc_server.recording.track import OpusTrack, WavTrack

DAY = 86_400.0
NOW = 1_800_000_000.0


def lay(directory: Path, call_id: str, age_days: float, size: int = 1_000, date: str = "2026-11-26") -> None:
    """A finished recording."""
    day = directory / date
    day.mkdir(parents=True, exist_ok=True)
    for kind in ("caller.opus", "server.opus", "json"):
        path = day / f"{call_id}.{kind}"
        path.write_bytes(bytes(size))
        os.utime(path, (NOW - age_days * DAY,) * 2)


def ids(directory: Path) -> list[str]:
    return [recording.call_id for recording in recordings(directory)]


def test_what_is_too_old_is_deleted_with_its_folder(tmp_path: Path) -> None:
    lay(tmp_path, "rtc_old", 31, date="2026-10-01")
    lay(tmp_path, "rtc_new", 29)
    assert sweep(tmp_path, NOW, 30 * DAY, 0) == (1, 0)
    assert ids(tmp_path) == ["rtc_new"]
    assert [path.name for path in tmp_path.iterdir()] == ["2026-11-26"]


def test_the_oldest_go_until_the_rest_fits(tmp_path: Path) -> None:
    for age in (5, 4, 3, 2, 1):
        lay(tmp_path, f"rtc_{age}", age)
    assert sweep(tmp_path, NOW, 0, 7_000) == (0, 3)
    assert ids(tmp_path) == ["rtc_2", "rtc_1"]


def test_without_limits_nothing_is_deleted(tmp_path: Path) -> None:
    lay(tmp_path, "rtc_1", 10_000)
    assert sweep(tmp_path, NOW, 0, 0) == (0, 0)
    assert ids(tmp_path) == ["rtc_1"]


def test_a_recording_in_progress_is_neither_deleted_nor_healed(tmp_path: Path) -> None:
    file, path = open_part(tmp_path, "2026-11-26", "rtc_1.caller.opus")
    with file:
        os.utime(path, (0, 0))
        assert sweep(tmp_path, NOW, DAY, 1) == (0, 0)
        assert heal(tmp_path, NOW) == 0
        with pytest.raises(RecordingInProgressError):
            folder.delete(tmp_path, "rtc_1")
        assert path.exists()
    folder.delete(tmp_path, "rtc_1")
    assert ids(tmp_path) == []


def test_only_this_user_can_look(tmp_path: Path) -> None:
    file, path = open_part(tmp_path / "new", "2026-11-26", "rtc_1.caller.opus")
    file.close()
    finish_part(path)
    modes = [p.stat().st_mode & 0o777 for p in (tmp_path / "new", path.parent, path.with_name("rtc_1.caller.opus"))]
    assert modes == [0o700, 0o700, 0o600]


def test_a_crash_costs_what_was_torn_and_nothing_else(tmp_path: Path) -> None:
    day = tmp_path / "2026-11-26"
    day.mkdir()
    opus, wav = OpusTrack(1, {}), WavTrack("PCMU", 8_000)
    whole = b"".join(opus.add(b"\xf8\xff\xfe", 960 * i, 0.02 * i) for i in range(200))
    (day / "rtc_1.caller.opus.part").write_bytes(whole + b"OggS\0torn")
    sound = wav.add(bytes(800), 0, 0.0)
    (day / "rtc_1.server.wav.part").write_bytes(sound)
    (day / "rtc_1.json").write_text('{"complete": false}')
    (day / "rtc_1.json.part").write_text('{"comp')
    for path in day.iterdir():
        os.utime(path, (NOW - 60,) * 2)
    assert heal(tmp_path, NOW) == 3
    assert sorted(path.name for path in day.iterdir()) == ["rtc_1.caller.opus", "rtc_1.json", "rtc_1.server.wav"]
    assert (day / "rtc_1.caller.opus").read_bytes() == whole
    healed = (day / "rtc_1.server.wav").read_bytes()
    assert int.from_bytes(healed[54:58], "little") == 800
    assert healed[58:] == bytes(800)


def test_a_file_that_was_only_just_begun_is_left_to_its_writer(tmp_path: Path) -> None:
    day = tmp_path / "2026-11-26"
    day.mkdir()
    path = day / "rtc_1.caller.opus.part"
    path.touch()
    os.utime(path, (NOW - 1,) * 2)
    assert heal(tmp_path, NOW) == 0
    assert path.exists()


def test_nothing_that_is_no_recording_is_touched(tmp_path: Path) -> None:
    lay(tmp_path, "rtc_1", 100)
    strangers = [tmp_path / "notes.txt", tmp_path / "2026-11-26" / "rtc_1.mp3", tmp_path / "2026-11-26" / "a b.json"]
    for path in strangers:
        path.write_text("mine")
    (tmp_path / "2026-11-26" / "rtc_2.json").symlink_to(strangers[0])
    sweep(tmp_path, NOW, DAY, 1)
    assert ids(tmp_path) == []
    assert all(path.read_text() == "mine" for path in strangers)


@pytest.mark.parametrize("call_id", ["../../etc/passwd", "", "a/b", "rtc_1.caller", "x" * 65])
def test_no_path_is_made_from_what_is_no_id(tmp_path: Path, call_id: str) -> None:
    with pytest.raises(RecordingNotFoundError, match="not the id of a call"):
        folder.delete(tmp_path, call_id)


def test_a_call_without_recording_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordingNotFoundError, match="no recording of the call 'rtc_9'"):
        folder.find(tmp_path / "missing", "rtc_9")
