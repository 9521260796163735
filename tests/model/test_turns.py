"""Which parts of a turn are recognised: known parts are not done twice, long turns are cut where it is quiet."""

from __future__ import annotations

import numpy as np
import pytest

from model.backends.cascade.turns import MAX_SEGMENT_SECONDS, Segment, TurnMemory
from model.interface import Pcm16

RATE = 16_000


def speech(seconds: float, seed: int = 1) -> Pcm16:
    return np.random.default_rng(seed).integers(-8_000, 8_000, int(seconds * RATE), dtype=np.int16)


def spans(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(segment.start / RATE, segment.end / RATE) for segment in segments]


def remember(memory: TurnMemory, audio: Pcm16, start: float, end: float, turn: str = "t") -> None:
    memory.put(turn, audio, Segment(int(start * RATE), int(end * RATE)), f"{start}-{end}")


def test_a_short_turn_is_one_segment() -> None:
    assert spans(TurnMemory().plan("t", speech(7), (3 * RATE,))) == [(0, 7)]


def test_an_empty_turn_has_no_segment() -> None:
    assert TurnMemory().plan("t", speech(0), ()) == []


def test_what_was_recognised_up_to_a_pause_is_not_done_again() -> None:
    memory, audio = TurnMemory(), speech(9)
    remember(memory, audio, 0, 6)
    plan = memory.plan("t", audio, (6 * RATE - 1_000,))
    assert spans(plan) == [(0, 6), (6, 9)]
    assert memory.get("t", audio, plan[0]) == "0-6"
    assert memory.get("t", audio, plan[1]) is None


def test_the_same_request_again_costs_nothing() -> None:
    memory, audio = TurnMemory(), speech(2)
    remember(memory, audio, 0, 2)
    assert [memory.get("t", audio, segment) for segment in memory.plan("t", audio, ())] == ["0-2"]


@pytest.mark.parametrize(
    ("known", "pause", "total", "turn"),
    [
        pytest.param(2, 2, 9, "t", id="too short to be worth a cut"),
        pytest.param(6, 4, 9, "t", id="not at a pause"),
        pytest.param(6, 6, 6.2, "t", id="the rest is too short to stand alone"),
        pytest.param(6, 6, 9, "other", id="another turn"),
    ],
)
def test_where_it_does_not_pay_the_turn_is_recognised_as_a_whole(
    known: float, pause: float, total: float, turn: str
) -> None:
    memory, audio = TurnMemory(), speech(total)
    remember(memory, audio, 0, known, turn)
    assert spans(memory.plan("t", audio, (int(pause * RATE),))) == [(0, total)]


def test_other_samples_under_the_same_name_are_not_mixed_up() -> None:
    memory = TurnMemory()
    remember(memory, speech(9, seed=1), 0, 6)
    assert spans(memory.plan("t", speech(9, seed=2), (6 * RATE,))) == [(0, 9)]


def test_a_long_turn_is_cut_at_its_last_fitting_pause() -> None:
    audio = speech(60)
    plan = TurnMemory().plan("t", audio, tuple(int(s * RATE) for s in (2, 11, 20, 31, 33, 55)))
    assert spans(plan) == [(0, 20), (20, 33), (33, 55), (55, 60)]


def test_without_pauses_it_is_cut_where_it_is_quietest() -> None:
    audio = speech(40)
    audio[int(18.2 * RATE) : int(18.5 * RATE)] //= 100
    first, *_ = plan = TurnMemory().plan("t", audio, ())
    assert 18.2 <= first.end / RATE <= 18.5
    assert plan[-1].end == len(audio)
    assert all(segment.end - segment.start <= MAX_SEGMENT_SECONDS * RATE for segment in plan)


def test_the_memory_is_bounded() -> None:
    memory, audio = TurnMemory(max_entries=3), speech(1)
    for number in range(9):
        remember(memory, audio, 0, 1, f"turn-{number}")
    assert len(memory) == 3
    assert memory.get("turn-8", audio, Segment(0, RATE)) == "0-1"
