"""Opus (RFC 6716) straight to and from the rates the server works in.

Decoding gives 16 kHz mono at once. Encoding is CELT by default (restricted low delay: 48 kb/s, complexity 0, 30 us a
frame) and SILK with in-band FEC (24 kb/s, complexity 5, 184 us) where the path is narrow or lossy. By Zimtohrli's score
(5 = the same) CELT is at 4.88, SILK at 4.64; with 5 % lost at 4.48 and, with FEC, 4.50 (benchmarks/audio_quality.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16

from .base import CodecError, Payload
from .libopus import error_text, ffi, library

MAX_PACKET_MS = 120  # RFC 6716 section 3.4, the longest packet
MAX_DECODED = INPUT_SAMPLE_RATE * MAX_PACKET_MS // 1000
MAX_PAYLOAD_BYTES = 1_275  # the longest single frame
CLOCK_RATE = 48_000  # RTP clock, whatever the coded bandwidth (RFC 7587 section 4.1)
FRAME_MS = 20

APPLICATION = {"silk": 2048, "celt": 2051}  # OPUS_APPLICATION_VOIP, _RESTRICTED_LOWDELAY
COMPLEXITY = {"silk": 5, "celt": 0}
SILK_BITRATE = 24_000
MIN_CELT_BITRATE = 32_000  # there CELT scores 4.74; at 24 kb/s both 4.64, and PESQ hears SILK as better (4.35, 3.70)
MIN_BITRATE = 6_000
LOSSY, CALM = 0.03, 0.01  # share lost at which FEC starts to pay, and below which it has stopped
FEC_LOSS_PERCENT = 10  # told to libopus at least: below 6 % it writes no copies at 24 kb/s, whatever FEC is set to
CALM_REPORTS = 10  # about 10 s of receiver reports without loss before CELT comes back

_SET_BITRATE, _SET_COMPLEXITY, _SET_FEC, _SET_LOSS, _SET_DTX = 4002, 4010, 4012, 4014, 4016

OpusMode = Literal["auto", "celt", "silk"]


@dataclass(frozen=True, slots=True)
class OpusOptions:
    """How to encode for one peer."""

    sample_rate: int = 24_000
    """8000, 12000, 16000, 24000 or 48000."""
    mode: OpusMode = "auto"
    bitrate: int = 48_000
    """Of CELT, bits per second; SILK takes at most 24 kb/s of it."""
    use_fec: bool = True
    """The peer decodes in-band FEC."""

    def limited_by(self, parameters: Mapping[str, str]) -> OpusOptions:
        """With what the peer's `a=fmtp` asks for (RFC 7587 section 6.1); values that make no sense are ignored."""
        rate, bitrate = self.sample_rate, self.bitrate
        wanted_rate = _number(parameters.get("maxplaybackrate"))
        if wanted_rate is not None:
            rate = max(
                (r for r in (8_000, 12_000, 16_000, 24_000, 48_000) if r <= min(rate, wanted_rate)), default=8_000
            )
        wanted_bitrate = _number(parameters.get("maxaveragebitrate"))
        if wanted_bitrate is not None:
            bitrate = max(MIN_BITRATE, min(bitrate, wanted_bitrate))
        return OpusOptions(rate, self.mode, bitrate, self.use_fec and parameters.get("useinbandfec") == "1")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 8 else None


