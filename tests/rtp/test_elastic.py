"""A listener in real time behind a bad link, on virtual time: how far it lags, and what is made up for it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from model.interface import Pcm16
from rtc_server.codecs.base import Payload, PayloadFormat
from rtc_server.loadtest.impairment import Impairment, plan
from rtc_server.rtp.elastic import MAX_QUEUED_SECONDS, WINDOW_SECONDS, ElasticQueue
from rtc_server.rtp.receiver import AudioReceiver, ReceiverStatistics

FRAME = 320
BEGIN = 100.0
OPUS = PayloadFormat(111, "opus", 48_000, 2)
CONCEALED = 500  # level of what the scripted decoder makes up


class NumberedDecoder:
    """A frame of the value that the payload holds."""

    def decode(self, payload: Payload) -> Pcm16:
        return np.full(FRAME, struct.unpack_from("!H", payload)[0], np.int16)

    def duration(self, payload: Payload) -> int:
        return FRAME

    def recover(self, next_payload: Payload, samples: int) -> Pcm16 | None:
        return None

    def conceal(self, samples: int) -> Pcm16:
        return np.full(samples, CONCEALED, np.int16)

    def close(self) -> None: ...


@dataclass
class Listened:
    """What a listener got."""

    lag_ms: np.ndarray
    """Of each packet that was heard: from when it was due to be sent to its first sample being played."""
    statistics: ReceiverStatistics
    queue: ElasticQueue
    num_heard: int


def listen(impairment: Impairment, seed: int, num_packets: int = 2_000, ppm: float = 0.0) -> Listened:
    """Packets over `plan`'s link into a receiver, its output through the queue; pulled every 20 ms."""
    delays = plan(num_packets, impairment, seed)
    tick = 0.02 * (1 + ppm * 1e-6)
    phase = np.random.default_rng(seed).uniform(0, 0.02)
    arrivals = [
        (BEGIN + i * tick + d / 1e3, 0, i) for i in range(num_packets) for d in delays[i].tolist() if not np.isnan(d)
    ]
    pulls = [(BEGIN + phase + k * 0.02, 1, k) for k in range(num_packets)]
    now = BEGIN

    def emit(pcm: Pcm16, delay_ms: float) -> None:
        queue.push(pcm, now)

    receiver = AudioReceiver([OPUS], lambda payload_format: NumberedDecoder(), emit)
    queue = ElasticQueue(on_dry=receiver.fill)
    lag: dict[int, float] = {}
    for at, kind, number in sorted(arrivals + pulls):
        while (deadline := receiver.next_deadline()) is not None and deadline <= at:
            now = max(now, deadline)
            receiver.handle_deadline(now)
        now = at
        if kind == 0:
            header = struct.pack("!BBHII", 0x80, 111, (number + 60_000) & 0xFFFF, number * 960, 7)
            receiver.receive(header + struct.pack("!H10x", 1_000 + number % 30_000), at)
            continue
        for value, index in zip(*np.unique(queue.pull(at), return_index=True), strict=True):
            sent = int(value) - 1_000
            if sent >= 0 and sent not in lag:
                lag[sent] = (at + index / 16_000 - BEGIN - sent * tick) * 1e3
    found = np.array([ms for sent, ms in lag.items() if sent > 150])
    return Listened(found, receiver.statistics, queue, len(lag))


# Name: link, worst p99 lag in ms that is allowed (plus up to 20 for where the packets fall between the pulls).
LINKS = {
    "clean": (Impairment(), 20),
    "1 % loss": (Impairment(loss=0.01), 20),
    "5 % loss": (Impairment(loss=0.05), 20),
    "5 % in bursts of 3": (Impairment(loss=0.05, burst=3), 20),
    "0-40 ms jitter": (Impairment(jitter_ms=40), 62),
    "5 % in bursts and jitter": (Impairment(loss=0.05, burst=3, jitter_ms=40), 90),
    "reordered, doubled": (Impairment(reorder=0.05, duplicate=0.05), 45),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LINKS)
