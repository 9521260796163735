"""Recordings on disk: WAV files of any rate in, 48 kHz mono out, and the WAV that a call leaves behind."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av import AudioFrame, AudioResampler
from av.audio.stream import AudioStream

from model.interface import Pcm16

from .errors import RecordingError
from .listener import VOICED_DBFS, voice_bounds

SAMPLE_RATE = 48_000  # Opus' own rate; any other costs the encoder a resampler
MAX_SECONDS = 600  # a recording is held in memory: 58 MB
GAP_SECONDS = 0.5  # between two replies in the saved file


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Something to say: int16 mono at 48 kHz, and where its voice begins and ends."""

    name: str
    pcm: Pcm16
    first_voiced: int
    """The first voiced sample (see `listener`)."""
    last_voiced: int
    """The last voiced sample."""

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE


def load_recording(path: Path) -> Recording:
    """Read a recording: WAV or any other audio file, any rate, any channels (mixed to mono).

    Raises RecordingError when it cannot be read, is longer than ten minutes, or holds no voice."""
    try:
        pcm = _decode(path)
    except (OSError, av.FFmpegError) as error:
        reason = error.strerror or str(error)
        raise RecordingError(f"{path} cannot be read as audio: {reason}.") from error
    return recording_from_pcm(path.name, pcm)


def recording_from_pcm(name: str, pcm: Pcm16) -> Recording:
    """A recording from int16 mono PCM at 48 kHz. Raises RecordingError when it holds no voice."""
    bounds = voice_bounds(pcm, SAMPLE_RATE)
    if bounds is None:
        raise RecordingError(f"{name} holds nothing louder than {VOICED_DBFS:.0f} dBFS; there is nothing to say.")
    return Recording(name, pcm, *bounds)


def save_replies(path: Path, replies: Sequence[Pcm16], sample_rate: int) -> None:
    """Write the replies one after the other, half a second of silence between them: 16-bit mono WAV.

    Raises RecordingError when the file cannot be written."""
    gap = np.zeros(int(sample_rate * GAP_SECONDS), np.int16)
    pieces = [piece for reply in replies for piece in (reply, gap)][:-1]
    try:
        with path.open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes(b"".join(piece.astype("<i2").tobytes() for piece in pieces))
    except OSError as error:
        raise RecordingError(f"{path} cannot be written: {error.strerror or error}.") from error


def _decode(path: Path) -> Pcm16:
    resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    pieces: list[Pcm16] = []
    samples = 0
    with av.open(str(path)) as container:
        stream = next((s for s in container.streams if isinstance(s, AudioStream)), None)
        if stream is None:
            raise RecordingError(f"{path} has no audio in it.")
        for frame in container.decode(stream):
            assert isinstance(frame, AudioFrame)
            converted = _converted(resampler, frame)
            pieces += converted
            samples += sum(map(len, converted))
            if samples > MAX_SECONDS * SAMPLE_RATE:
                raise RecordingError(f"{path} is longer than {MAX_SECONDS // 60} minutes.")
        pieces += _converted(resampler, None)
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def _converted(resampler: AudioResampler, frame: AudioFrame | None) -> list[Pcm16]:
    return [converted.to_ndarray().reshape(-1).astype(np.int16, copy=False) for converted in resampler.resample(frame)]
