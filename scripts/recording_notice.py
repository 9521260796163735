"""Writes `rtc_server/recording/notice.wav`, the sentence that callers of a recorded call hear.

    python -m scripts.recording_notice

Two tones, then the embedded synthesiser. Run it to change the words; equal words give the same file.
"""

from __future__ import annotations

import wave

import numpy as np

from model.backends.cascade.tts import SAMPLE_RATE, Voice
from rtc_server.audio.resample import StreamResampler
from rtc_server.recording.notice import BUNDLED

TEXT = "This call is being recorded."
FILE_RATE = 16_000  # speech needs no more, and the file is half as long as at the synthesiser's rate
TONES_HZ = (880.0, 1_175.0)
TONE_SECONDS, PAUSE_SECONDS = 0.12, 0.15
TONE_PEAK = 6_000
VOICE, SEED = "heart", 1


def main() -> None:
    """Write the file."""
    time = np.arange(int(TONE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = np.minimum(1.0, np.minimum(time, TONE_SECONDS - time) / 0.01)
    tones = [(TONE_PEAK * envelope * np.sin(2 * np.pi * hz * time)).astype(np.int16) for hz in TONES_HZ]
    pause = np.zeros(int(PAUSE_SECONDS * SAMPLE_RATE), np.int16)
    speech = Voice(VOICE).synthesize(TEXT, None, SEED).pcm
    resampler = StreamResampler(SAMPLE_RATE, FILE_RATE)
    pcm = np.concatenate([resampler.resample(np.concatenate([*tones, pause, speech, pause])), resampler.flush()])
    with wave.open(str(BUNDLED), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(FILE_RATE)
        file.writeframes(pcm.astype("<i2").tobytes())


if __name__ == "__main__":
    main()
