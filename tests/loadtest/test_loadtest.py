"""The load test's own arithmetic on made-up logs, and one small real run."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from rtc_server.loadtest.analysis import (
    ARRIVAL,
    SENT,
    Payload,
    audio,
    clock_error_ms,
    echoes,
    growth_per_hour,
    read_payloads,
)
from rtc_server.loadtest.impairment import Impairment, plan
from rtc_server.loadtest.report import as_text
from rtc_server.loadtest.run import LoadPlan, LoadTestError, default_recordings, run
from rtc_server.loadtest.speech import encode, tone_onsets, with_tones
from tests.support.recordings import recording
from tests.support.server_process import server_process

PACKETS = 20_000


def arrivals(rows: list[tuple[int, int, int, float]]) -> np.ndarray:
    return np.array(rows, ARRIVAL)


def test_a_clean_link_sends_every_packet_once_and_at_once() -> None:
    sent = plan(100, Impairment(), 1)
    assert (sent[:, 0] == 0).all()
    assert np.isnan(sent[:, 1]).all()


@pytest.mark.parametrize(("loss", "burst"), [(0.01, 1), (0.05, 1), (0.05, 3), (0.2, 5)])
def test_losses_have_the_share_and_the_run_that_were_asked_for(loss: float, burst: float) -> None:
    lost = np.isnan(plan(PACKETS, Impairment(loss, burst), 3)[:, 0])
    assert lost.mean() == pytest.approx(loss, rel=0.25)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lost.astype(int), [0]])))
    runs = edges[1::2] - edges[::2]
    assert runs.mean() == pytest.approx(1 / (1 - loss) if burst == 1 else burst, rel=0.25)


def test_jitter_reordering_and_copies_are_as_asked_for() -> None:
    sent = plan(PACKETS, Impairment(jitter_ms=40), 1)
    assert 0 <= sent[:, 0].min() < 1
    assert 39 < sent[:, 0].max() <= 40
    assert (plan(PACKETS, Impairment(reorder=0.1), 1)[:, 0] > 20).mean() == pytest.approx(0.1, rel=0.15)
    assert (~np.isnan(plan(PACKETS, Impairment(duplicate=0.1), 1)[:, 1])).mean() == pytest.approx(0.1, rel=0.15)


def test_the_same_seed_is_the_same_network_and_it_can_end() -> None:
    bad = Impairment(0.1, 2, 40, 0.1, 0.1, until_seconds=10)
    one, other = plan(PACKETS, bad, 5), plan(PACKETS, bad, 5)
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one[:500], plan(PACKETS, bad, 6)[:500], equal_nan=True)
    assert (one[500:, 0] == 0).all()


@pytest.mark.parametrize("values", [{"loss": 1.0}, {"loss": -0.1}, {"burst": 0.5}, {"jitter_ms": -1.0}])
def test_nonsense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"shares|burst"):
        Impairment(**values)


def test_missing_packets_gaps_and_losses_are_counted() -> None:
    rows = [(0, n, n * 960, n * 20.0) for n in range(500) if n not in (100, 101)]
    rows += [(1, n, n * 960, n * 20.0) for n in range(250)]
    result = audio(arrivals(rows), range(3), 0.0, 10_000.0)
    assert result.delivered == pytest.approx((498 + 250) / 1_500)
    assert result.gap_ms["max"] == 60.0
    assert result.gap_ms["p50"] == 20.0
    assert result.lost == pytest.approx(2 / 750)
    assert result.long_gaps == pytest.approx(1 / 746)


def test_sequence_numbers_that_wrap_are_no_loss() -> None:
    rows = [(0, (65_500 + n) % 65_536, n, n * 20.0) for n in range(100)]
    assert audio(arrivals(rows), [0], 0.0, 2_000.0).lost == 0


def test_a_clock_that_runs_fast_is_off_by_what_it_gained() -> None:
    minute = 3_000
    fast = 960 * 1.0005  # 0.05 % fast: 30 ms in a minute
    rows = [(0, n, 4_294_000_000 + 960 * n & 0xFFFF_FFFF, n * 20.0) for n in range(minute)]  # exact, and wraps
    rows += [(1, n % 65_536, round(fast * n), n * 20.0) for n in range(minute)]
    exact, drifting = arrivals(rows[:minute]), arrivals(rows)
    assert clock_error_ms(exact, [0], 0.0, 60_000.0) == pytest.approx(0.0, abs=0.01)
    assert clock_error_ms(drifting, [0, 1], 0.0, 60_000.0) == pytest.approx(30.0, abs=1.0)


def test_a_skipped_frame_and_a_late_packet_are_no_drift_but_audio_that_was_not_sent_is() -> None:
    late = [(0, n, n * 960, n * 20.0 + (80.0 if n in (0, 499) else 0.0)) for n in range(500) if n != 250]
    assert clock_error_ms(arrivals(late), [0], 0.0, 20_000.0) == pytest.approx(0.0, abs=0.01)
    short = [(0, n, n * 960, n * 20.0 + (100.0 if n >= 250 else 0.0)) for n in range(500)]
    assert clock_error_ms(arrivals(short), [0], 0.0, 20_000.0) == pytest.approx(100.0)


def test_too_few_packets_tell_nothing_about_the_clock() -> None:
    assert clock_error_ms(arrivals([(0, n, n * 960, n * 20.0) for n in range(99)]), [0, 1], 0.0, 2_000.0) is None


def test_memory_that_grows_steadily_has_a_slope() -> None:
    samples = [(n * 5.0, 100.0 + n * 0.01 + (0.2 if n % 2 else -0.2)) for n in range(120)]
    assert growth_per_hour(samples) == pytest.approx(7.2, abs=0.5)
    assert growth_per_hour([(0.0, 5.0)]) is None
    assert growth_per_hour([(1.0, 5.0), (1.0, 6.0)]) is None


@pytest.mark.parametrize("delay_ms", [7.0, 63.0, 311.0])
def test_an_echo_of_known_delay_is_found(delay_ms: float) -> None:
    probe = encode(with_tones(recording("f0_rms")[: 16_000 * 3]))
    rounds = 3
    sent = np.array([(0, n, n * 20.0) for n in range(len(probe) * rounds)], SENT)
    back = [Payload(0, n, n * 960, n * 20.0 + delay_ms, probe[n % len(probe)]) for n in range(len(probe) * rounds)]
    found = echoes(sent, probe, back)
    assert len(found) >= 4
    assert np.median([echo.delay_ms for echo in found]) == pytest.approx(delay_ms, abs=2)


def test_speech_alone_holds_no_tone() -> None:
    assert tone_onsets(recording("librivox_0880")) == []


def test_a_log_that_was_cut_off_is_read_up_to_there() -> None:
    record = b"\x01\x00\x02\x00\x03\x00\x00\x00" + np.float64(4.5).tobytes() + b"\x02\x00ab"
    assert read_payloads(record + record[:-1]) == [Payload(1, 2, 3, 4.5, b"ab")]


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js with npm is not installed")
def test_two_calls_are_made_and_measured() -> None:
    settings = {"server.echo_test": True, "turns.vad": "webrtcvad"}
    with server_process("echo", settings=settings) as server:
        report = run(LoadPlan(server.url, default_recordings(), calls=2, seconds=4.0, probes=2))
    assert report["connected"] == 2
    assert report["delivered"] > 0.9
    assert report["echoes"] >= 2
    assert report["echo_ms"]["p50"] < 200
    assert report["clock_error_ms"] < 20
    assert "2 of 2 calls" in as_text(report)


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js with npm is not installed")
def test_a_server_without_the_echo_test_says_so() -> None:
    settings = {"turns.vad": "webrtcvad"}
    refusal = pytest.raises(LoadTestError, match=r"server\.echo_test")
    with server_process("echo", settings=settings) as server, refusal:
        run(LoadPlan(server.url, default_recordings(), calls=1, seconds=1.0))
