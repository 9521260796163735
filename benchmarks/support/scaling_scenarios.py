"""The questions of capacity planning, put to the simulator; each answer is a list of rows, ready for JSON. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.support.engine_load import LatencyCurve, measure_engine
from benchmarks.support.engine_time import Times
from benchmarks.support.fleet import SAMPLE_SECONDS, Fault, Fleet, Plan, Sample, Sizes
from benchmarks.support.fleet_autoscale import ScalingRule
from benchmarks.support.fleet_load import (
    DAY_SECONDS,
    Lengths,
    Manners,
    Rate,
    day,
    erlang_b,
    slots_for,
    steady,
    wave,
)

Row = dict[str, Any]
ENGINE_CALLS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48)
LOADS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.5)
REFUSED = 0.001
"""Share of the callers that may be refused in the busiest hour: what fleets are sized for."""
BUSIER = 1.05
"""Times the calls that are planned for: large fleets need no room for chance, and every forecast is wrong."""
KEPT = 0.02
"""Of the calls: places that only those get who were interrupted, where some are kept."""
LIMIT_MS = 800.0
"""A response latency above this is felt as a pause."""
ZONES = 3
WAVE_BEGIN, WAVE_RISE, WAVE_LENGTH = 600.0, 60.0, 600.0
HURRY = Manners(patience=0.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is computed."""

    engine_seconds: float = 400.0
    engine_calls: tuple[int, ...] = ENGINE_CALLS
    loads: tuple[float, ...] = LOADS
    fleets: tuple[int, ...] = (1, 10, 100)
    """Engines of the fleets in the load rows."""
    seeds: int = 5
    load_seconds: float = 2 * 3600.0
    fleet_calls: int = 6_000
    """Calls at once of the fleets in the other rows."""
    largest_calls: int = 1_000_000
    day_calls: int = 3_000

    @classmethod
    def quick(cls) -> Scale:
        """Does it work?"""
        return cls(60.0, (1, 12, 24), (0.7, 1.0, 1.3), (1, 10), 2, 1800.0, 300, 2_000, 60)


def engine_rows(times: Times, scale: Scale, seed: int) -> list[Row]:
    """One engine by calls."""
    return [asdict(measure_engine(times, calls, scale.engine_seconds, seed)) for calls in scale.engine_calls]


def load_rows(curve: LatencyCurve, scale: Scale, seed: int) -> list[Row]:
    """Refusals and latency against load, for fleets of several sizes: with callers who do not try again, beside
    Erlang's formula, and with those who do."""
    rows, lengths = [], Lengths()
    sizes = Sizes(media_hours=0.0, engine_hours=0.0)
    for engines in scale.fleets:
        slots = engines * sizes.engine_slots
        plan = Plan(_media(slots, sizes), engines)
        for load in scale.loads:
            rate = steady(load * slots / lengths.mean)
            refused, gave_up, tries, calls = [], [], [], []
            for number in range(scale.seeds):
                once = Fleet([plan], rate, manners=HURRY, sizes=sizes, seed=seed + number).run(scale.load_seconds)
                refused.append(once.refused / max(1, once.attempts))
                fleet = Fleet([plan], rate, sizes=sizes, seed=seed + number)
                again = fleet.run(scale.load_seconds)
                gave_up.append(again.gave_up / max(1, again.arrivals))
                tries.append(again.attempts / max(1, again.arrivals))
                calls.append(float(np.mean([sample.calls for sample in fleet.samples])))
            rows.append(
                {
                    "engines": engines,
                    "slots": slots,
                    "load": load,
                    "refused": float(np.mean(refused)),
                    "refused_error": float(np.std(refused, ddof=1) / math.sqrt(len(refused))),
                    "erlang_b": erlang_b(load * slots, slots),
                    "gave_up": float(np.mean(gave_up)),
                    "tries_per_caller": float(np.mean(tries)),
                    "p95_ms": curve.p95_ms(float(np.mean(calls)) / engines),
                    "p95_ms_unlimited": curve.p95_ms(load * sizes.engine_slots),
                }
            )
    return rows


