"""One direction of a call on the recording's clock: what came is kept as it is, what did not come is filled. Pure.

Zero is the moment the recording began, the same for both directions, so that a question stands before its answer.
Within a stretch of speech the sender's timestamps place each packet, however late it came; where they contradict the
clock (another source, a restart, a lie), the clock wins.
"""

from __future__ import annotations

import struct
from typing import Protocol

from . import opus_packets
from .ogg import OpusStream

MAX_BEHIND_SECONDS = 5.0  # a burst after a stall of the network is older than the moment it arrives by as much
MAX_SURPLUS_SECONDS = 2.0  # sound beyond the clock: a peer that says more than time allows is cut off
DTX_BYTES = 2  # an Opus payload this short is comfort noise (RFC 7587 section 3.1.3)
CONCEALED_FRAMES = 25  # 500 ms, as `rtp.receiver`
PCM_SLACK_SECONDS = 0.1  # samples without timestamps are one stretch until the clock is ahead by this

PCMU_SILENCE, PCMA_SILENCE = b"\xff", b"\xd5"
_WAV_TAGS = {"PCM": (1, 2, b"\0\0"), "PCMA": (6, 1, PCMA_SILENCE), "PCMU": (7, 1, PCMU_SILENCE)}
WAV_HEADER_BYTES = 58
UNKNOWN_SIZE = 0xFFFFFFFF  # of a WAV that is still being written: readers then take what there is


class Track(Protocol):
    """Every method returns the bytes to append to the file. `at`: seconds since the recording began."""

    suffix: str

    def add(self, payload: bytes, timestamp: int | None, at: float) -> bytes:
        """The next payload in order; `timestamp` in the codec's ticks, None for samples that are counted."""

    def finish(self, at: float) -> bytes:
        """The end of the recording: filled up to it, so that both directions are equally long."""