def test_loss_costs_no_delay_and_jitter_costs_what_it_is(name: str, seed: int) -> None:
    impairment, limit_ms = LINKS[name]
    got = listen(impairment, seed)
    assert np.percentile(got.lag_ms, 99) <= limit_ms
    assert got.statistics.filled_samples == 0, "neither decoded, recovered nor concealed"
    assert got.queue.underruns <= 2
    sent_and_kept = np.count_nonzero(~np.isnan(plan(2_000, impairment, seed)[:, 0]))
    assert got.num_heard >= 0.985 * sent_and_kept, "what arrived was played"


def test_a_link_that_calms_down_is_followed_within_five_seconds() -> None:
    bad = Impairment(loss=0.05, burst=3, jitter_ms=40, until_seconds=20)
    got = listen(bad, 1)
    calm = got.lag_ms[-int((2_000 / 50 - 25) * 50) :]
    assert calm.max() <= 25


@pytest.mark.parametrize("ppm", [-300, 300])
def test_clocks_that_differ_leave_no_drift(ppm: int) -> None:
    got = listen(Impairment(), 2, num_packets=30_000, ppm=ppm)  # ten minutes: 180 ms apart at the end
    assert got.lag_ms.max() <= 45
    assert np.median(got.lag_ms[-2_000:]) <= 25


# --- the queue by itself


def pieces(sizes: Iterable[int]) -> Iterable[Pcm16]:
    at = 0
    for size in sizes:
        yield np.arange(at, at + size, dtype=np.int16)
        at += size


def test_pieces_of_any_length_come_out_as_frames_in_order() -> None:
    queue = ElasticQueue()
    for piece in pieces([100, 0, 300, 7, 553, 320]):
        queue.push(piece, 0.0)
    out = np.concatenate([queue.pull(0.02 * i) for i in range(4)])
    fade = out[:80]
    assert fade[0] == 0, "it begins softly"
    assert np.array_equal(out[80:], np.arange(80, 1_280))
    assert queue.queued_ms == 0.0


def test_a_stop_fades_and_a_beginning_too() -> None:
    queue = ElasticQueue()
    loud = np.full(FRAME, 10_000, np.int16)
    queue.push(loud, 0.0)
    out = np.concatenate([queue.pull(0.0), queue.pull(0.02), queue.pull(0.04)])
    queue.push(loud, 0.06)
    out = np.concatenate([out, queue.pull(0.06)])
    assert np.abs(np.diff(out.astype(int))).max() <= 10_000 / 70, "no click"
    assert not out[2 * FRAME : 3 * FRAME].any()
    assert queue.underruns == 1


def test_what_is_made_up_elsewhere_is_played_instead() -> None:
    asked: list[float] = []

    def make_up(now: float) -> None:
        asked.append(now)
        queue.push(np.full(FRAME, 77, np.int16), now)

    queue = ElasticQueue(on_dry=make_up)
    queue.push(np.full(FRAME, 5, np.int16), 0.0)
    assert asked == []
    queue.pull(0.0)
    assert queue.pull(0.02).tolist() == [77] * FRAME
    assert asked == [0.02]
    assert queue.underruns == 0


def test_a_reader_that_stops_loses_the_oldest() -> None:
    queue = ElasticQueue()
    for piece in pieces([FRAME] * 100):
        queue.push(piece, 0.0)
    assert queue.queued_ms <= MAX_QUEUED_SECONDS * 1e3
    assert queue.dropped_samples == 100 * FRAME - int(queue.queued_ms * 16)
    assert queue.pull(0.0)[-1] == queue.dropped_samples + FRAME - 1


@pytest.mark.parametrize(("level", "within_seconds"), [(100, WINDOW_SECONDS + 0.5), (8_000, WINDOW_SECONDS + 3.0)])
def test_an_excess_is_taken_out_in_silence_at_once_and_in_speech_slowly(level: int, within_seconds: float) -> None:
    queue = ElasticQueue()
    frame = np.full(FRAME, level, np.int16)
    for _ in range(10):
        queue.push(frame, 0.0)
    for tick in range(int(within_seconds * 50)):
        queue.push(frame, tick * 0.02)
        queue.pull(tick * 0.02)
    assert queue.queued_ms <= 20
