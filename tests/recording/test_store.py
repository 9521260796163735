"""The writing thread: a disk that fails or is too slow ends the recording, and tells."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from rtc_server import metrics
from rtc_server.config import RecordingSection
from rtc_server.errors import ConfigError
from rtc_server.recording import folder, writer
from rtc_server.recording import store as store_module
from rtc_server.recording.crypto import new_key_text
from rtc_server.recording.store import MAX_WAITING, Entry, RecordingStore, check
from rtc_server.recording.writer import Piece, SideFormat

OPUS = {"caller": SideFormat("opus", 16_000), "server": SideFormat("opus", 24_000)}
SOUND = Piece("caller", b"\xf8\xff\xfe", 0, 0.0)


def settings(parent: Path, **values: object) -> RecordingSection:
    return RecordingSection.model_validate({"enabled": True, "directory": str(parent / "kept"), **values})


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[..., RecordingStore]]:
    made: list[RecordingStore] = []

    def make(**values: object) -> RecordingStore:
        made.append(RecordingStore(settings(tmp_path, **values)))
        return made[-1]

    yield make
    for store in made:
        store.close()


def failures(reason: str) -> float:
    return float(metrics.RECORDING_FAILURES.labels(reason)._value.get())


def begin(store: RecordingStore, reasons: list[str], call_id: str = "rtc_1") -> Entry:
    return store.open(call_id, OPUS, {"complete": False}, reasons.append)  # type: ignore[arg-type]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("rtc_*"))


def test_what_was_handed_over_is_on_the_disk_after_close(
    tmp_path: Path, make_store: Callable[..., RecordingStore]
) -> None:
    written = metrics.RECORDING_BYTES._value.get()
    store, reasons = make_store(), list[str]()
    entry = begin(store, reasons)
    store.add(entry, [SOUND])
    store.finish(entry, 0.02, {"complete": True})
    store.close()
    assert names(tmp_path) == ["rtc_1.caller.opus", "rtc_1.json", "rtc_1.server.opus"]
    (described,) = tmp_path.rglob("rtc_1.json")
    body = json.loads(described.read_text())
    assert body == {"complete": True, "files": {"caller": "rtc_1.caller.opus", "server": "rtc_1.server.opus"}}
    assert reasons == []
    assert metrics.RECORDING_BYTES._value.get() - written >= sum(
        path.stat().st_size for path in tmp_path.rglob("rtc_*")
    )


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "disk_error")]
)
def test_a_disk_that_fails_ends_this_recording_and_no_other(
    tmp_path: Path,
    make_store: Callable[..., RecordingStore],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reason: str,
) -> None:
    before = failures(reason)
    store, reasons = make_store(), list[str]()
    entry, other = begin(store, reasons), begin(store, reasons, "rtc_2")
    add = writer.CallFiles.add

    def fail(files: writer.CallFiles, pieces: list[Piece]) -> int:
        if files._call_id == "rtc_1":
            raise OSError(number, "the disk says no")
        return add(files, pieces)

    monkeypatch.setattr(writer.CallFiles, "add", fail)
    for each in (entry, other):
        store.add(each, [SOUND])
        store.add(each, [SOUND])
        store.finish(each, 0.02, {"complete": not each.has_failed})
    store.close()
    assert reasons == [reason]
    assert failures(reason) - before == 1
    assert entry.has_failed
    assert [name for name in names(tmp_path) if name.endswith(".part")] == []
    assert "rtc_2.caller.opus" in names(tmp_path)


def test_a_disk_that_stands_still_costs_the_recording_and_no_memory(
    make_store: Callable[..., RecordingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = failures("too_slow")
    store, reasons = make_store(), list[str]()
    goes_on, stands_still = threading.Event(), threading.Event()
    add = writer.CallFiles.add

    def stall(files: writer.CallFiles, pieces: list[Piece]) -> int:
        stands_still.set()
        goes_on.wait(10)
        return add(files, pieces)

    monkeypatch.setattr(writer.CallFiles, "add", stall)
    entry = begin(store, reasons)
    store.add(entry, [SOUND])
    assert stands_still.wait(10)
    for _ in range(2 * MAX_WAITING):
        store.add(entry, [SOUND])
    assert reasons == ["too_slow"]
    assert store._queue.qsize() == MAX_WAITING
    assert failures("too_slow") - before == 1
    store.finish(entry, 1.0, {})
    goes_on.set()


def test_a_bug_in_one_recording_does_not_end_the_thread(
    tmp_path: Path, make_store: Callable[..., RecordingStore], caplog: pytest.LogCaptureFixture
) -> None:
    store, reasons = make_store(), list[str]()
    broken = begin(store, reasons)
    store.add(broken, [Piece("nobody", b"", 0, 0.0)])  # type: ignore[arg-type]
    other = begin(store, reasons, "rtc_2")
    store.finish(other, 0.1, {})
    store.close()
    assert reasons == ["internal_error"]
    assert "rtc_2.json" in names(tmp_path)
    assert "a recording failed" in caplog.messages


def test_house_is_kept_at_the_start_and_from_time_to_time(
    tmp_path: Path, make_store: Callable[..., RecordingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, int]] = []
    twice = threading.Event()

    def note(directory: Path, now: float, max_age_seconds: float, max_bytes: int) -> tuple[int, int]:
        seen.append((max_age_seconds, max_bytes))
        if len(seen) == 2:
            twice.set()
        return 0, 0

    monkeypatch.setattr(store_module, "sweep", note)
    monkeypatch.setattr(store_module, "SWEEP_SECONDS", 0.01)
    make_store(retention_days=3, max_total_mb=5)
    assert twice.wait(10)
    assert seen[0] == (3 * 86_400.0, 5_000_000)


def test_settings_that_cannot_work_are_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"recording\.directory = .* cannot be written to"):
        check(settings(tmp_path, directory=str(tmp_path / "file" / "below")))
    with pytest.raises(ConfigError, match="key file"):
        check(settings(tmp_path, key_file=str(tmp_path / "missing")))
    with pytest.raises(ConfigError, match=r"recording\.notice_sound"):
        check(settings(tmp_path, notice_sound=str(tmp_path / "file")))
    check(settings(tmp_path, enabled=False, key_file=str(tmp_path / "missing")))


def test_recording_without_any_notice_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(settings(tmp_path))
    assert caplog.messages == []
    check(settings(tmp_path, notice="none"))
    assert "nobody is told" in caplog.text


def test_what_a_killed_process_wrote_is_finished_by_the_next(
    tmp_path: Path, make_store: Callable[..., RecordingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = f"""
