"""G.711 (PCMU, PCMA) as plain bytes: one byte per sample, no state, no packets. Pure.

The tables come from FFmpeg, so that a byte means the same here as in a call over RTP (`narrowband`)."""

from __future__ import annotations

from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from av import AudioFrame, Packet
from av.audio.codeccontext import AudioCodecContext
from av.codec import CodecContext
from numpy.typing import NDArray

from model.interface import Pcm16

Law: TypeAlias = Literal["PCMU", "PCMA"]

SAMPLE_RATE = 8_000
FFMPEG_NAMES = {"PCMU": "pcm_mulaw", "PCMA": "pcm_alaw"}


def decode(law: Law, data: bytes) -> Pcm16:
    """int16 mono at 8 kHz, one sample per byte."""
    decoded: Pcm16 = _decoding(law)[np.frombuffer(data, np.uint8)]
    return decoded


def encode(law: Law, pcm: Pcm16) -> bytes:
    """One byte per sample of int16 mono at 8 kHz."""
    return _encoding(law)[pcm.view(np.uint16)].tobytes()


@cache
def _decoding(law: Law) -> Pcm16:
    """[256] samples: what each byte means."""
    frames = _context(law, "r").decode(Packet(bytes(range(256))))
    return np.concatenate([np.asarray(frame.to_ndarray(), np.int16).reshape(-1) for frame in frames])


@cache
def _encoding(law: Law) -> NDArray[np.uint8]:
    """[65536] bytes, by the sample's bits as an unsigned number."""
    samples = np.arange(65_536).astype(np.uint16).view(np.int16)
    frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    return np.frombuffer(b"".join(bytes(packet) for packet in _context(law, "w").encode(frame)), np.uint8)


def _context(law: Law, mode: Literal["r", "w"]) -> AudioCodecContext:
    context = CodecContext.create(FFMPEG_NAMES[law], mode)
    assert isinstance(context, AudioCodecContext)
    context.sample_rate = SAMPLE_RATE
    context.layout = "mono"
    context.format = "s16"
    return context
