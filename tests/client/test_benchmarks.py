"""The benchmarks' own arithmetic; the measurements themselves are run by hand."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.soak import failures, leaks
from benchmarks.support.engine_drive import Drive, System
from benchmarks.support.engine_stats import between, mean_batch
from benchmarks.support.light_peer import VOICED_BYTES, PacketCounter, encode_opus
from benchmarks.support.listening import LARGEST_GRANT_MS, Listener
from benchmarks.support.machine import largest, percentiles, provenance
from benchmarks.support.server import Usage, histogram_quantile
from benchmarks.support.turn_pauses import MS, dips, endpoint_ms, rank
from benchmarks.support.workload import SHORT_TALK, TALK, TEXT_TOKENS_PER_SECOND, Mix, plan, plan_back_to_back
from benchmarks.turn_latency import rotated, summarise
from model.backends.echo import create
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


def test_every_system_gets_the_same_turns_at_the_same_times() -> None:
    scripts = plan(8, 300.0, TALK, seed=3)
    assert scripts == plan(8, 300.0, TALK, seed=3)
    assert scripts != plan(8, 300.0, TALK, seed=4)
    turns = [turn for script in scripts for turn in script]
    assert np.mean([turn.utterance_ms for turn in turns]) == pytest.approx(3_000, rel=0.1)
    assert np.mean([turn.reply_ms for turn in turns]) == pytest.approx(6_000, rel=0.1)
    for script in scripts:
        for before, after in itertools.pairwise(script):  # heard, then spoken
            assert after.due - before.due >= (before.reply_ms + after.utterance_ms) / 1000
    np.testing.assert_array_equal(turns[0].utterance(), turns[0].utterance())


def test_an_underrun_is_a_time_without_sound_before_the_reply_is_complete() -> None:
    listener = Listener(seed=1)
    listener.receive(500, now=10.0)
    assert listener.played_ms(10.2) == pytest.approx(200)
    listener.receive(500, now=10.4)
    assert listener.num_underruns == 0
    listener.receive(500, now=11.25)  # dry since 11.0
    assert (listener.num_underruns, listener.underrun_ms) == (1, pytest.approx(250))
    listener.stop(now=12.0)
    assert (listener.num_underruns, listener.underrun_ms) == (2, pytest.approx(500))


def test_credit_is_given_for_what_was_played() -> None:
    listener = Listener(seed=1)
    listener.receive(1_000, now=0.0)
    granted = 0
    while (now := listener.next_grant_at()) < 10:
        grant = listener.grant(now + 1e-6)
        assert grant > 0
        granted += grant
        assert granted <= listener.played_ms(now) + 1e-3
    assert 1_000 - granted < LARGEST_GRANT_MS


@pytest.fixture
def echo() -> Iterator[System]:
    woken = threading.Event()
    engine = create({}, woken.set)
    yield System("echo", engine, woken)
    engine.close()


def test_flat_out_ends_with_the_first_call_that_had_all_its_turns(echo: System) -> None:
    few, many = plan_back_to_back(1, 2, SHORT_TALK, seed=1) + plan_back_to_back(1, 5, SHORT_TALK, seed=2)
    outcome = Drive(echo, [few, many], is_paced=False).run()
    complete = [turn for turn in outcome.turns if not turn.is_cut]
    assert sum(turn.call == 0 for turn in complete) == 2
    assert sum(turn.call == 1 for turn in outcome.turns) < 5
    assert all(turn.fault is None for turn in outcome.turns)
    for turn in complete:  # an echo is as long as what was said
        assert 0 < turn.audio_ms <= turn.reply_ms
    for turn in outcome.turns:  # the rest of a reply that was not made does not count
        assert turn.num_text <= turn.audio_ms / 1000 * TEXT_TOKENS_PER_SECOND + 0.5


def test_paced_a_reply_is_not_made_before_it_is_heard(echo: System) -> None:
    mix = Mix((1.3, 1.4, 1.5), (1.2, 1.25, 1.3), 0.1)
    outcome = Drive(echo, plan(1, 0.1, mix, seed=1), is_paced=True).run()
    (turn,) = outcome.turns
    assert turn.audio_ms == turn.reply_ms
    assert turn.reply_seconds is not None
    assert turn.reply_seconds > (turn.reply_ms - 1_000 - LARGEST_GRANT_MS) / 1000
    assert turn.first_audio_ms is not None


def test_a_guess_is_heard_once_its_turn_is_due(echo: System) -> None:
    mix = Mix((1.3, 1.4, 1.5), (0.5, 0.6, 0.7), 0.1)
    outcome = Drive(echo, plan(2, 0.3, mix, seed=1), is_paced=True, hold_ms=200).run()
    assert len(outcome.turns) == 2
    for turn in outcome.turns:
        assert turn.audio_ms == turn.reply_ms
        assert turn.first_audio_ms is not None
        assert turn.first_audio_ms >= 0


@pytest.mark.parametrize(("limit", "found"), [(0, 0), (1, 1), (5, 5), (11, 11), (64, 64), (100, 64)])
def test_the_largest_number_is_found_by_doubling_and_bisecting(limit: int, found: int) -> None:
    assert largest(lambda count: count <= limit, 1, 64) == found


def test_a_large_number_is_found_to_an_eighth() -> None:
    assert 43 <= largest(lambda count: count <= 47, 1, 128) <= 47


def test_what_an_engine_counts_is_of_the_run_alone() -> None:
    spent = between({"steps": 3, "rounds": {1: 5, 2: 1}}, {"steps": 10, "rounds": {1: 5, 2: 2, 8: 1}})
    assert spent == {"steps": 7, "rounds": {2: 1, 8: 1}}
    assert mean_batch(spent) == 5.0
    assert mean_batch({}) is None
