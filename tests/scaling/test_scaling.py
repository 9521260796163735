"""One engine on virtual time, the questions of capacity planning, and the script that asks them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.support.call_costs import Spent, set_up_and_second
from benchmarks.support.engine_load import EnginePoint, LatencyCurve, largest_in_time, measure_engine
from benchmarks.support.engine_time import Times
from benchmarks.support.fleet import Sizes
from benchmarks.support.fleet_load import erlang_b
from benchmarks.support.scaling_scenarios import BUSIER, REFUSED, size_rows


def test_more_calls_on_an_engine_make_it_slower_and_the_same_seed_the_same() -> None:
    few, many = measure_engine(Times(), 4, 60.0, seed=1), measure_engine(Times(), 24, 60.0, seed=1)
    assert few == measure_engine(Times(), 4, 60.0, seed=1)
    assert few.p95_ms < many.p95_ms
    assert few.gaps == few.refused == 0
    assert many.turns > 3 * few.turns
    assert few.p50_ms >= 440.0, "the end of the turn is waited for, however fast the engine is"


def test_an_engine_far_beyond_its_capacity_refuses_turns() -> None:
    assert measure_engine(Times(), 64, 60.0, seed=1).refused > 0


def point(calls: int, p95_ms: float, refused: float = 0.0) -> EnginePoint:
    return EnginePoint(calls, 100, p95_ms, p95_ms, p95_ms, refused, 0.0)


def test_latency_is_read_between_the_points_and_never_beyond_them() -> None:
    curve = LatencyCurve((point(1, 400.0), point(11, 500.0), point(21, 900.0, 0.5)))
    assert curve.p95_ms(6) == pytest.approx(450.0)
    assert curve.p95_ms(0.1) == 400.0
    assert curve.p95_ms(100) == 900.0
    assert curve.refused(16) == pytest.approx(0.25)
    assert largest_in_time(curve.points, 800.0) == 11
    assert largest_in_time([point(1, 900.0)], 800.0) == 0


def test_two_runs_of_different_length_tell_set_up_and_second_apart() -> None:
    short, long = Spent(10, 50.0, 10 * 0.02 + 50 * 0.01), Spent(10, 200.0, 10 * 0.02 + 200 * 0.01)
    assert set_up_and_second(short, long) == (pytest.approx(20.0), pytest.approx(10.0))
    with pytest.raises(ValueError, match="as many calls"):
        set_up_and_second(long, short)


def test_a_fleet_has_room_for_its_busiest_hour_and_with_one_zone_less_where_it_was_asked_for() -> None:
    sizes = Sizes()
    for row in size_rows((100, 1_000, 10_000), sizes):
        assert erlang_b(BUSIER * row["calls"], row["engines"] * sizes.engine_slots) <= REFUSED
        assert row["engines_spare_zone"] * 2 / 3 >= row["engines"]
        assert row["media_spare_zone"] * 2 / 3 >= row["media"]
        assert row["engines_spare_zone"] % 3 == 0


def test_the_script_answers_every_question_and_draws_it(tmp_path: Path) -> None:
    report = tmp_path / "scaling.json"
    assert scaling.main(["--quick", "--json", str(report), "--plots", str(tmp_path)]) == 0
    result = json.loads(report.read_text())
    assert set(scaling.PARTS) < result.keys()
    by_calls = {row["calls"]: row for row in result["engine"]}
    assert by_calls[1]["p95_ms"] <= by_calls[24]["p95_ms"]
    loads = [row for row in result["load"] if row["engines"] == 10]
    assert [row["refused"] for row in loads] == sorted(row["refused"] for row in loads)
    with_spare = next(row for row in result["faults"] if row["what"] == "zone" and row["spare"])
    without = next(row for row in result["faults"] if row["what"] == "zone" and not row["spare"])
    assert with_spare["lost"] == 0 < without["refused"]
    constant, honest = (row for row in result["wave"] if row["engine_start"] is None)
    assert honest["attempts"] < constant["attempts"]
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"scaling-{name}.png" for name in ("engine", "load", "wave", "day")
    }
