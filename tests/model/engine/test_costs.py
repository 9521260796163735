"""What work costs, as it is learnt: lines between averages, no trust in one outlier, and more work never cheaper."""

from __future__ import annotations

import random

import pytest

from model.engine.costs import KEEP, LOAD_LIMIT, MAX_JUMP, TURN_SECONDS, Costs, Curve


def curve(**known: float) -> Curve:
    """Of the sizes 1, 4 and 16; `known`: s1=10.0 and so on."""
    made = Curve((1, 4, 16))
    for name, ms in known.items():
        made.observe(int(name[1:]), ms)
    return made


def test_nothing_is_known_at_first_and_a_first_measurement_is_believed() -> None:
    assert Curve((1, 4, 16)).at(5) == 0.0
    assert curve(s4=20.0).at(4) == 20.0


def test_between_two_sizes_there_is_a_straight_line() -> None:
    known = curve(s1=10.0, s4=16.0, s16=40.0)
    assert [known.at(size) for size in (0, 1, 2, 3, 4, 10, 16)] == [10.0, 10.0, 12.0, 14.0, 16.0, 28.0, 40.0]


def test_beyond_what_is_known_it_grows_in_proportion() -> None:
    assert curve(s1=10.0, s4=16.0).at(8) == 32.0
    assert curve(s16=40.0).at(2) == 40.0, "below, it is taken to cost as much"


def test_a_size_counts_for_the_next_larger_one() -> None:
    assert curve(s2=12.0).at(4) == 12.0
    assert curve(s99=50.0).at(16) == 50.0


def test_a_larger_piece_never_seems_cheaper() -> None:
    assert [curve(s1=10.0, s4=6.0, s16=30.0).at(size) for size in (1, 4, 10)] == [10.0, 10.0, 20.0]
    numbers = random.Random(0)
    for _ in range(200):
        known = Curve((1, 2, 4, 8))
        for size in (1, 2, 4, 8):
            if numbers.random() < 0.8:
                known.observe(size, numbers.uniform(1, 20))
        costs = [known.at(size) for size in range(1, 20)]
        assert costs == pytest.approx(sorted(costs)), "but for rounding"


def test_one_outlier_moves_it_by_a_bounded_share_and_a_trend_is_followed() -> None:
    known = curve(s1=10.0)
    known.observe(1, 10_000.0)
    assert known.at(1) == pytest.approx(KEEP * 10 + (1 - KEEP) * MAX_JUMP * 10)
    for _ in range(60):
        known.observe(1, 30.0)
    assert known.at(1) == pytest.approx(30.0, rel=0.02)
    for _ in range(60):
        known.observe(1, 5.0)
    assert known.at(1) == pytest.approx(5.0, rel=0.02)


def measured(round_ms: float = 10.0, sound_ms_per_second: float = 20.0, hear: float = 8.0, read: float = 10.0) -> Costs:
    """A machine that needs 10 ms for a round of 1 and half a millisecond more for each further sequence."""
    costs = Costs(units_per_round=2, unit_ms=80.0)
    for size in (1, 2, 4, 8, 16, 32, 64):
        costs.round.observe(size, round_ms + 0.5 * (size - 1))
    costs.hear.observe(1, hear)
    costs.read.observe(64, read)
    costs.observe_sound(1, sound_ms_per_second, 1_000.0)
    return costs


def test_the_load_is_the_share_of_a_second_that_replies_need() -> None:
    rounds = 1_000 / 160  # in a second of sound
    each = 20 + (8 + 10 + 20) / TURN_SECONDS  # and its beginning: heard, read, and a first piece of sound
    assert measured().load(1) == pytest.approx((rounds * 10 + each) / 1_000)
    assert measured().load(4) == pytest.approx((rounds * 11.5 + 4 * each) / 1_000)
    assert Costs(2, 80.0).load(64) == 0.0, "nothing is known"


def test_the_capacity_is_the_most_that_stays_below_the_limit() -> None:
    costs = measured()
    count = costs.capacity(64)
    assert 1 < count < 64
    assert max(costs.load(count), costs.burst(count)) <= LOAD_LIMIT
    assert max(costs.load(count + 1), costs.burst(count + 1)) > LOAD_LIMIT
    assert costs.capacity(5) == 5
    assert Costs(2, 80.0).capacity(64) == 64


@pytest.mark.parametrize("slow", ["round_ms", "sound_ms_per_second", "hear", "read"])
def test_a_slower_machine_takes_no_more_and_at_least_one(slow: str) -> None:
    usual = {"round_ms": 10.0, "sound_ms_per_second": 20.0, "hear": 8.0, "read": 10.0}
    capacities = [
        measured(**usual | {slow: usual[slow] * factor}).capacity(64) for factor in (0.5, 1, 2, 4, 8, 16, 999)
    ]
    assert capacities == sorted(capacities, reverse=True)
    assert capacities[0] > capacities[-1] == 1


def test_the_load_rises_with_every_voice() -> None:
    loads = [measured().load(voices) for voices in range(1, 100)]
    assert loads == sorted(loads)


def test_sound_costs_less_by_the_second_where_several_are_decoded_together() -> None:
    costs = Costs(2, 80.0)
    costs.observe_sound(1, 45.0, 750.0)
    costs.observe_sound(4, 60.0, 3_000.0)
    assert costs.piece_ms == 750.0
    assert costs.sound_per_second(1) == pytest.approx(60.0)
    assert costs.sound_per_second(12) == pytest.approx(20.0)
    costs.observe_sound(1, 45.0, 0.0)  # a piece of which nothing is heard yet
    assert costs.piece_ms == 750.0


def test_a_batch_of_sound_is_never_too_long_for_those_who_wait() -> None:
    costs = Costs(2, 80.0)
    for pieces in (1, 2, 4, 8):
        costs.observe_sound(pieces, 30.0 + 20.0 * pieces, 750.0 * pieces)
    assert costs.sound_batch() == 7
    assert costs.sound_batch(is_first=True) == 2, "what was never tried: twice as many at most"
    costs = Costs(2, 80.0)
    costs.observe_sound(1, 1_000.0, 750.0)
    assert costs.sound_batch() == 1
