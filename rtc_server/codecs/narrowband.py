"""G.711 (PCMU, PCMA) and G.722, the codecs of telephones, through FFmpeg (PyAV)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from av import AudioFrame, Packet
from av.audio.codeccontext import AudioCodecContext
from av.codec import CodecContext
from av.error import FFmpegError

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.audio.resample import StreamResampler

from .base import CodecError, Payload

FFMPEG_NAMES = {"PCMU": "pcm_mulaw", "PCMA": "pcm_alaw", "G722": "g722"}
SAMPLE_RATES = {"PCMU": 8_000, "PCMA": 8_000, "G722": 16_000}  # G.722's RTP clock says 8000, by an old mistake
BYTES_PER_MS = 8  # all three: 64 kb/s
MAX_PAYLOAD_MS = 120
FADE_FRAMES = 3  # a lost stretch repeats the last frame, quieter each time, and is silent after this many
FRAME_MS = 20


def _context(name: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    context = CodecContext.create(FFMPEG_NAMES[name], mode)
    assert isinstance(context, AudioCodecContext)
    context.sample_rate = SAMPLE_RATES[name]
    context.layout = "mono"
    context.format = "s16"
    return context


class NarrowbandDecoder:
    """An `AudioDecoder` for `name`: "PCMU", "PCMA" or "G722"."""

    def __init__(self, name: str) -> None:
        self._context = _context(name, "r")
        self._resampler = StreamResampler(SAMPLE_RATES[name], INPUT_SAMPLE_RATE)
        self._last = np.zeros(INPUT_SAMPLE_RATE * FRAME_MS // 1000, np.int16)
        self._carry = np.zeros(0, np.int16)
        self._concealed = 0

    def decode(self, payload: Payload) -> Pcm16:
        """See `AudioDecoder`."""
        samples = self.duration(payload)
        try:
            frames = self._context.decode(Packet(bytes(payload)))
        except FFmpegError as error:
            raise CodecError("A telephone audio packet is corrupt.") from error
        pieces = [np.asarray(frame.to_ndarray(), np.int16).reshape(-1) for frame in frames]
        pcm = np.concatenate([self._carry, *(self._resampler.resample(piece) for piece in pieces)])
        if len(pcm) < samples:  # the resampler keeps a millisecond back, once
            pcm = np.concatenate([np.zeros(samples - len(pcm), np.int16), pcm])
        pcm, self._carry = pcm[:samples], pcm[samples:]
        self._last, self._concealed = pcm, 0
        return pcm

    def duration(self, payload: Payload) -> int:
        """See `AudioDecoder`."""
        if not 0 < len(payload) <= MAX_PAYLOAD_MS * BYTES_PER_MS:
            raise CodecError(f"A telephone audio packet has {len(payload)} bytes.")
        return len(payload) * INPUT_SAMPLE_RATE // (BYTES_PER_MS * 1000)

    def recover(self, next_payload: Payload, samples: int) -> Pcm16 | None:
        """See `AudioDecoder`: these codecs carry no redundancy."""
        return None

    def conceal(self, samples: int) -> Pcm16:
        """See `AudioDecoder`."""
        self._concealed += 1
        gain = max(0.0, 1.0 - self._concealed / (FADE_FRAMES + 1))
        repeated: Pcm16 = (np.resize(self._last, samples) * gain).astype(np.int16)
        return repeated

    def close(self) -> None:
        """See `AudioDecoder`: FFmpeg frees its own."""


class NarrowbandEncoder:
    """An `AudioEncoder` for `name`: "PCMU", "PCMA" or "G722"."""

    rtp_clock_rate = 8_000
    rtp_frame_ticks = 160

    def __init__(self, name: str) -> None:
        self._name = name
        self._context = _context(name, "w")
        self.sample_rate = SAMPLE_RATES[name]
        self.frame_samples = self.sample_rate * FRAME_MS // 1000

    def encode(self, pcm: Pcm16) -> bytes:
        """See `AudioEncoder`. Raises ValueError for a frame of another length."""
        if len(pcm) != self.frame_samples:
            raise ValueError(f"the encoder takes frames of {self.frame_samples} samples, not {len(pcm)}")
        return self._encode(self._context, pcm)

    def silent_payload(self) -> bytes:
        """See `AudioEncoder`."""
        silence = np.zeros(self.frame_samples, np.int16)
        context = _context(self._name, "w")
        payload = b""
        for _ in range(5):  # G.722 adapts; the others settle at once
            payload = self._encode(context, silence)
        return payload

    def dtx_payload(self) -> bytes | None:
        """See `AudioEncoder`: comfort noise is a payload type of its own, so there is none."""
        return None

    def report_loss(self, fraction_lost: float) -> None:
        """See `AudioEncoder`: nothing can be adapted."""

    def set_max_bitrate(self, bits_per_second: int) -> None:
        """See `AudioEncoder`: the rate is fixed."""

    def close(self) -> None:
        """See `AudioEncoder`."""

    def _encode(self, context: AudioCodecContext, pcm: Pcm16) -> bytes:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(pcm).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self.sample_rate
        return b"".join(bytes(packet) for packet in context.encode(frame))
