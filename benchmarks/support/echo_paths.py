"""What a microphone picks up of a loudspeaker: codecs, a loudspeaker that distorts, a room, a delay; and noises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.codecs import g711
from rtc_server.codecs.opus import OpusDecoder, OpusEncoder

Codec = Literal["none", "pcmu", "opus"]
Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EchoPath:
    """From a frame that leaves the server to the microphone of its caller, and back to the server."""

    gain_db: float = -15.0
    """Of the echo at the microphone, against what was sent."""
    delay_ms: int = 150
    """Networks, jitter buffer and sound card, both ways; the room and the codecs come on top."""
    codec: Codec = "opus"
    rt60_seconds: float = 0.3
    """Of the room; 0 = none."""
    direct_db: float = 3.0
    """Direct sound above the reverberation."""
    distortion: float = 0.0
    """Drive of a soft clipping loudspeaker: 0 = linear, 1 = a small one at full volume."""

    @property
    def name(self) -> str:
        parts = f"{self.gain_db:.0f} dB, {self.delay_ms} ms, {self.codec}, RT60 {self.rt60_seconds} s"
        return parts + (", distorting loudspeaker" if self.distortion else "")


def through_codec(pcm: Pcm16, codec: Codec) -> Pcm16:
    """int16 16 kHz -> the same after coding and decoding, same length, at most 10 ms late."""
    if codec == "none":
        return pcm
    rate = 8_000 if codec == "pcmu" else 48_000
    down, up = StreamResampler(INPUT_SAMPLE_RATE, rate), StreamResampler(rate, INPUT_SAMPLE_RATE)
    coded = np.concatenate([down.resample(pcm), down.flush()])
    if codec == "pcmu":
        heard = np.concatenate([up.resample(g711.decode("PCMU", g711.encode("PCMU", coded))), up.flush()])
    else:
        heard = _through_opus(coded)
    return np.concatenate([heard, np.zeros(max(0, len(pcm) - len(heard)), np.int16)])[: len(pcm)]


def _through_opus(wide: Pcm16) -> Pcm16:
    encoder, decoder = OpusEncoder(), OpusDecoder()
    to_encoder = StreamResampler(48_000, encoder.sample_rate)
    coded = np.concatenate([to_encoder.resample(wide), to_encoder.flush()])
    size = encoder.frame_samples
    try:
        pieces = [decoder.decode(encoder.encode(coded[at : at + size])) for at in range(0, len(coded) - size + 1, size)]
    finally:
        encoder.close()
        decoder.close()
    return np.concatenate(pieces)


def room(rt60_seconds: float, direct_db: float, seed: int = 0) -> Samples:
    """Impulse response at 16 kHz: direct sound 1.0, then decaying noise that is `direct_db` weaker in all."""
    if not rt60_seconds:
        return np.ones(1)
    t = np.arange(int(rt60_seconds * INPUT_SAMPLE_RATE)) / INPUT_SAMPLE_RATE
    response = np.random.default_rng(seed).standard_normal(len(t)) * 10 ** (-3 * t / rt60_seconds)
    response[:16] = 0
    response *= 10 ** (-direct_db / 20) / np.sqrt((response**2).sum())
    response[0] = 1
    return np.asarray(response)


def echo_of(sent: Pcm16, path: EchoPath) -> Samples:
    """What the microphone picks up of `sent`, int16 units, same length."""
    heard = through_codec(sent, path.codec).astype(np.float64)
    if path.distortion:
        drive = path.distortion * 4 / np.percentile(np.abs(heard), 99.5)
        heard = np.tanh(heard * drive) + 0.2 * np.tanh(heard * drive) ** 2  # uneven: an enclosure, not only a limit
        heard -= heard.mean()
    response = room(path.rt60_seconds, path.direct_db)
    size = len(heard) + len(response)
    back = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(response, size), size)[: len(heard)]
    back *= 10 ** (path.gain_db / 20) * level(sent) / max(1e-9, level(back))
    return np.concatenate([np.zeros(path.delay_ms * INPUT_SAMPLE_RATE // 1_000), back])[: len(sent)]


def level(samples: NDArray[np.generic]) -> float:
    """Root mean square."""
    return float(np.sqrt((samples.astype(np.float64) ** 2).mean()))


def to_pcm(samples: Samples) -> Pcm16:
    """Clipped to int16."""
    return np.clip(np.round(samples), -32_768, 32_767).astype(np.int16)


def white(count: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).standard_normal(count)


def car(count: int, seed: int = 0) -> Samples:
    """Rumble: falls by 12 dB per octave above 100 Hz, with a steady engine note and its harmonics."""
    spectrum = np.fft.rfft(white(count, seed))
    frequency = np.fft.rfftfreq(count, 1 / INPUT_SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / (1 + (frequency / 100) ** 2), count)
    t = np.arange(count) / INPUT_SAMPLE_RATE
    engine = sum(np.sin(2 * np.pi * 43 * n * t + n) / n for n in range(1, 8))
    return np.asarray(noise / level(noise) + 0.5 * engine / level(np.asarray(engine)))


def babble(voices: Sequence[Pcm16], count: int, seed: int = 0) -> Samples:
    """All of `voices` at once, each from a place of its own, over and over."""
    random = np.random.default_rng(seed)
    mixed = np.zeros(count)
    for voice in voices:
        unit = voice / level(voice)
        mixed += np.roll(np.resize(unit, count), int(random.integers(count)))
    return mixed / level(mixed)


def at_snr(speech: Pcm16, noise: Samples, snr_db: float) -> Pcm16:
    """`noise` under `speech`, both as long; the ratio is of their levels over the whole length."""
    return to_pcm(speech + noise * (level(speech) / level(noise) * 10 ** (-snr_db / 20)))
