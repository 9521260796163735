"""When a call's snapshot is handed on, on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rtc_server.calls import snapshot_timer
from rtc_server.calls.snapshot import CallSnapshot, ResumeGrant
from rtc_server.calls.snapshot_timer import SnapshotTimer
from rtc_server.realtime.session import SessionConfig


class Handle:
    def __init__(self, due: float, act: Callable[[], None]) -> None:
        self.due, self.act, self.is_cancelled = due, act, False

    def when(self) -> float:
        return self.due

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """As much of an event loop as the timer needs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, due: float, act: Callable[[], None]) -> Handle:
        self.handles.append(Handle(due, act))
        return self.handles[-1]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [handle for handle in self.handles if not handle.is_cancelled and handle.due <= end]:
            handle = min(due, key=Handle.when)
            self.handles.remove(handle)
            self.now = max(self.now, handle.due)
            handle.act()
        self.now = end


class Lost:
    """A call, as far as its snapshots are concerned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, resumes: bool = False) -> None:
        self.clock = Clock()
        monkeypatch.setattr(snapshot_timer.asyncio, "get_running_loop", lambda: self.clock)
        self.saved: list[tuple[float, bytes | None]] = []
        self.errors: list[Exception] = []
        self.is_replying = False
        before = self.take() if resumes else None
        grant = ResumeGrant("rsm_t", ("key", "a"), before)
        self.timer = SnapshotTimer(grant, self.take, self.save, lambda: self.is_replying, self.errors.append)

    def take(self) -> CallSnapshot:
        return CallSnapshot("rtc", "sess", "conv", 1, "realtime", SessionConfig())

    def save(self, key: str, owner: tuple[str, ...], data: bytes | None) -> None:
        assert (key, owner) == (self.timer._grant.key, ("key", "a"))
        self.saved.append((round(self.clock.now - 100.0, 3), data))

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.saved]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Lost:
    return Lost(monkeypatch)


def event(kind: str) -> dict[str, Any]:
    return {"type": kind}


def test_it_can_be_gone_on_with_from_the_start_and_is_repeated_in_silence(call: Lost) -> None:
    call.timer.start()
    call.clock.advance(65.0)
    assert call.times == [0.0, 30.0, 60.0]


def test_several_changes_make_one_snapshot_soon_after(call: Lost) -> None:
    call.timer.start()
    call.clock.advance(1.0)
    for kind in ("conversation.item.done", "response.done", "rate_limits.updated", "session.updated"):
        call.timer.note(event(kind))
        call.clock.advance(0.05)
    call.clock.advance(5.0)
    assert call.times == [0.0, 1.2]


def test_what_changes_nothing_makes_none(call: Lost) -> None:
    call.timer.start()
    call.clock.advance(1.0)
    call.timer.note(event("response.output_audio_transcript.delta"))
    call.clock.advance(5.0)
    assert call.times == [0.0]


def test_while_a_reply_is_heard_there_is_one_every_second(call: Lost) -> None:
    call.timer.start()
    call.clock.advance(1.0)
    call.is_replying = True
    call.timer.note(event("response.created"))
    call.clock.advance(3.5)
    call.is_replying = False
    call.clock.advance(10.0)
    assert call.times == [0.0, 1.2, 2.2, 3.2, 4.2, 5.2]


def test_a_large_one_is_taken_less_often(call: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_timer, "BYTES_PER_SECOND", 100)
    call.timer.start()
    call.clock.advance(0.0)
    size = len(call.saved[0][1] or b"")
    call.timer.note(event("response.done"))
    call.clock.advance(29.0)
    assert call.times == [0.0, round(size / 100, 3)]


@pytest.mark.parametrize("reason", sorted(snapshot_timer.LOST))
def test_a_lost_call_leaves_its_last_state(call: Lost, reason: str) -> None:
    call.timer.start()
    call.clock.advance(1.0)
    call.timer.close(reason)
    assert call.saved[-1][1] == call.take().to_bytes()
    call.clock.advance(60.0)
    call.timer.note(event("response.done"))
    call.timer.close("hangup")
    assert len(call.saved) == 2, "and nothing after it"


@pytest.mark.parametrize("reason", ["hangup", "peer_closed", "time_limit", "resumed"])
def test_a_call_that_was_ended_ends_its_session(call: Lost, reason: str) -> None:
    call.timer.start()
    call.clock.advance(1.0)
    call.timer.close(reason)
    assert call.saved[-1][1] is None


def test_a_resumed_call_ends_its_session_only_once_it_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_connected in (False, True):
        call = Lost(monkeypatch, resumes=True)
        call.timer.start()
        if is_connected:
            call.timer.on_connected()
        call.timer.close("hangup")
        assert (call.saved[-1][1] is None) == is_connected


def test_who_was_handed_over_saves_nothing_any_more(call: Lost) -> None:
    call.timer.start()
    call.clock.advance(1.0)
    assert call.timer.hand_over() == call.take().to_bytes()
    call.timer.close("resumed")
    call.clock.advance(60.0)
    assert call.times == [0.0]
    assert call.timer.hand_over() is None


def test_a_bug_in_taking_it_ends_the_call(call: Lost) -> None:
    def fail() -> CallSnapshot:
        raise RuntimeError("a bug")

    call.timer._take = fail
    call.timer.start()
    call.clock.advance(1.0)
    assert [str(error) for error in call.errors] == ["a bug"]
