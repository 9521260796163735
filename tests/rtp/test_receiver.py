"""The receiver on virtual time: a scripted sender, a link that loses, delays and repeats, and what comes out of it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.interface import Pcm16
from rtc_server.codecs.base import AudioDecoder, CodecError, Payload, PayloadFormat
from rtc_server.rtp.receiver import FRAME, AudioReceiver
from rtc_server.rtp.red import RedBlock, pack_red
from rtc_server.rtp.telephone_event import Digit

OPUS = PayloadFormat(111, "opus", 48_000, 2)
RED = PayloadFormat(63, "red", 48_000, 2)
EVENTS = PayloadFormat(110, "telephone-event", 48_000)
PCMU = PayloadFormat(0, "PCMU", 8_000)
CONCEALED, RECOVERED = -1, 10_000


class NumberedDecoder:
    """Decodes a payload that holds a number to a frame of that number, so that the output tells where it came from."""

    def __init__(self, payload_format: PayloadFormat, has_fec: bool) -> None:
        self._has_fec = has_fec

    def decode(self, payload: Payload) -> Pcm16:
        if len(payload) == 1:
            return np.zeros(FRAME, np.int16)  # comfort noise
        if len(payload) != 4:
            raise CodecError("corrupt")
        return np.full(FRAME, struct.unpack("!I", payload)[0] % RECOVERED + 1_000, np.int16)

    def duration(self, payload: Payload) -> int:
        return FRAME

    def recover(self, next_payload: Payload, samples: int) -> Pcm16 | None:
        if not self._has_fec or len(next_payload) != 4:
            return None
        return np.full(samples, struct.unpack("!I", next_payload)[0] % RECOVERED + 1_000 - 1 + RECOVERED, np.int16)

    def conceal(self, samples: int) -> Pcm16:
        return np.full(samples, CONCEALED, np.int16)

    def close(self) -> None:
        pass


def packet(
    number: int,
    *,
    payload: bytes | None = None,
    timestamp: int | None = None,
    payload_type: int = 111,
    ssrc: int = 7,
    first: int = 0,
) -> bytes:
    sequence = (number + first) & 0xFFFF
    when = number * 960 if timestamp is None else timestamp
    body = struct.pack("!I", number) if payload is None else payload
    return struct.pack("!BBHII", 0x80, payload_type, sequence, when & 0xFFFFFFFF, ssrc) + body


@dataclass
class Heard:
    """A receiver, and everything that it emitted."""

    has_fec: bool = False
    pieces: list[Pcm16] = field(default_factory=list)
    delays_ms: list[float] = field(default_factory=list)
    emitted_at: list[float] = field(default_factory=list)
    digits: list[Digit] = field(default_factory=list)
    now: float = 100.0

    def __post_init__(self) -> None:
        def make(payload_format: PayloadFormat) -> AudioDecoder:
            return NumberedDecoder(payload_format, self.has_fec)

        self.receiver = AudioReceiver([OPUS, RED, EVENTS, PCMU], make, self._emit, self.digits.append)

    def _emit(self, pcm: Pcm16, delay_ms: float) -> None:
        self.pieces.append(pcm.copy())
        self.delays_ms.append(delay_ms)
        self.emitted_at.append(self.now)

    def get(self, data: bytes, now: float) -> None:
        self.wait_until(now)
        self.receiver.receive(data, now)

    def wait_until(self, now: float) -> None:
        while (deadline := self.receiver.next_deadline()) is not None and deadline <= now:
            self.now = max(self.now, deadline)
            self.receiver.handle_deadline(deadline)
        self.now = now

    @property
    def pcm(self) -> Pcm16:
        return np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)

    @property
    def frames(self) -> list[int]:
        """The value of each 20 ms: 0 silence, -1 concealed, 1000 + n packet n, 11000 + n packet n recovered."""
        return [int(frame[0]) for frame in self.pcm.reshape(-1, FRAME)]


def link(
    heard: Heard,
    numbers: Iterable[int],
    *,
    delay: Callable[[int], float | None] = lambda number: 0.0,
    make: Callable[[int], bytes] = packet,
    begin: float = 100.0,
    spacing: float = 0.02,
) -> None:
    """Send packet n at `begin + n * spacing`; it arrives `delay(n)` later, or never (None)."""
    arrivals = []
    for number in numbers:
        late = delay(number)
        if late is not None:
            arrivals.append((begin + number * spacing + late, number))
    for at, number in sorted(arrivals):
        heard.get(make(number), at)


def assert_accounts(heard: Heard) -> None:
    """Everything emitted was decoded, recovered, concealed or filled; nothing else."""
    s = heard.receiver.statistics
    made = s.decoded_samples + s.recovered_samples + s.concealed_samples + s.filled_samples
    decoded_but_skipped = made - len(heard.pcm)
    assert 0 <= decoded_but_skipped <= s.skipped_samples


def test_packets_in_order_pass_at_once() -> None:
    heard = Heard()
    link(heard, range(50))
    assert heard.frames == [1_000 + n for n in range(50)]
    assert set(heard.delays_ms) == {0.0}
    assert heard.emitted_at == pytest.approx([100 + n * 0.02 for n in range(50)])


def test_on_a_clean_link_a_loss_is_concealed_when_the_next_packet_is_there() -> None:
    heard = Heard()
    link(heard, (n for n in range(20) if n != 10))
    assert heard.frames == [*range(1_000, 1_010), CONCEALED, *range(1_011, 1_020)]
    assert heard.emitted_at[11] == pytest.approx(100 + 11 * 0.02)
    assert heard.receiver.statistics.lost == 1


def test_in_band_redundancy_of_the_next_packet_fills_the_hole() -> None:
    heard = Heard(has_fec=True)
    link(heard, (n for n in range(20) if n not in (5, 6)))
    assert heard.frames[4:9] == [1_004, CONCEALED, 11_006, 1_007, 1_008]
    assert heard.receiver.statistics.recovered_packets == 1
    assert_accounts(heard)


def test_red_fills_every_hole_that_its_copies_reach() -> None:
    def red(number: int) -> bytes:
        copies = [RedBlock(111, 960 * back, struct.pack("!I", number - back)) for back in (2, 1) if number >= back]
        return packet(number, payload=pack_red(111, struct.pack("!I", number), copies), payload_type=63)

    heard = Heard()
    link(heard, (n for n in range(20) if n not in (5, 9, 10)), make=red)
    assert heard.frames == [1_000 + n for n in range(20)], "two in a row come back from two copies"
    assert heard.receiver.statistics.recovered_packets == 3
    assert_accounts(heard)


def test_a_link_that_reorders_is_waited_for_after_the_first_mistake() -> None:
    heard = Heard()
    link(heard, range(200), delay=lambda n: 0.025 if n % 10 == 5 else 0.0)
    wrong = [frame for frame in heard.frames if frame == CONCEALED]
    assert len(wrong) <= 3
    assert heard.frames[-20:] == [1_000 + n for n in range(180, 200)]
    assert heard.receiver.statistics.late <= 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_jitter_of_40_ms_loses_next_to_nothing(seed: int) -> None:
    rng = random.Random(seed)
    heard = Heard()
    link(heard, range(1_000), delay=lambda n: rng.uniform(0, 0.04))
    assert sum(frame == CONCEALED for frame in heard.frames) <= 20
    assert abs(len(heard.frames) - 1_000) <= 3
    assert max(heard.delays_ms) <= 61
    assert_accounts(heard)


@pytest.mark.parametrize(("loss", "burst"), [(0.01, 1), (0.05, 1), (0.05, 4)])
def test_losses_leave_no_hole_in_the_timeline(loss: float, burst: int) -> None:
    rng = random.Random(7)
    lost: set[int] = set()
    for n in range(20, 980):
        if rng.random() < loss / burst:
            lost.update(range(n, n + burst))
    heard = Heard()
    link(heard, (n for n in range(1_000) if n not in lost))
    frames = heard.frames
    assert len(frames) == 1_000
    for number, frame in enumerate(frames):
        assert frame == (1_000 + number if number not in lost else frame)
        assert frame in (1_000 + number, CONCEALED) or (number in lost and frame == 0)
    assert_accounts(heard)


def test_duplicates_and_packets_from_the_past_are_heard_once() -> None:
    heard = Heard()
    for n in range(30):
        heard.get(packet(n), 100 + n * 0.02)
        heard.get(packet(n), 100 + n * 0.02 + 0.001)
        if n > 10:
            heard.get(packet(n - 10), 100 + n * 0.02 + 0.002)
    assert heard.frames == [1_000 + n for n in range(30)]
    assert heard.receiver.statistics.duplicates >= 30


def test_sequence_numbers_and_timestamps_wrap() -> None:
    heard = Heard()
    first_timestamp = 2**32 - 960 * 10
    for n in range(40):
        if n != 20:
            heard.get(packet(n, first=65_516, timestamp=first_timestamp + n * 960), 100 + n * 0.02)
    assert heard.frames == [1_000 + n if n != 20 else CONCEALED for n in range(40)]


def test_mute_is_silence_of_exactly_its_length_made_in_real_time() -> None:
    heard = Heard()
    link(heard, range(50))
    heard.wait_until(100 + 30.0)
    made_by_then = len(heard.frames)
    assert made_by_then == pytest.approx(30 / 0.02, abs=5), "turn detection sees time pass"
    # Sequence numbers go on, the timestamp tells of the pause.
    for n in range(50, 60):
        heard.get(packet(n, timestamp=(n + 1_450) * 960), 100 + (n + 1_450) * 0.02)
    assert len(heard.frames) == 1_510
    assert heard.frames[-10:] == [1_000 + n for n in range(50, 60)]
    assert heard.receiver.statistics.lost == 0
    assert_accounts(heard)


def test_discontinuous_transmission_keeps_the_timeline() -> None:
    heard = Heard()
    sequence = 0
    for position in range(600):  # 12 s; 0-2 s speech, then one packet per 400 ms, speech again from 10 s
        talks = position < 100 or position >= 500
        if talks or position % 20 == 0:
            body = None if talks else b"\x08"
            data = packet(sequence, timestamp=position * 960, payload=body or struct.pack("!I", position))
            heard.get(data, 100 + position * 0.02)
            sequence += 1
    assert abs(len(heard.frames) - 600) <= 1
    assert heard.frames[-100:] == [1_000 + n for n in range(500, 600)]
    assert heard.receiver.statistics.lost == 0


def test_late_audio_is_played_and_the_surplus_is_taken_out_of_silence() -> None:
    heard = Heard()
    link(heard, range(100), delay=lambda n: max(0.0, 0.3 - (n - 50) * 0.02) if 50 <= n < 65 else 0.0)
    voices = [frame for frame in heard.frames if frame >= 1_000]
    assert voices == [1_000 + n for n in range(100)], "a stall of 300 ms loses no word"
    heard.wait_until(100 + 100 * 0.02 + 2.0)
    assert len(heard.frames) * 0.02 == pytest.approx(4.0, abs=0.1), "silence afterwards is shorter by the surplus"
    assert_accounts(heard)


def test_key_presses_use_sequence_numbers_and_are_no_loss() -> None:
    heard = Heard()
    sequence = 0
    for position in range(60):
        heard.get(
            packet(sequence, timestamp=position * 960, payload=struct.pack("!I", position)), 100 + position * 0.02
        )
        sequence += 1
        if 20 <= position < 30:
            end = 0x80 if position >= 27 else 0
            body = struct.pack("!BBH", 5, end | 10, (position - 19) * 960)
            heard.get(
                packet(sequence, timestamp=20 * 960, payload=body, payload_type=110), 100 + position * 0.02 + 0.001
            )
            sequence += 1
    assert heard.frames == [1_000 + n for n in range(60)]
    assert [digit.digit for digit in heard.digits] == ["5"]
    assert heard.receiver.statistics.lost == 0


def test_a_lost_key_press_packet_makes_no_sound() -> None:
    heard = Heard()
    sequence = 0
    for position in range(30):
        heard.get(
            packet(sequence, timestamp=position * 960, payload=struct.pack("!I", position)), 100 + position * 0.02
        )
        sequence += 2 if position == 15 else 1  # the packet in between was a key press, and was lost
    assert heard.frames == [1_000 + n for n in range(30)]


def test_a_new_source_takes_over_and_one_stray_packet_does_not() -> None:
    heard = Heard()
    link(heard, range(20))
    heard.get(packet(3, ssrc=99), 100.401)
    for n in range(20, 40):
        heard.get(packet(n), 100 + n * 0.02)
    assert heard.frames == [1_000 + n for n in range(40)]
    for n in range(40, 60):
        heard.get(packet(n, ssrc=8, first=30_000), 101 + n * 0.02)
    assert heard.receiver.source == 8
    assert heard.frames[-10:] == [1_000 + n for n in range(50, 60)]


def test_a_restarted_sender_is_followed() -> None:
    heard = Heard()
    link(heard, range(20))
    for n in range(20, 40):
        heard.get(packet(n, first=40_000, timestamp=10**9 + n * 960), 100 + n * 0.02)
    assert heard.receiver.statistics.restarts == 1
    assert heard.frames[-10:] == [1_000 + n for n in range(30, 40)]


def test_a_corrupt_payload_is_concealed() -> None:
    heard = Heard()
    link(heard, range(10), make=lambda n: packet(n, payload=b"xx?") if n == 5 else packet(n))
    assert heard.frames == [*range(1_000, 1_005), CONCEALED, *range(1_006, 1_010)]
    assert heard.receiver.statistics.corrupt == 1


@pytest.mark.parametrize("ppm", [-100, 100])
def test_an_hour_with_clocks_that_differ_leaves_no_drift(ppm: int) -> None:
    heard = Heard()
    spacing = 0.02 * (1 + ppm / 1e6)
    rng = random.Random(ppm)
    total = 0

    def count(pcm: Pcm16, delay_ms: float) -> None:
        nonlocal total
        total += len(pcm)

    receiver = AudioReceiver([OPUS], lambda f: NumberedDecoder(f, False), count)
    for n in range(180_000):
        if n % 97 == 0:
            continue
        now = 100 + n * spacing + rng.uniform(0, 0.003)
        if (deadline := receiver.next_deadline()) is not None and deadline <= now:
            receiver.handle_deadline(now)
        receiver.receive(packet(n), now)
    assert abs(total - 180_000 * FRAME) <= 3 * FRAME, "the timeline is the sender's, to the packet"
    assert heard.pieces == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=64), st.floats(0, 0.2)), max_size=30))
def test_no_bytes_raise_or_make_time_run_faster(packets: list[tuple[bytes, float]]) -> None:
    heard = Heard()
    now = 100.0
    for body, gap in packets:
        now += gap
        heard.get(body, now)
        if len(body) > 8:
            heard.get(b"\x80\x6f" + body[:10] + body, now)
    heard.wait_until(now + 1)
    assert len(heard.pcm) <= 16_000 * (now - 100 + 1) + 64 * 5_120


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.integers(1, 3)), max_size=80))
def test_hostile_numbers_stay_bounded(headers: list[tuple[int, int, int]]) -> None:
    heard = Heard()
    for index, (sequence, timestamp, ssrc) in enumerate(headers):
        data = struct.pack("!BBHII", 0x80, 111, sequence, timestamp, ssrc) + struct.pack("!I", index)
        heard.get(data, 100 + index * 0.02)
    heard.wait_until(100 + len(headers) * 0.02 + 1.0)
    # A packet may claim up to 200 ms of silence before it; nothing beyond that is believed.
    assert len(heard.pcm) <= (len(headers) * 12 + 60) * FRAME
    assert_accounts(heard)