import os, signal
from rtc_server.config import RecordingSection
from rtc_server.recording.store import RecordingStore
from rtc_server.recording.writer import Piece, SideFormat
store = RecordingStore(RecordingSection(enabled=True, directory={str(tmp_path / "kept")!r}))
opus = SideFormat("opus", 16000)
entry = store.open("rtc_1", dict(caller=opus, server=opus), dict(complete=False), print)
store.add(entry, [Piece("caller", b"\\xf8\\xff\\xfe", i * 960, i * 0.02) for i in range(500)])
while not entry.files or not entry.files._files["caller"]._path.stat().st_size:
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", dying], timeout=60, check=False).returncode == -signal.SIGKILL
    assert names(tmp_path) == ["rtc_1.caller.opus.part", "rtc_1.json", "rtc_1.server.opus.part"]
    monkeypatch.setattr(folder, "FRESH_SECONDS", -1.0)
    make_store().close()
    assert names(tmp_path) == ["rtc_1.caller.opus", "rtc_1.json", "rtc_1.server.opus"]
    (sound,) = tmp_path.rglob("rtc_1.caller.opus")
    with av.open(str(sound)) as container:
        assert sum(packet.size > 0 for packet in container.demux(audio=0)) >= 450  # all but the page that was not full
    (described,) = tmp_path.rglob("rtc_1.json")
    assert json.loads(described.read_text())["complete"] is False


def test_sealed_files_say_so_in_their_names(tmp_path: Path, make_store: Callable[..., RecordingStore]) -> None:
    key = tmp_path / "key"
    key.write_text(new_key_text())
    store = make_store(key_file=str(key))
    entry = begin(store, [])
    store.add(entry, [SOUND])
    store.finish(entry, 0.02, {"secret": "words"})
    store.close()
    assert names(tmp_path) == ["rtc_1.caller.opus.enc", "rtc_1.json.enc", "rtc_1.server.opus.enc"]
    assert not any(word in path.read_bytes() for path in tmp_path.rglob("rtc_*") for word in (b"words", b"Opus"))
