"""Recordings of any rate become 48 kHz mono; what cannot be said is refused in one sentence."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from rtc_server.client.errors import RecordingError
from rtc_server.client.hearing import HEARD_RATE
from rtc_server.client.recording import SAMPLE_RATE, load_recording, save_replies
from tests.client.standin import tone


def write_wav(path: Path, rate: int, channels: int = 1, seconds: float = 0.5, level: float = 0.3) -> Path:
    time = np.arange(int(rate * seconds)) / rate
    mono = np.round(np.sin(2 * np.pi * 300 * time) * level * 32_767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(mono, channels).tobytes())
    return path


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 1), (22_050, 2), (44_100, 2), (48_000, 1)])
def test_any_rate_and_any_channels_become_48_khz_mono(tmp_path: Path, rate: int, channels: int) -> None:
    recording = load_recording(write_wav(tmp_path / "a.wav", rate, channels))
    assert recording.pcm.dtype == np.int16
    assert recording.seconds == pytest.approx(0.5, abs=0.002)
    assert recording.first_voiced < SAMPLE_RATE * 0.01
    assert recording.last_voiced > SAMPLE_RATE * 0.49


def test_the_committed_recordings_have_voice_inside_silence() -> None:
    recording = load_recording(Path("tests/data/speech/f0_rms.wav"))
    assert 0.1 < recording.first_voiced / SAMPLE_RATE < 0.3
    assert 0.1 < recording.seconds - recording.last_voiced / SAMPLE_RATE < 0.3


def test_a_file_that_is_not_audio_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.wav"
    path.write_text("not audio at all")
    with pytest.raises(RecordingError, match=r"text\.wav cannot be read as audio: .+\."):
        load_recording(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"none\.wav cannot be read as audio"):
        load_recording(tmp_path / "none.wav")


def test_a_silent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="nothing louder than -45 dBFS"):
        load_recording(write_wav(tmp_path / "quiet.wav", 16_000, level=0.001))


def test_replies_are_saved_with_half_a_second_between_them(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    save_replies(path, [tone(200), tone(300)], HEARD_RATE)
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (HEARD_RATE, 1, 2)
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(pcm) == len(tone(200)) + len(tone(300)) + HEARD_RATE // 2
    assert not pcm[len(tone(200)) : len(tone(200)) + HEARD_RATE // 2].any()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        save_replies(tmp_path / "no" / "out.wav", [tone(200)], HEARD_RATE)