class OpusDecoder:
    """An `AudioDecoder`."""

    __slots__ = ("_decode", "_lib", "_pcm", "_samples", "_state")

    def __init__(self) -> None:
        self._lib = library()
        error = ffi.new("int *")
        self._state = ffi.gc(self._lib.opus_decoder_create(INPUT_SAMPLE_RATE, 1, error), self._lib.opus_decoder_destroy)
        if error[0]:
            raise CodecError(f"libopus cannot make a decoder: {error_text(error[0])}.")
        self._decode = self._lib.opus_decode
        self._pcm = ffi.new("int16_t[]", MAX_DECODED)
        self._samples = np.frombuffer(ffi.buffer(self._pcm), np.int16)

    def decode(self, payload: Payload) -> Pcm16:
        """See `AudioDecoder`."""
        data = payload if isinstance(payload, bytes) else bytes(payload)
        count = self._decode(self._state, data, len(data), self._pcm, MAX_DECODED, 0) if data else 0
        if count <= 0:
            raise CodecError("An Opus packet is corrupt.")
        return self._samples[:count].copy()

    def duration(self, payload: Payload) -> int:
        """See `AudioDecoder`."""
        data = bytes(payload)
        count = self._lib.opus_packet_get_nb_samples(data, len(data), INPUT_SAMPLE_RATE) if data else 0
        if count <= 0:
            raise CodecError("An Opus packet is corrupt.")
        return int(count)

    def recover(self, next_payload: Payload, samples: int) -> Pcm16 | None:
        """See `AudioDecoder`."""
        data = bytes(next_payload)
        if not data or self._lib.opus_packet_has_lbrr(data, len(data)) != 1:
            return None
        return self._fill(data, samples, 1)

    def conceal(self, samples: int) -> Pcm16:
        """See `AudioDecoder`."""
        concealed = self._fill(ffi.NULL, samples, 0)
        return np.zeros(samples, np.int16) if concealed is None else concealed

    def close(self) -> None:
        """See `AudioDecoder`."""
        state, self._state = self._state, None
        if state is not None:
            ffi.release(state)

    def _fill(self, data: Any, samples: int, use_fec: int) -> Pcm16 | None:
        """`samples` in whole steps of 2.5 ms, which is what libopus conceals in; None when it cannot."""
        step = INPUT_SAMPLE_RATE // 400
        size = min(max(step, -(-samples // step) * step), MAX_DECODED)
        length = 0 if data is ffi.NULL else len(data)
        count = self._decode(self._state, data, length, self._pcm, size, use_fec)
        if count <= 0:
            return None
        piece = self._samples[: min(count, samples)].copy()
        if len(piece) == samples:
            return piece
        return np.concatenate([piece, np.zeros(samples - len(piece), np.int16)])


class OpusEncoder:
    """An `AudioEncoder`: CELT or SILK, chosen by `OpusOptions.mode`, the bit rate and the loss the peer reports.

    RESTRICTED_LOWDELAY cannot be switched on a running encoder, so there is one of each, made when first needed. The
    change falls between two frames; decoders follow it (RFC 6716 section 4.5)."""

    rtp_clock_rate = CLOCK_RATE
    rtp_frame_ticks = CLOCK_RATE * FRAME_MS // 1000

    def __init__(self, options: OpusOptions = OpusOptions()) -> None:
        self._lib = library()
        self._encode = self._lib.opus_encode
        self._options = options
        self.sample_rate = options.sample_rate
        self.frame_samples = options.sample_rate * FRAME_MS // 1000
        self._out = ffi.new("unsigned char[]", MAX_PAYLOAD_BYTES)
        self._payload = ffi.buffer(self._out)
        self._states: dict[str, Any] = {}
        self._bitrate = options.bitrate
        self._loss = 0.0
        self._calm_reports = 0
        self._is_lossy = False
        self.mode = self._choose()
        self._state = self._make(self.mode)
        self._silence: dict[str, bytes] = {}

    def encode(self, pcm: Pcm16) -> bytes:
        """See `AudioEncoder`. Raises ValueError for a frame of another length."""
        if len(pcm) != self.frame_samples:
            raise ValueError(f"the encoder takes frames of {self.frame_samples} samples, not {len(pcm)}")
        data = ffi.from_buffer("int16_t[]", pcm)
        count = self._encode(self._state, data, self.frame_samples, self._out, MAX_PAYLOAD_BYTES)
        if count < 0:
            raise CodecError(f"libopus cannot encode: {error_text(count)}.")
        return bytes(self._payload[:count])

    def silent_payload(self) -> bytes:
        """See `AudioEncoder`: what an encoder of this mode settles on after half a second of zeros."""
        if self.mode not in self._silence:
            state = self._new_state(self.mode)
            zeros = ffi.new("int16_t[]", self.frame_samples)
            for _ in range(25):
                count = self._encode(state, zeros, self.frame_samples, self._out, MAX_PAYLOAD_BYTES)
            self._silence[self.mode] = bytes(self._payload[:count])
            ffi.release(state)
        return self._silence[self.mode]

    def dtx_payload(self) -> bytes | None:
        """See `AudioEncoder`: the table-of-contents byte alone, a frame without data (RFC 6716 section 3.1)."""
        return self.silent_payload()[:1]

    def report_loss(self, fraction_lost: float) -> None:
        """See `AudioEncoder`."""
        self._loss = 0.7 * self._loss + 0.3 * fraction_lost
        self._calm_reports = self._calm_reports + 1 if self._loss < CALM else 0
        if self._loss >= LOSSY:
            self._is_lossy = True
        elif self._calm_reports >= CALM_REPORTS:
            self._is_lossy = False
        self._switch()
        if self.mode == "silk":
            least = FEC_LOSS_PERCENT if self._is_lossy else 0
            self._control(self._state, _SET_LOSS, min(30, max(least, round(self._loss * 100))))

    def set_max_bitrate(self, bits_per_second: int) -> None:
        """See `AudioEncoder`."""
        self._bitrate = max(MIN_BITRATE, min(self._options.bitrate, bits_per_second))
        self._switch()
        self._control(self._state, _SET_BITRATE, self._bitrate_of(self.mode))

    def close(self) -> None:
        """See `AudioEncoder`."""
        for state in self._states.values():
            ffi.release(state)
        self._states.clear()
        self._state = None

    def _choose(self) -> Literal["celt", "silk"]:
        if self._options.mode != "auto":
            return self._options.mode
        is_narrow = self._bitrate < MIN_CELT_BITRATE
        return "silk" if is_narrow or (self._is_lossy and self._options.use_fec) else "celt"

    def _switch(self) -> None:
        mode = self._choose()
        if mode != self.mode and self._state is not None:
            self.mode = mode
            self._state = self._make(mode)
            self._control(self._state, _SET_BITRATE, self._bitrate_of(mode))  # the limit may have changed meanwhile

    def _make(self, mode: str) -> Any:
        if mode not in self._states:
            self._states[mode] = self._new_state(mode)
        return self._states[mode]

    def _new_state(self, mode: str) -> Any:
        error = ffi.new("int *")
        state = self._lib.opus_encoder_create(self.sample_rate, 1, APPLICATION[mode], error)
        if error[0]:
            raise CodecError(f"libopus cannot make an encoder: {error_text(error[0])}.")
        state = ffi.gc(state, self._lib.opus_encoder_destroy)
        self._control(state, _SET_BITRATE, self._bitrate_of(mode))
        self._control(state, _SET_COMPLEXITY, COMPLEXITY[mode])
        self._control(state, _SET_DTX, 0)  # silence is the sender's business: it skips the encoder altogether
        self._control(state, _SET_FEC, int(mode == "silk" and self._options.use_fec))
        return state

    def _bitrate_of(self, mode: str) -> int:
        return min(self._bitrate, SILK_BITRATE) if mode == "silk" else self._bitrate

    def _control(self, state: Any, request: int, value: int) -> None:
        self._lib.opus_encoder_ctl(state, request, ffi.cast("int32_t", value))
