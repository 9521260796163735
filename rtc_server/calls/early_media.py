"""What a caller hears before the call is accepted: a ringing tone, or a sentence of the operator's."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.interface import Pcm16
from rtc_server.audio.pcm import FRAME_MS
from rtc_server.audio.resample import StreamResampler
from rtc_server.errors import ConfigError

RINGBACK = "ringback"
MAX_SECONDS = 60
RING_HZ, RING_SECONDS, PAUSE_SECONDS = 425, 1.0, 4.0  # ETSI TR 101 041-2: what most of Europe hears
RING_LEVEL = 0.1  # of full scale: -20 dBFS
FADE_SECONDS = 0.005  # so that the tone does not click


@dataclass(frozen=True, slots=True)
class EarlyMedia:
    """Sound of one call, or of all."""

    pcm: Pcm16
    """int16 mono [samples] at `rate` Hz."""
    rate: int
    repeats: bool


def read_early_media(setting: str) -> EarlyMedia | None:
    """`sip.early_media`: None for "". Raises ConfigError for a file that cannot be used."""
    if not setting:
        return None
    if setting == RINGBACK:
        return EarlyMedia(_ringback(8_000), 8_000, repeats=True)
    try:
        with wave.open(str(Path(setting).expanduser()), "rb") as file:
            rate, num_frames = file.getframerate(), file.getnframes()
            if file.getnchannels() != 1 or file.getsampwidth() != 2 or not 0 < num_frames <= MAX_SECONDS * rate:
                raise ConfigError(
                    f"sip.early_media = {setting!r} must be a WAV file with 16-bit mono PCM of at most {MAX_SECONDS} s."
                )
            return EarlyMedia(np.frombuffer(file.readframes(num_frames), "<i2").astype(np.int16), rate, repeats=False)
    except (OSError, EOFError, wave.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "it is empty"
        raise ConfigError(f"sip.early_media = {setting!r} cannot be read: {reason}.") from error


class EarlyMediaPlayer:
    """The sound in frames of one call's playout."""

    def __init__(self, media: EarlyMedia, rate: int) -> None:
        """For frames at `rate` Hz."""
        pcm = media.pcm
        if media.rate != rate:
            resampler = StreamResampler(media.rate, rate)
            pcm = np.concatenate([resampler.resample(pcm), resampler.flush()])
        frame = rate * FRAME_MS // 1_000
        self._frames = np.concatenate([pcm, np.zeros(-len(pcm) % frame, np.int16)]).reshape(-1, frame)
        self._repeats = media.repeats
        self._next = 0

    def next_frame(self) -> Pcm16 | None:
        """20 ms; None once a sound that does not repeat is over."""
        if self._next >= len(self._frames):
            if not self._repeats:
                return None
            self._next = 0
        self._next += 1
        pcm: Pcm16 = self._frames[self._next - 1]
        return pcm


def _ringback(rate: int) -> Pcm16:
    times = np.arange(int(RING_SECONDS * rate)) / rate
    fade = np.clip(np.minimum(times, times[::-1]) / FADE_SECONDS, 0.0, 1.0)
    tone = np.sin(2 * np.pi * RING_HZ * times) * fade * RING_LEVEL * 32_767
    return np.concatenate([tone.astype(np.int16), np.zeros(int(PAUSE_SECONDS * rate), np.int16)])
