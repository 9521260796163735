"""The benchmarks' own arithmetic; the measurements themselves are run by hand."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.soak import failures, leaks
from benchmarks.support.light_peer import VOICED_BYTES, PacketCounter, encode_opus
from benchmarks.support.machine import percentiles, provenance
from benchmarks.support.server import Usage, histogram_quantile
from benchmarks.support.turn_pauses import MS, dips, endpoint_ms, rank
from benchmarks.turn_latency import rotated, summarise
from rtc_server.client.recording import SAMPLE_RATE, Recording, recording_from_pcm
from rtc_server.client.report import TurnReport
from tests.client.standin import tone


def recordings(count: int) -> list[Recording]:
    return [recording_from_pcm(str(number), tone(100)) for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_no_question_is_asked_twice_in_a_row(count: int) -> None:
    asked = [recording.name for order in rotated(recordings(count), 7) for recording in order]
    assert all(first != second for first, second in itertools.pairwise(asked))
    assert len(asked) == count * 7


def test_stages_that_did_not_happen_are_left_out_of_the_summary() -> None:
    stage = {"queue": {"start_ms": 100.0, "end_ms": 130.0}}
    turns = [
        TurnReport("a", response_latency_ms=500.0, server_latency_ms=400.0, stages=stage),
        TurnReport("b", response_latency_ms=700.0, stages={}),
    ]
    summary = summarise(turns)
    assert summary["queue"]["n"] == 1
    assert summary["queue"]["p50"] == 30.0
    assert summary["response latency (at the caller)"]["p50"] == 600.0
    assert summary["response latency (at the server)"]["n"] == 1


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles([])["p50"] is None


def test_a_result_says_where_it_comes_from() -> None:
    assert {"commit", "cpu", "cores", "python", "packages", "load_before"} <= provenance().keys()


def test_a_histogram_quantile_counts_only_what_came_between_the_readings() -> None:
    before = {'x_bucket{le="0.01"}': 100.0, 'x_bucket{le="0.02"}': 100.0, 'x_bucket{le="+Inf"}': 100.0}
    after = {'x_bucket{le="0.01"}': 150.0, 'x_bucket{le="0.02"}': 199.0, 'x_bucket{le="+Inf"}': 200.0}
    assert histogram_quantile(before, after, "x", 0.5) == pytest.approx(0.01)
    assert histogram_quantile(before, after, "x", 0.99) == pytest.approx(0.02)
    assert histogram_quantile(before, after, "x", 1.0) == pytest.approx(0.02)  # beyond: the last known edge
    assert histogram_quantile(after, after, "x", 0.5) is None
    assert histogram_quantile({}, {}, "x", 0.5) is None


def test_what_is_held_more_than_before_is_a_leak_and_less_is_not() -> None:
    before = Usage(0, 4, 6, 2, 1, 100.0)
    assert leaks(before, Usage(0, 4, 5, 2, 1, 150.0)) == {}
    assert leaks(before, Usage(1, 5, 6, 2, 3, 100.0)) == {"calls": 1, "asyncio_tasks": 1, "sockets": 2}


def good_result() -> dict[str, Any]:
    return {
        "errors": [],
        "turns": 30,
        "lost_turns": 0,
        "max_calls_seen": 10,
        "playout_lateness_ms": {"p99": 12.0},
        "own_lateness_ms": {"p99": 3.0},
        "rss_mb": {"start": 190.0, "middle": 200.0, "end": 205.0, "after": 205.0},
        "left_behind": {},
    }


def test_a_good_run_has_no_failures() -> None:
    assert failures(good_result(), 10) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"errors": ["The server ended the call."]}, "A call failed: The server ended the call."),
        ({"turns": 0}, "No turn was begun."),
        ({"lost_turns": 2}, "2 of 30 turns were not answered."),
        ({"max_calls_seen": 9}, "Only 9 of 10 calls were up at once."),
        ({"playout_lateness_ms": {"p99": 55.0}}, "Playout lateness p99 is 55.0 ms; at most 40 ms were promised."),
        ({"rss_mb": {"middle": 200.0, "end": 240.0}}, "Memory grew by 40 MB in the second half."),
        ({"left_behind": {"sockets": 1}}, "1 sockets more than before the calls."),
    ],
)
def test_a_broken_promise_is_said(change: dict[str, Any], said: str) -> None:
    assert failures({**good_result(), **change}, 10) == [said]


def test_a_recording_becomes_packets_of_20_ms_and_silence_small_ones() -> None:
    packets = encode_opus(recording_from_pcm("tone", tone(500)))
    assert 25 <= len(packets) <= 27
    assert np.median([len(packet) for packet in packets]) > VOICED_BYTES
    silence = encode_opus(Recording("silence", np.zeros(SAMPLE_RATE, np.int16), 0, 0))
    assert len(silence[-5]) < VOICED_BYTES


async def test_packets_are_counted_across_losses_and_wraps_and_not_decoded() -> None:
    receiver: Any = SimpleNamespace(_handle_rtp_packet=None)
    counter = PacketCounter(receiver)
    start, stamp = 0xFFFE, 0xFFFFFFFF - 960
    for number in (0, 1, 2, 4, 5):  # the fourth is lost; number and timestamp wrap on the way
        packet = SimpleNamespace(
            sequence_number=(start + number) & 0xFFFF,
            timestamp=(stamp + 960 * number) & 0xFFFFFFFF,
            payload=b"x" * (200 if number < 3 else 3),
        )
        await receiver._handle_rtp_packet(packet, arrival_time_ms=0)
    assert (counter.received, counter.voiced, counter.lost) == (5, 3, 1)
    assert len(counter.gaps_ms) == 3
    assert len(counter.lateness_ms) == 5


@pytest.mark.parametrize(
    ("steps", "end_ms"),
    [
        ([(130.0, 4_000)], 4_000),
        ([(130.0, 4_000), (170.0, 350)], 350),
        ([(130.0, 4_000), (470.0, 350)], 470),  # the answer came late: at once
        ([(130.0, 4_000), (170.0, 250), (280.0, 2_000)], 250),  # over before the second answer
        ([(130.0, 4_000), (170.0, 350), (280.0, 2_000)], 2_000),
    ],
)
def test_a_turn_ends_by_the_latest_decision_before_its_silence_is_over(
    steps: list[tuple[float, int]], end_ms: float
) -> None:
    assert endpoint_ms(steps) == end_ms


def test_rank_is_the_share_of_pairs_in_order() -> None:
    assert rank([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert rank([0.5], [0.5, 0.1]) == 0.75
    assert np.isnan(rank([], [0.5]))


def test_utterances_are_broken_off_where_the_level_dips() -> None:
    speech = 3_000 * np.sin(np.arange(2_000 * MS) * 0.3)
    speech[790 * MS : 850 * MS] *= 0.01
    (cut,) = dips(speech, 200 * MS, 1_900 * MS)
    assert 790 * MS <= cut <= 850 * MS
    assert dips(speech, 900 * MS, 1_900 * MS) == []