def size_rows(calls: Sequence[int], sizes: Sizes) -> list[Row]:
    """What so many calls at once need: engines and media nodes; then with a zone of three to spare."""
    rows = []
    for count in calls:
        slots = slots_for(BUSIER * count, REFUSED)
        engines, media = math.ceil(slots / sizes.engine_slots), math.ceil(slots / sizes.media_slots)
        spare_engines, spare_media = _with_spare_zone(engines), _with_spare_zone(media)
        rows.append(
            {
                "calls": count,
                "slots": slots,
                "engines": engines,
                "media": media,
                "engines_spare_zone": spare_engines,
                "media_spare_zone": spare_media,
                "spare_share": spare_engines / engines - 1,
            }
        )
    return rows


def fault_rows(curve: LatencyCurve, scale: Scale, seed: int) -> list[Row]:
    """A zone of three is lost in the busiest hour, with and without one to spare, replaced soon, late and never; then
    only its engines; then a region of two."""
    rows = []
    count = scale.fleet_calls
    for what, spare, start, kept in [
        *itertools.product(["zone"], [False, True], [120.0, 600.0, None], [0.0]),
        *itertools.product(["zone"], [False], [120.0, 600.0], [KEPT]),
        *itertools.product(["engines of a zone"], [False, True], [120.0], [0.0]),
    ]:
        sizes = replace(Sizes(), engine_start=start or Sizes().engine_start)
        base = size_rows([count], sizes)[0]
        name = "_spare_zone" if spare else ""
        engines, media = base["engines" + name], base["media" + name]
        # At a target of 1 nothing is added before something breaks; then what is missing to the fewest is.
        rules = (ScalingRule(1.0, fewest=media), ScalingRule(1.0, fewest=engines)) if start else (None, None)
        plan = Plan(media, engines, media_rule=rules[0], engine_rule=rules[1], reserved=round(kept * count))
        fault = Fault(600.0, 0, 1, only_engines=what != "zone")
        fleet = Fleet([plan], _steady(count), sizes=sizes, faults=[fault], seed=seed)
        rows.append(
            {"what": what, "spare": spare, "kept": kept, "replaced_after": start, **_outcome(fleet, curve, 3000.0)}
        )
    for spare in (False, True):
        sizes = Sizes()
        base = size_rows([count // 2], sizes)[0]
        factor = 2 if spare else 1
        plan = Plan(base["media"] * factor, base["engines"] * factor)
        fleet = Fleet([plan, plan], _steady(count), sizes=sizes, faults=[Fault(600.0, 0)], seed=seed)
        rows.append(
            {"what": "region", "spare": spare, "kept": 0.0, "replaced_after": None, **_outcome(fleet, curve, 3000.0)}
        )
    return rows


def wave_rows(curve: LatencyCurve, scale: Scale, seed: int) -> list[Row]:
    """Three times as many callers for ten minutes: what honest answers are worth, how soon new engines must come."""
    rows = []
    count = scale.fleet_calls
    base = size_rows([count], Sizes())[0]
    rate = wave(count / Lengths().mean, 3.0, WAVE_BEGIN, WAVE_RISE, WAVE_LENGTH)
    for is_honest in (False, True):
        fleet = Fleet([Plan(base["media"], base["engines"])], rate, is_honest=is_honest, seed=seed)
        rows.append(
            {"is_honest": is_honest, "engine_start": None, **_outcome(fleet, curve, 4800.0), "series": series(fleet)}
        )
    for start in (30.0, 60.0, 120.0, 300.0, 600.0):
        sizes = replace(Sizes(), engine_start=start)
        rules = (ScalingRule(fewest=base["media"]), ScalingRule(fewest=base["engines"]))
        fleet = Fleet([Plan(base["media"], base["engines"], ZONES, 1.0, *rules)], rate, sizes=sizes, seed=seed)
        rows.append(
            {"is_honest": True, "engine_start": start, **_outcome(fleet, curve, 4800.0), "series": series(fleet)}
        )
    return rows


def day_rows(curve: LatencyCurve, scale: Scale, seed: int) -> list[Row]:
    """A day, with as many engines as its busiest hour needs all the time, and with as many as calls ask for."""
    rows = []
    base = size_rows([scale.day_calls], Sizes())[0]
    rate = day(scale.day_calls / Lengths().mean)
    for target in (None, 0.6, 0.75, 0.9):
        rule = ScalingRule(target=target or 1.0, fewest=ZONES)
        plan = Plan(base["media"], base["engines"], ZONES, 1.0, None, rule if target else None)
        fleet = Fleet([plan], rate, seed=seed)
        row = {"target": target, **_outcome(fleet, curve, DAY_SECONDS)}
        hours = sum(sample.engines for sample in fleet.samples) * SAMPLE_SECONDS / 3600
        rows.append({**row, "engine_hours": round(hours), "series": series(fleet)})
    return rows


def largest_row(curve: LatencyCurve, scale: Scale, seed: int) -> Row:
    """As many calls as were asked for, in four regions, one of which loses a zone."""
    regions, count = 4, scale.largest_calls
    base = size_rows([count // regions], Sizes())[0]
    plan = Plan(base["media_spare_zone"], base["engines_spare_zone"])
    fleet = Fleet([plan] * regions, _steady(count), faults=[Fault(120.0, 0, 1)], seed=seed)
    nodes = regions * (plan.media + plan.engines)
    return {"nodes": nodes, "regions": regions, "calls": count, **_outcome(fleet, curve, 600.0)}


def series(fleet: Fleet, most: int = 600) -> dict[str, list[float]]:
    """What a plot needs of the first region: at most so many points."""
    samples = [sample for sample in fleet.samples if sample.region == 0]
    step = max(1, len(samples) // most)
    return {
        "at": [sample.at for sample in samples[::step]],
        "calls": [sample.calls for sample in samples[::step]],
        "waiting": [sample.waiting for sample in samples[::step]],
        "attempts_per_second": [sample.attempts / SAMPLE_SECONDS for sample in samples[::step]],
        "slots": [
            min(sample.engines * fleet.sizes.engine_slots, sample.media * fleet.sizes.media_slots)
            for sample in samples[::step]
        ],
    }


def _media(slots: int, sizes: Sizes) -> int:
    """Media nodes that are not what calls are refused for."""
    return math.ceil(1.2 * slots / sizes.media_slots)


def _with_spare_zone(nodes: int) -> int:
    """So many that what is left without one zone is enough, and as many in each."""
    return math.ceil(nodes / (ZONES - 1)) * ZONES


def _steady(calls: int) -> Rate:
    return steady(calls / Lengths().mean)


def _p95_ms(curve: LatencyCurve, sample: Sample) -> float:
    return curve.p95_ms(sample.calls / sample.engines) if sample.engines else float("inf")


def _outcome(fleet: Fleet, curve: LatencyCurve, seconds: float) -> Row:
    """Run it, and say what callers got."""
    totals = fleet.run(seconds)
    busy = [sample for sample in fleet.samples if sample.calls]
    latencies = [_p95_ms(curve, sample) for sample in busy]
    heavy = sum(sample.calls for sample, ms in zip(busy, latencies, strict=True) if ms > LIMIT_MS)
    refusing = [sample.at for sample in fleet.samples if sample.refused]
    return {
        "callers": totals.arrivals + totals.initial,
        "attempts": totals.attempts,
        "refused": totals.refused,
        "refused_share": totals.refused / max(1, totals.attempts),
        "gave_up": totals.gave_up,
        "gave_up_share": totals.gave_up / max(1, totals.arrivals),
        "waited_p50_s": _percentile(totals.waits, 50),
        "waited_p95_s": _percentile(totals.waits, 95),
        "interrupted": totals.interrupted,
        "resumed": totals.resumed,
        "lost": totals.lost,
        "resumed_p95_s": _percentile(totals.resume_waits, 95),
        "first_refusal_s": refusing[0] if refusing else None,
        "last_refusal_s": refusing[-1] if refusing else None,
        "worst_p95_ms": max(latencies, default=None),
        "slow_share": heavy / max(1, sum(sample.calls for sample in busy)),
        "events": totals.events + totals.arrivals,
    }


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 1) if values else None