class Timeline:
    """Where payloads lie, in samples since the recording began."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._anchor: tuple[int, int] | None = None  # (timestamp, position)

    def place(self, timestamp: int, at: float) -> int:
        """The position of a payload that came at `at`. It may lie inside what is there already: then it follows that,
        and the next pause makes up for it."""
        clock = round(at * self._rate)
        if self._anchor is not None:
            origin, start = self._anchor
            position = start + ((timestamp - origin + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            # Nothing comes before it is sent: ahead of the clock means that an earlier packet was late, by so much.
            if clock - MAX_BEHIND_SECONDS * self._rate <= position <= clock:
                self._anchor = (timestamp, position)  # moves along, so that timestamps may wrap
                return position
        self._anchor = (timestamp, clock)
        return clock


class OpusTrack:
    """A `Track`: Ogg Opus."""

    suffix = ".opus"

    def __init__(self, serial: int, comments: dict[str, str]) -> None:
        self._serial = serial
        self._comments = comments
        self._stream: OpusStream | None = None
        self._timeline = Timeline(opus_packets.SAMPLE_RATE)
        self._previous: bytes | None = None
        self._end = 0

    def add(self, payload: bytes, timestamp: int | None, at: float) -> bytes:
        samples = opus_packets.duration(payload)
        surplus = self._end - at * opus_packets.SAMPLE_RATE
        if samples is None or timestamp is None or surplus > MAX_SURPLUS_SECONDS * opus_packets.SAMPLE_RATE:
            return b""
        written = self._begin(channels=2 if opus_packets.is_stereo(payload) else 1)
        written += self._fill(self._timeline.place(timestamp, at))
        self._previous = payload
        return written + self._add(payload, samples)

    def finish(self, at: float) -> bytes:
        written = self._begin(channels=1)
        written += self._fill(round(at * opus_packets.SAMPLE_RATE))
        if not self._end:
            written += self._add(opus_packets.SILENCE, opus_packets.FRAME)
        return written + self._open_stream.finish()

    @property
    def _open_stream(self) -> OpusStream:
        assert self._stream is not None, "begun by whoever adds"
        return self._stream

    def _begin(self, channels: int) -> bytes:
        if self._stream is not None:
            return b""
        self._stream = OpusStream(self._serial, channels, self._comments)
        return self._stream.begin()

    def _fill(self, position: int) -> bytes:
        """Whole frames up to about `position`; what is left of one counts in the next gap.

        A pause that the sender announced sounds as its last packet does. A loss is concealed for as long as a listener
        would conceal it, then it is silence: libopus goes on with noise as loud as a steady sound was."""
        count = max(0, position - self._end + opus_packets.FRAME // 2) // opus_packets.FRAME
        is_pause = self._previous is not None and len(self._previous) <= DTX_BYTES
        concealed = count if is_pause else min(count, CONCEALED_FRAMES)
        packets = [opus_packets.filler(self._previous)] * concealed + [opus_packets.SILENCE] * (count - concealed)
        return b"".join(self._add(packet, opus_packets.FRAME) for packet in packets)

    def _add(self, packet: bytes, samples: int) -> bytes:
        self._end += samples
        return self._open_stream.add(packet, samples)


class WavTrack:
    """A `Track`: G.711 as it came, or samples (int16 little-endian mono)."""

    suffix = ".wav"

    def __init__(self, coding: str, rate: int) -> None:
        """`coding`: "PCMU", "PCMA" or "PCM"; `rate` in Hz."""
        self._tag, self._sample_bytes, self._silence = _WAV_TAGS[coding]
        self._rate = rate
        self._timeline = Timeline(rate)
        self._end = 0  # samples
        self._has_begun = False

    def add(self, payload: bytes, timestamp: int | None, at: float) -> bytes:
        if self._end - at * self._rate > MAX_SURPLUS_SECONDS * self._rate and timestamp is not None:
            return b""
        if timestamp is not None:
            position = self._timeline.place(timestamp, at)
        else:
            ahead = int(at * self._rate) - len(payload) // self._sample_bytes
            position = ahead if ahead - self._end > PCM_SLACK_SECONDS * self._rate else self._end
        written = self._begin() + self._fill(position)
        self._end += len(payload) // self._sample_bytes
        return written + payload

    def finish(self, at: float) -> bytes:
        return self._begin() + self._fill(int(at * self._rate))

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        return wav_header(self._tag, self._rate, self._sample_bytes, None)

    def _fill(self, position: int) -> bytes:
        missing = max(0, position - self._end)
        self._end += missing
        return self._silence * missing


def wav_header(tag: int, rate: int, sample_bytes: int, data_bytes: int | None) -> bytes:
    """RIFF, `fmt `, `fact` and the start of `data`, for mono; None = the length is not known yet."""
    is_known = data_bytes is not None and data_bytes <= UNKNOWN_SIZE - WAV_HEADER_BYTES
    size = data_bytes if is_known and data_bytes is not None else None
    riff = UNKNOWN_SIZE if size is None else WAV_HEADER_BYTES - 8 + size
    samples = UNKNOWN_SIZE if size is None else size // sample_bytes
    form = struct.pack("<HHIIHHH", tag, 1, rate, rate * sample_bytes, sample_bytes, 8 * sample_bytes, 0)
    parts = struct.pack("<4sI4s4sI", b"RIFF", riff, b"WAVE", b"fmt ", len(form)) + form
    parts += struct.pack("<4sII", b"fact", 4, samples)
    return parts + struct.pack("<4sI", b"data", UNKNOWN_SIZE if size is None else size)


def with_known_size(header: bytes, file_bytes: int) -> bytes:
    """The header of a WAV that has `file_bytes` now."""
    tag, _, rate, _, sample_bytes = struct.unpack_from("<HHIIH", header, 20)
    return wav_header(tag, rate, sample_bytes, max(0, file_bytes - WAV_HEADER_BYTES))


def create_track(coding: str | None, rate: int, serial: int, comments: dict[str, str]) -> Track:
    """The track of a direction whose payloads are "opus", "PCMU" or "PCMA"; None = samples at `rate` Hz."""
    if coding == "opus":
        return OpusTrack(serial, comments)
    return WavTrack(coding or "PCM", 8_000 if coding else rate)
