"""The capacity simulator: nobody is counted twice or forgotten, and where theory has an answer it is the same."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from benchmarks.support.fleet import Fault, Fleet, Plan, Sizes, Totals
from benchmarks.support.fleet_admission import Doorman
from benchmarks.support.fleet_autoscale import Autoscaler, ScalingRule
from benchmarks.support.fleet_load import Lengths, Manners, day, erlang_b, slots_for, steady, wave
from benchmarks.support.fleet_nodes import MediaNodes
from rtc_server.calls.admission import MAX_RETRY_AFTER_SECONDS, RETRY_AFTER_SECONDS
from rtc_server.media.node import NodeLoad
from rtc_server.media.router import least_loaded

UNBROKEN = Sizes(media_hours=0.0, engine_hours=0.0)
ONCE = Manners(patience=0.0)
SHORT = Lengths(median=20.0, sigma=0.5)


def assert_conserved(totals: Totals) -> None:
    """Everybody is in one place."""
    assert totals.arrivals == totals.admitted + totals.gave_up + totals.waiting
    running = totals.live + totals.waiting_to_resume
    assert totals.initial + totals.admitted == totals.ended + totals.lost + running
    assert totals.interrupted == totals.resumed + totals.lost + totals.waiting_to_resume
    assert len(totals.resume_waits) == totals.resumed


def a_fleet(seed: int, **more: object) -> Fleet:
    """Two regions with everything that can happen to them."""
    rule = ScalingRule(fewest=2)
    plans = [Plan(3, 9, share=2.0, media_rule=rule, engine_rule=rule), Plan(3, 6)]
    faults = [Fault(200.0, 0, 1), Fault(300.0, 0, 2, only_engines=True), Fault(500.0, 1)]
    rate = wave(100 / SHORT.mean, 2.0, 100.0, 30.0, 200.0)
    sizes = Sizes(media_hours=2.0, engine_hours=2.0)
    return Fleet(plans, rate, sizes=sizes, lengths=SHORT, faults=faults, seed=seed, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_breaks_every_caller_is_counted_once(seed: int) -> None:
    fleet = a_fleet(seed)
    totals = fleet.run(700.0)
    assert_conserved(totals)
    assert totals.interrupted, "a zone and a region were lost"
    assert totals.unreachable, "callers asked the lost region until it was noticed"
    for region in fleet.regions:
        assert region.calls == sum(calls for calls, _ in region.media.loads())
        assert region.waiting >= 0


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    first, same, other = a_fleet(1), a_fleet(1), a_fleet(2)
    assert first.run(600.0) == same.run(600.0)
    assert first.samples == same.samples
    assert first.totals != other.run(600.0)
    assert first.samples != other.samples


@pytest.mark.parametrize(("slots", "load"), [(12, 0.7), (12, 1.0), (60, 0.9), (60, 1.2)])
def test_without_retries_refusals_are_those_of_erlang(slots: int, load: float) -> None:
    """Whatever the lengths' distribution: the formula knows their mean alone."""
    shares = []
    for seed in range(8):
        plan = Plan(slots // 12, slots // 12)
        sizes = Sizes(media_slots=12, engine_slots=12, media_hours=0.0, engine_hours=0.0)
        rate = steady(load * slots / SHORT.mean)
        totals = Fleet([plan], rate, sizes=sizes, lengths=SHORT, manners=ONCE, seed=seed).run(3_000.0)
        assert_conserved(totals)
        shares.append(totals.refused / totals.attempts)
    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert np.mean(shares) == pytest.approx(erlang_b(load * slots, slots), abs=4 * error)


def test_as_many_slots_as_needed_and_not_one_more() -> None:
    slots = slots_for(1_000.0, 0.001)
    assert erlang_b(1_000.0, slots) <= 0.001 < erlang_b(1_000.0, slots - 1)


def test_calls_go_where_the_router_would_send_them() -> None:
    generator = random.Random(1)
    nodes, where, numbers = MediaNodes(slots=8), {}, itertools.count()
    for zone in range(6):
        nodes.add(zone % 3)
    for _ in range(3_000):
        chosen = nodes.choose()
        expected = least_loaded([NodeLoad(calls, is_ready) for calls, is_ready in nodes.loads()])
        if expected is not None and nodes.loads()[expected][0] >= nodes.slots:
            expected = None
        assert chosen == expected
        what = generator.random()
        if chosen is not None and what < 0.55:
            call = next(numbers)
            nodes.take(chosen, call)
            where[call] = chosen
        elif where and what < 0.97:
            call = generator.choice(list(where))
            nodes.leave(where.pop(call), call)
        elif what < 0.98 and nodes.num_ready > 2:
            nodes.drain()
        elif what < 0.99 and nodes.num_ready > 2:
            for call in nodes.lose(generator.choice(nodes.present())):
                del where[call]
        else:
            nodes.add(generator.randrange(3))
        assert sum(calls for calls, _ in nodes.loads()) == len(where)
        assert nodes.num_ready == sum(is_ready for _, is_ready in nodes.loads())


def test_a_lost_node_interrupts_its_calls_and_they_go_on_elsewhere() -> None:
    """Room to spare: all are resumed within seconds, and nobody else notices."""
    plan = Plan(12, 60)
    fleet = Fleet([plan], steady(300 / Lengths().mean), sizes=UNBROKEN, faults=[Fault(100.0, 0, 1)], seed=3)
    totals = fleet.run(400.0)
    assert_conserved(totals)
    assert 60 < totals.interrupted < 140, "a third of the calls"
    assert totals.resumed == totals.interrupted
    assert max(totals.resume_waits) < 3.5
    assert totals.refused == 0


def test_kept_places_bring_interrupted_calls_back_before_new_callers() -> None:
    outcomes = []
    for reserved in (0, 20):
        plan = Plan(12, 60, reserved=reserved)
        fleet = Fleet([plan], steady(680 / Lengths().mean), sizes=UNBROKEN, faults=[Fault(100.0, 0, 1)], seed=3)
        totals = fleet.run(700.0)
        assert_conserved(totals)
        outcomes.append(totals)
    like_others, first = outcomes
    assert like_others.lost > 0
    assert first.lost == 0
    assert np.percentile(first.resume_waits, 95) < 0.75 * np.percentile(like_others.resume_waits, 95)


def test_lost_engines_end_no_call_and_stop_new_ones() -> None:
    fault = Fault(100.0, 0, 1, only_engines=True)
    fleet = Fleet([Plan(12, 30)], steady(330 / Lengths().mean), sizes=UNBROKEN, faults=[fault], seed=3)
    totals = fleet.run(400.0)
    assert_conserved(totals)
    assert totals.interrupted == 0
    assert totals.refused > 0
    after = next(sample for sample in fleet.samples if sample.at > 100.0)
    assert after.engines == 20
    assert after.calls > 20 * fleet.sizes.engine_slots, "the calls that run go on with fewer engines"


def test_nobody_is_sent_to_a_lost_region_once_it_is_noticed() -> None:
    plans = [Plan(12, 60), Plan(12, 60)]
    faults = [Fault(100.0, 1, noticed=30.0)]
    fleet = Fleet(plans, steady(300 / Lengths().mean), sizes=UNBROKEN, faults=faults, seed=3)
    totals = fleet.run(300.0)
    assert_conserved(totals)
    assert totals.lost == totals.gave_up == 0, "the other region has room for all, and callers try again"
    assert all(sample.attempts == 0 for sample in fleet.samples if sample.region == 1 and sample.at > 150.0)


def test_callers_told_the_truth_try_less_often_and_are_served_no_worse() -> None:
    outcomes = []
    for is_honest in (True, False):
        rate = wave(420 / Lengths().mean, 3.0, 100.0, 30.0, 300.0)
        totals = Fleet([Plan(12, 50)], rate, sizes=UNBROKEN, is_honest=is_honest, seed=2).run(1_500.0)
        assert_conserved(totals)
        outcomes.append(totals)
    honest, constant = outcomes
    assert honest.attempts < constant.attempts / 2
    assert honest.admitted > 0.95 * constant.admitted


def test_the_doorman_is_the_servers_admission() -> None:
    """What the refused are told follows the calls' turnover, and is bounded as it is there."""
    doorman, constant = Doorman(), Doorman(is_honest=False)
    for second in range(100):  # ten calls of ten seconds each: one ends every second
        assert doorman.admit(float(second), 9, 10, 12) is None
        doorman.observe(second + 0.5, 9)
    told = [doorman.admit(100.0, 10, 10, 12) for _ in range(200)]
    assert told[0] is not None
    assert told[0] <= 2
    assert told == sorted(told, key=float), "each comes behind those who were refused before"  # type: ignore[arg-type]
    assert told[-1] == MAX_RETRY_AFTER_SECONDS
    assert constant.admit(100.0, 10, 10, 12) == RETRY_AFTER_SECONDS
    assert doorman.admit(101.0, 10, 12, 11) is None, "another node came"


def test_new_engines_come_after_their_start_and_end_the_refusals() -> None:
    rule = ScalingRule(fewest=20)
    plan = Plan(20, 20, media_rule=None, engine_rule=rule)
    sizes = Sizes(media_hours=0.0, engine_hours=0.0, engine_start=60.0)
    rate = wave(140 / Lengths().mean, 3.2, 100.0, 10.0, 2_000.0)
    fleet = Fleet([plan], rate, sizes=sizes, seed=4)
    assert_conserved(fleet.run(1_200.0))
    engines = {sample.at: sample.engines for sample in fleet.samples}
    assert all(count <= 20 for at, count in engines.items() if at < 160.0)
    assert engines[1_200.0] > 35
    assert all(sample.refused == 0 for sample in fleet.samples if sample.at > 900.0)


def test_the_autoscaler_follows_kubernetes() -> None:
    scaler = Autoscaler(ScalingRule(target=0.5, stabilization=60.0))
    assert scaler.desired(0.0, 52, 10, 10, 0, 0.0) == 10, "within the tolerance"
    assert scaler.desired(15.0, 80, 10, 10, 0, 0.0) == 16
    assert scaler.desired(30.0, 400, 10, 10, 6, 0.0) == 20, "twice as many as a minute ago at most"
    assert scaler.desired(90.0, 400, 10, 16, 4, 0.0) == 40
    assert scaler.desired(105.0, 10, 10, 40, 0, 0.0) == 40, "falls once the last recommendations are old"
    assert scaler.desired(180.0, 10, 10, 40, 0, 0.0) == 2
    assert scaler.desired(300.0, 10, 10, 2, 0, 0.2) == 4, "refusals tell of demand that calls cannot show"


def test_calls_arrive_at_the_rate_and_are_as_long_as_was_said() -> None:
    generator = np.random.default_rng(1)
    arrivals = list(steady(5.0).arrivals(generator, 4_000.0))
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == pytest.approx(20_000, abs=5 * np.sqrt(20_000))
    lengths = Lengths()
    assert np.mean(lengths.draw(generator, 200_000)) == pytest.approx(lengths.mean, rel=0.02)
    # what is left of a call at a random moment is half of its squared mean over its mean
    drawn = lengths.draw(generator, 200_000)
    expected = np.mean(drawn**2) / 2 / np.mean(drawn)
    assert np.mean(lengths.residual(generator, 200_000)) == pytest.approx(expected, rel=0.05)


def test_a_day_is_busiest_in_the_morning_and_quiet_at_night() -> None:
    rate = day(10.0)
    assert rate.at(11 * 3600.0) == 10.0
    assert rate.at(3.5 * 3600.0) == pytest.approx(1.2)
    assert rate.at(0.0) == rate.at(86_400.0)
