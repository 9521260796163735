"""One remote voice: RTP packets in, an unbroken 16 kHz timeline out. Pure: times are given in.

Nobody plays this audio to an ear, so there is no playout delay to keep: a packet in order is decoded at once. Only a
hole is waited for, as long as this link's own reordering and jitter suggest; then it is filled from redundancy (RED,
in-band FEC), else concealed, else silent. The timeline follows the sender's timestamps: discontinuous transmission and
mute are silence of exactly the time they lasted. While nothing arrives at all, silence is made in real time, so that
the end of a turn is noticed; packets that were only late are still played, and the surplus is taken out of later
silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.codecs.base import AudioDecoder, CodecError, PayloadFormat

from .packet import parse_header, sequence_difference, timestamp_difference
from .red import RedBlock, parse_red
from .statistics import ReceptionStatistics
from .telephone_event import Digit, TelephoneEvents

FRAME = INPUT_SAMPLE_RATE // 50
LOST_END_SECONDS = 0.5  # packets of a key come every 20 to 50 ms
FRAME_SECONDS = 0.02
MAX_WAIT_SECONDS = 0.06  # for a hole: three frames; later than this a listener hears the delay more than the loss
MAX_HELD = 64  # packets behind a hole: more than a second, a sender that repeats nonsense
IDLE_SECONDS = 0.07  # without a packet before silence is made: two lost in a row come back from the third
IDLE_DTX_SECONDS = 0.03  # the same after the sender said that it pauses
MAX_CONCEAL = INPUT_SAMPLE_RATE // 2  # 500 ms: libopus has faded by then; bursts of 25 lost packets are rare
MAX_AHEAD_SECONDS = 0.2  # timestamps may lead the clock on the wall by this; a gap beyond it is a lie or a restart
RESTART_DISTANCE = 1_000  # a sequence jump by 20 s of packets is a new stream
RESTART_PACKETS = 2  # in order after the jump, before it is believed (RFC 3550 appendix A.1)
TAKEOVER_PACKETS = 5  # in order from another source while the present one still talks
QUIET_SECONDS = 0.1  # a source silent for this long is taken over at once
QUIET_PEAK = 200  # samples below this (-44 dBFS) may be left out to repay late audio
DTX_BYTES = 2  # an Opus payload this short is comfort noise (RFC 7587 section 3.1.3)
JITTER_FACTOR = 1.5  # RFC 3550 jitter is a mean deviation: uniform 0-40 ms measures 13, and overtakes by up to 20 ms
LEAST_JITTER_SECONDS = 0.003  # below it the link is clean and the next packet in hand means that one is lost
DECAY = 0.995  # of the observed reordering, per packet in order: half in 3 s
EMPTY = np.zeros(0, np.int16)
_SILENT_FRAME = np.zeros(FRAME, np.int16)
_SILENT_FRAME.setflags(write=False)

Emit = Callable[[Pcm16, float], None]


class _Packet(NamedTuple):
    payload_type: int
    timestamp: int
    payload: bytes
    arrived: float


@dataclass(slots=True)
class ReceiverStatistics:
    """Counts since the start of the call. Samples are at 16 kHz; the first four add up to everything emitted."""

    decoded_samples: int = 0
    recovered_samples: int = 0
    concealed_samples: int = 0
    filled_samples: int = 0
    skipped_samples: int = 0
    """Silence left out to repay audio that came after silence had been made in its place."""
    received: int = 0
    lost: int = 0
    late: int = 0
    """Arrived after their place had been filled."""
    duplicates: int = 0
    reordered: int = 0
    corrupt: int = 0
    unknown: int = 0
    malformed: int = 0
    restarts: int = 0
    recovered_packets: int = 0


class AudioReceiver:
    """See the module's docstring. `emit(pcm, delay_ms)` gets int16 mono 16 kHz in order, `delay_ms` after the arrival
    of the packet it came from; `on_digit` each key press."""

    def __init__(
        self,
        formats: Sequence[PayloadFormat],
        make_decoder: Callable[[PayloadFormat], AudioDecoder],
        emit: Emit,
        on_digit: Callable[[Digit], None] | None = None,
    ) -> None:
        self._formats = {f.payload_type: f for f in formats}
        self._make_decoder = make_decoder
        self._emit_pcm = emit
        self._on_digit = on_digit
        self._decoders: dict[int, AudioDecoder] = {}
        self._events: dict[int, TelephoneEvents] = {}
        self._pressed_at: float | None = None  # when the latest packet of a key came; None once all keys are told
        self.on_payload: Callable[[PayloadFormat, int, bytes], None] | None = None
        """Gets every payload that was decoded, in order: its format, its timestamp and itself. RED is unwrapped, and
        what only its copies held is there too."""
        self.statistics = ReceiverStatistics()
        self.source: int | None = None
        """SSRC of the voice that is heard."""
        self.reception: ReceptionStatistics | None = None
        """Of that source, for receiver reports."""
        self._next = 0  # extended sequence number that is due
        self._held: dict[int, _Packet] = {}
        self._give_up_at: float | None = None  # when the hole in front of the held packets is filled
        self._seen: set[int] = set()  # the latest few extended sequence numbers, to tell a duplicate from a late packet
        self._reordering = 0.0  # seconds by which packets were overtaken lately
        self._jump: tuple[int, int] = (0, 0)  # (next 16-bit number expected after a jump, packets seen)
        self._rival: tuple[int, int, int] = (0, 0, 0)  # (ssrc, next number, packets seen)
        self._rate = INPUT_SAMPLE_RATE
        self._expected: int | None = None  # timestamp of the next sample to emit
        self._packet_at = 0.0  # when the latest packet arrived
        self._played_at = 0.0  # when the latest speech packet was decoded
        self._idle_at: float | None = None  # when the next frame of silence is made
        self._is_dtx = False
        self._filled = 0  # samples of silence made since the latest packet
        self._debt = 0  # samples emitted beyond the sender's timeline
        self._frame = FRAME  # samples of the latest speech packet
        self._decoder: AudioDecoder | None = None

    # --- times

    def next_deadline(self) -> float | None:
        """When to call `handle_deadline`, monotonic seconds; None before the first packet."""
        give_up, idle = self._give_up_at, self._idle_at
        return idle if give_up is None or (idle is not None and idle < give_up) else give_up

    def handle_deadline(self, now: float) -> None:
        """Fill a hole that was waited for long enough; make the silence that is due."""
        while self._give_up_at is not None and self._give_up_at <= now:
            self._skip_hole(now)
        while self._idle_at is not None and self._idle_at <= now:
            self._idle_at += FRAME_SECONDS
            self._fill_frame(now)

    def fill(self, now: float) -> None:
        """A listener in real time has nothing left to play: emit the frame now that would be made up in a moment.

        Otherwise it would put a frame of its own in, and what is made up here would come on top of it, as delay. A
        packet that was lost is then made up for already; one that was only late is still emitted, and the listener
        lags by a frame from then on."""
        if self._idle_at is not None:
            self._idle_at = max(self._idle_at, now + 1.5 * FRAME_SECONDS)
            self._filled += FRAME
            self._make_up()

    @property
    def wait_seconds(self) -> float:
        """How long a hole is waited for at present."""
        jitter = self.reception.jitter_ms / 1_000 if self.reception is not None else 0.0
        wait = JITTER_FACTOR * jitter if jitter > LEAST_JITTER_SECONDS else 0.0
        return min(MAX_WAIT_SECONDS, max(wait, 1.2 * self._reordering))

    # --- packets

    def receive(self, packet: memoryview | bytes, now: float) -> None:
        """One plain RTP packet. Never raises for what the peer sent: what is not understood is counted."""
        header = parse_header(packet)
        statistics = self.statistics
        if header is None:
            statistics.malformed += 1
            return
        payload_type, _, sequence, timestamp, ssrc, start, end = header
        if payload_type not in self._formats:
            statistics.unknown += 1
            return
        if ssrc != self.source and not self._takes_over(ssrc, sequence, now):
            return
        reception = self.reception
        if reception is None:
            self._begin(payload_type, sequence)
            reception = self.reception
            assert reception is not None
        distance = sequence_difference(sequence, self._next & 0xFFFF)
        if not -RESTART_DISTANCE < distance < RESTART_DISTANCE and not self._restarts(sequence, payload_type):
            return
        if self.reception is not reception:
            reception = self.reception
            assert reception is not None
            distance = 0
        statistics.received += 1
        extended = self._next + distance
        reception.add(extended, timestamp, now)
        self._packet_at = now
        if self._idle_at is not None:
            self._idle_at = now + self._idle_after()
        item = _Packet(payload_type, timestamp, bytes(packet[start:end]), now)
        if distance == 0 and not self._held:
            self._next = extended + 1
            self._reordering *= DECAY
            self._take(item, now)
        elif distance < 0:
            self._late(extended, now)
        elif extended in self._held:
            statistics.duplicates += 1
        else:
            self._hold(extended, item, now)

    def _begin(self, payload_type: int, sequence: int) -> None:
        self._next = sequence + 0x10000  # room for packets that come before the first
        self.reception = ReceptionStatistics(self._formats[payload_type].clock_rate, self._next)
        self._held.clear()
        self._seen.clear()
        self._give_up_at = None
        self._expected = None
        self._jump = (0, 0)

    def _takes_over(self, ssrc: int, sequence: int, now: float) -> bool:
        """Does this source become the one that is heard? One rival is watched at a time."""
        if self.source is not None:
            rival, expected, seen = self._rival
            seen = seen + 1 if rival == ssrc and sequence == expected else 1
            self._rival = (ssrc, (sequence + 1) & 0xFFFF, seen)
            needed = RESTART_PACKETS if now - self._packet_at > QUIET_SECONDS else TAKEOVER_PACKETS
            if seen < needed:
                return False
            self.statistics.restarts += 1
        self.source = ssrc
        self.reception = None
        self._rival = (0, 0, 0)
        return True

    def _restarts(self, sequence: int, payload_type: int) -> bool:
        """A jump of the sequence numbers: believed after some packets in order, else ignored."""
        expected, seen = self._jump
        seen = seen + 1 if seen and sequence == expected else 1
        self._jump = ((sequence + 1) & 0xFFFF, seen)
        if seen < RESTART_PACKETS:
            return False
        self.statistics.restarts += 1
        self._begin(payload_type, sequence)
        return True

    def _late(self, extended: int, now: float) -> None:
        if extended in self._seen:
            self._seen.discard(extended)
            self.statistics.late += 1
            # It came after all: next time wait that long. It is not known when it was overtaken, so the whole wait and
            # a frame are added to what is tolerated.
            self._reordering = min(MAX_WAIT_SECONDS, max(self._reordering, self.wait_seconds + FRAME_SECONDS / 2))
        else:
            self.statistics.duplicates += 1

    def _hold(self, extended: int, item: _Packet, now: float) -> None:
        held = self._held
        if held and extended < max(held):
            self.statistics.reordered += 1
            overtaken = now - min(packet.arrived for number, packet in held.items() if number > extended)
            self._reordering = min(MAX_WAIT_SECONDS, max(self._reordering, overtaken))
        held[extended] = item
        if extended == self._next:
            self._release(now)
        elif self._give_up_at is None:
            self._give_up_at = now + self.wait_seconds
        if self._give_up_at is not None and (self._give_up_at <= now or len(held) > MAX_HELD):
            self._skip_hole(now)

    def _release(self, now: float) -> None:
        """Take what is in order now; arm the wait for the next hole."""
        held = self._held
        while (item := held.pop(self._next, None)) is not None:
            self._next += 1
            self._take(item, now)
        if held:
            first = held[min(held)]
            self._give_up_at = first.arrived + self.wait_seconds
        else:
            self._give_up_at = None

    def _skip_hole(self, now: float) -> None:
        """The packets in front of the first held one are lost: fill their time, go on behind them."""
        first = min(self._held)
        num_lost = first - self._next
        self.statistics.lost += num_lost
        self._seen = {n for n in self._seen if n > first - MAX_HELD}
        self._seen.update(range(max(self._next, first - MAX_HELD), first))
        item = self._held[first]
        self._fill_hole(item, num_lost, now)
        self._next = first
        self._release(now)

    def flush_digits(self, now: float) -> None:
        """Tell the key whose end never came. Call it now and then."""
        if self._pressed_at is None or now < self._pressed_at + LOST_END_SECONDS:
            return
        self._pressed_at = None
        for events in self._events.values():
            for digit in events.flush():
                if self._on_digit is not None:
                    self._on_digit(digit)

    # --- audio

    def _take(self, item: _Packet, now: float) -> None:
        """The packet that is next in order."""
        payload_format = self._formats[item.payload_type]
        name = payload_format.name
        if name == "telephone-event":
            events = self._events.setdefault(item.payload_type, TelephoneEvents(payload_format.clock_rate))
            self._pressed_at = now
            for digit in events.receive(item.timestamp, item.payload):
                if self._on_digit is not None:
                    self._on_digit(digit)
            return
        if name == "CN":
            self._is_dtx = True
            return
        if name == "red":
            red = parse_red(item.payload)
            inner = None if red is None else self._formats.get(red.payload_type)
            if red is None or inner is None or inner.name in ("red", "telephone-event", "CN"):
                self.statistics.corrupt += 1
                return
            self._play(inner, item.timestamp, red.payload, item.arrived, now)
        else:
            self._play(payload_format, item.timestamp, item.payload, item.arrived, now)

    def _play(self, payload_format: PayloadFormat, timestamp: int, payload: bytes, arrived: float, now: float) -> None:
        decoder = self._decoder_of(payload_format)
        try:
            pcm = decoder.decode(payload)
        except CodecError:
            self.statistics.corrupt += 1
            if self._expected is None:
                return
            pcm = decoder.conceal(self._frame)
            self.statistics.concealed_samples += len(pcm)
        else:
            self.statistics.decoded_samples += len(pcm)
            if self.on_payload is not None:
                self.on_payload(payload_format, timestamp, payload)
        rate = payload_format.clock_rate
        if self._expected is not None and rate == self._rate:
            gap = timestamp_difference(timestamp, self._expected)
            if gap or self._filled:
                self._fill_time(gap * INPUT_SAMPLE_RATE // rate, now)
        self._filled = 0
        self._played_at = now
        self._rate = rate
        self._expected = (timestamp + len(pcm) * rate // INPUT_SAMPLE_RATE) & 0xFFFFFFFF
        self._frame = len(pcm)
        self._is_dtx = len(payload) <= DTX_BYTES and payload_format.name == "opus"
        self._idle_at = now + self._idle_after()
        if self._debt and self._may_skip(pcm):
            self._debt -= len(pcm)
            self.statistics.skipped_samples += len(pcm)
            return
        self._emit_pcm(pcm, (now - arrived) * 1e3 if now > arrived else 0.0)

    def _may_skip(self, pcm: Pcm16) -> bool:
        return len(pcm) <= self._debt and int(np.abs(pcm).max(initial=0)) < QUIET_PEAK

    def _decoder_of(self, payload_format: PayloadFormat) -> AudioDecoder:
        decoder = self._decoders.get(payload_format.payload_type)
        if decoder is None:
            decoder = self._decoders[payload_format.payload_type] = self._make_decoder(payload_format)
        self._decoder = decoder
        return decoder

    def _idle_after(self) -> float:
        return IDLE_DTX_SECONDS if self._is_dtx else max(IDLE_SECONDS, self.wait_seconds + 2 * FRAME_SECONDS)

    def _fill_frame(self, now: float) -> None:
        """Nothing arrives: a frame of silence in its place."""
        if self._held:
            return  # a hole is being waited for; it will be filled when the wait is over
        self._filled += FRAME
        if self._debt >= FRAME:
            self._debt -= FRAME
            self.statistics.skipped_samples += FRAME
        else:
            self._make_up()

    def _make_up(self) -> None:
        """One frame; `_filled` counts it already."""
        if self._filled <= MAX_CONCEAL and not self._is_dtx and self._decoder is not None:
            self._conceal(FRAME)
        else:
            self._silence(FRAME)

    def _fill_time(self, gap: int, now: float) -> None:
        """The sender's clock moved by `gap` samples without audio; `_filled` of them were made already."""
        missing = gap - self._filled
        if missing > 0:
            self._silence(min(missing, self._credible(now)))
        elif gap >= 0:
            self._debt += -missing

    def _credible(self, now: float) -> int:
        """Samples of a gap that may be believed: no more than the clock on the wall allows, whatever the peer says."""
        passed = now - self._played_at + MAX_AHEAD_SECONDS
        return max(0, int(passed * INPUT_SAMPLE_RATE) - self._filled)

    def _fill_hole(self, item: _Packet, num_lost: int, now: float) -> None:
        """`num_lost` packets in front of `item` are lost: whatever time they held is made up for."""
        payload_format = self._formats[item.payload_type]
        redundant: tuple[RedBlock, ...] = ()
        payload = item.payload
        if payload_format.name == "red":
            red = parse_red(payload)
            if red is None or red.payload_type not in self._formats:
                return
            payload, redundant = red.payload, red.redundant
            payload_format = self._formats[red.payload_type]
        if self._expected is None or payload_format.clock_rate != self._rate or self._decoder is None:
            return
        if payload_format.name in ("telephone-event", "CN"):
            return  # their timestamps do not follow the audio; the next audio packet tells how long the gap was
        per_tick = INPUT_SAMPLE_RATE / self._rate
        gap = int(timestamp_difference(item.timestamp, self._expected) * per_tick) - self._filled
        gap = min(gap, self._credible(now))
        missing = min(gap, num_lost * self._frame)  # the rest of a longer gap is silence that the sender never sent
        if missing <= 0:
            return
        self._silence(gap - missing)
        self._filled = 0
        decoder = self._decoder_of(payload_format)
        missing = self._play_redundant(item.timestamp, missing, redundant)
        if missing > 0:
            frame = min(missing, self._frame)
            recovered = decoder.recover(payload, frame)
            self._conceal(missing - (frame if recovered is not None else 0))
            if recovered is not None:
                self.statistics.recovered_packets += 1
                self.statistics.recovered_samples += len(recovered)
                self._emit_pcm(recovered, 0.0)
        self._expected = item.timestamp

    def _play_redundant(self, timestamp: int, missing: int, redundant: tuple[RedBlock, ...]) -> int:
        """Decode the copies of the last lost packets. Returns the samples that are still missing: 0 when any was found,
        for what lies in front of it has been concealed."""
        per_tick = INPUT_SAMPLE_RATE / self._rate
        usable = [
            b for b in redundant if b.payload and b.payload_type in self._formats and b.offset * per_tick <= missing
        ]
        if not usable:
            return missing
        self._conceal(missing - int(usable[0].offset * per_tick))
        for block in usable:
            try:
                pcm = self._decoder_of(self._formats[block.payload_type]).decode(block.payload)
            except CodecError:
                self.statistics.corrupt += 1
                self._conceal(self._frame)
                continue
            self.statistics.recovered_packets += 1
            self.statistics.recovered_samples += len(pcm)
            if self.on_payload is not None:
                block_timestamp = (timestamp - block.offset) & 0xFFFFFFFF
                self.on_payload(self._formats[block.payload_type], block_timestamp, block.payload)
            self._emit_pcm(pcm, 0.0)
        return 0

    def _conceal(self, samples: int) -> None:
        """What it may have sounded like, then silence."""
        voiced = min(samples, MAX_CONCEAL)
        while voiced > 0 and self._decoder is not None:
            pcm = self._decoder.conceal(min(voiced, FRAME))
            self.statistics.concealed_samples += len(pcm)
            self._emit_pcm(pcm, 0.0)
            voiced -= len(pcm)
            samples -= len(pcm)
        self._silence(samples)

    def _silence(self, samples: int) -> None:
        if samples <= 0:
            return
        skipped = min(samples, self._debt)
        self._debt -= skipped
        self.statistics.skipped_samples += skipped
        samples -= skipped
        self.statistics.filled_samples += samples
        while samples > 0:
            size = min(samples, FRAME)
            self._emit_pcm(_SILENT_FRAME[:size], 0.0)
            samples -= size
