"""What the calls say: recorded speech as Opus packets, and the same with a short tone once a second for the probes."""

from __future__ import annotations

import struct
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.codecs.opus import OpusDecoder, OpusEncoder, OpusOptions

FRAME = INPUT_SAMPLE_RATE // 50
TONE_HZ = 1_000.0
TONE_MS = 60
TONE_EVERY_MS = 1_000
TONE_LEVEL = 9_000
STEP = INPUT_SAMPLE_RATE // 1_000  # tones are looked for in steps of 1 ms
WINDOW = 8 * STEP


def read_wav(path: Path) -> Pcm16:
    """int16 mono 16 kHz. Raises ValueError for anything else."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (INPUT_SAMPLE_RATE, 1, 2):
            raise ValueError(f"{path} must be 16-bit mono at 16 kHz")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def with_tones(pcm: Pcm16) -> Pcm16:
    """Silence around and a tone in the middle of every second, over the speech."""
    out = pcm.copy()
    tone = TONE_LEVEL * np.sin(2 * np.pi * TONE_HZ * np.arange(TONE_MS * STEP) / INPUT_SAMPLE_RATE)
    for start in range(TONE_EVERY_MS * STEP // 2, len(out) - len(tone), TONE_EVERY_MS * STEP):
        out[max(0, start - 100 * STEP) : start + len(tone) + 100 * STEP] = 0
        out[start : start + len(tone)] = tone.astype(np.int16)
    return out


def encode(pcm: Pcm16) -> list[bytes]:
    """20 ms Opus packets, SILK at 24 kb/s: a browser's voice that does not repeat itself, for it hears of no loss."""
    encoder = OpusEncoder(OpusOptions(INPUT_SAMPLE_RATE, "silk", 24_000, use_fec=True))
    packets = [encoder.encode(pcm[i : i + FRAME]) for i in range(0, len(pcm) - FRAME + 1, FRAME)]
    encoder.close()
    return packets


def write_packets(path: Path, packets: Sequence[bytes]) -> None:
    """In the form that the native client reads."""
    body = b"".join(struct.pack("<H", len(packet)) + packet for packet in packets)
    path.write_bytes(struct.pack("<I", len(packets)) + body)


def decode(packets: Sequence[bytes]) -> Pcm16:
    """int16 mono 16 kHz, 20 ms per packet."""
    decoder = OpusDecoder()
    try:
        return np.concatenate([decoder.decode(packet)[:FRAME] for packet in packets])
    finally:
        decoder.close()


def tone_onsets(pcm: Pcm16) -> list[int]:
    """Sample positions where a tone begins: the share of energy at its frequency rises, and stays up for 20 ms."""
    count = (len(pcm) - WINDOW) // STEP
    if count <= 0:
        return []
    phase = np.exp(-2j * np.pi * TONE_HZ * np.arange(WINDOW) / INPUT_SAMPLE_RATE)
    windows = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.float32), WINDOW)[::STEP][:count]
    energy = np.sum(windows**2, axis=1) + 1.0
    at_tone = 2 * np.abs(windows @ phase) ** 2 / WINDOW
    is_tone = (at_tone > 0.6 * energy) & (energy / WINDOW > (TONE_LEVEL / 6) ** 2)
    onsets: list[int] = []
    index = 0
    while index < count - 20:
        if is_tone[index] and is_tone[index : index + 20].mean() > 0.8:
            onsets.append(index * STEP)
            index += TONE_MS + 200
        else:
            index += 1
    return onsets
