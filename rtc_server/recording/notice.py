"""The sentence that tells a caller that the call is recorded."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from model.interface import Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.errors import ConfigError

BUNDLED = Path(__file__).resolve().parent / "notice.wav"
"""Two short tones and "This call is being recorded.", spoken by the embedded synthesiser."""
MAX_SECONDS = 30


def read_notice(path: Path) -> tuple[Pcm16, int]:
    """Samples and rate of a WAV file: int16 mono PCM. Raises ConfigError for anything else."""
    try:
        with wave.open(str(path), "rb") as file:
            rate, num_frames = file.getframerate(), file.getnframes()
            if file.getnchannels() != 1 or file.getsampwidth() != 2 or num_frames > MAX_SECONDS * rate:
                raise ConfigError(
                    f"recording.notice_sound = {str(path)!r} must be a WAV file with 16-bit mono PCM of at most "
                    f"{MAX_SECONDS} s."
                )
            return np.frombuffer(file.readframes(num_frames), "<i2").astype(np.int16), rate
    except (OSError, EOFError, wave.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "it is empty"
        raise ConfigError(f"recording.notice_sound = {str(path)!r} cannot be read: {reason}.") from error


class Notice:
    """The sentence in frames of a playout."""

    def __init__(self, pcm: Pcm16, file_rate: int, rate: int) -> None:
        """`pcm` at `file_rate` as `read_notice` gives them, for frames at `rate` Hz."""
        if file_rate != rate:
            resampler = StreamResampler(file_rate, rate)
            pcm = np.concatenate([resampler.resample(pcm), resampler.flush()])
        self._frame = rate // 50
        self._pcm = np.concatenate([pcm, np.zeros(-len(pcm) % self._frame, np.int16)])
        self._position = 0

    def next_frame(self) -> Pcm16 | None:
        """20 ms, or None once it has been said."""
        frame = self._pcm[self._position : self._position + self._frame]
        self._position += self._frame
        return frame if len(frame) else None
