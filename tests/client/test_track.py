"""The outgoing track carries the recording sample for sample and tells when its voice left."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from model.interface import Pcm16
from rtc_server.client.recording import Recording, recording_from_pcm
from rtc_server.client.track import FRAME_SAMPLES, SpeakingTrack
from tests.client.standin import tone


def recording(lead: int, voice_ms: int, tail: int) -> Recording:
    """Silence of `lead` samples, a tone, silence of `tail` samples."""
    return recording_from_pcm(
        "tone", np.concatenate([np.zeros(lead, np.int16), tone(voice_ms), np.zeros(tail, np.int16)])
    )


async def pull(track: SpeakingTrack, frames: int) -> list[tuple[int, Pcm16, float]]:
    """(pts, samples, when it was handed over) of the next frames."""
    loop = asyncio.get_running_loop()
    pulled = []
    for _ in range(frames):
        frame = await track.recv()
        pulled.append((frame.pts or 0, frame.to_ndarray().reshape(-1).astype(np.int16), loop.time()))
    return pulled


async def test_silence_then_the_recording_then_silence_without_a_gap() -> None:
    track = SpeakingTrack()
    before = await pull(track, 2)
    said = recording(100, 50, 77)
    track.say(said)
    after = await pull(track, 6)
    assert [pts for pts, _, _ in before + after] == [FRAME_SAMPLES * i for i in range(8)]
    assert not np.concatenate([pcm for _, pcm, _ in before]).any()
    sent = np.concatenate([pcm for _, pcm, _ in after])
    assert np.array_equal(sent[: len(said.pcm)], said.pcm)
    assert not sent[len(said.pcm) :].any()
    track.stop()


async def test_it_tells_when_the_frames_with_the_first_and_the_last_voiced_sample_left() -> None:
    track = SpeakingTrack()
    spoken = track.say(recording(FRAME_SAMPLES * 2 + 5, 60, FRAME_SAMPLES * 3))
    frames = await pull(track, 10)
    starts = [pts for pts, _, _ in frames]

    def handed_over(sample: int) -> tuple[float, float]:
        """Bounds of the moment at which the frame with that sample was given out."""
        index = max(i for i, start in enumerate(starts) if start <= sample)
        return frames[index - 1][2], frames[index][2]

    for future, sample in (
        (spoken.first_voiced_sent, spoken.recording.first_voiced),
        (spoken.last_voiced_sent, spoken.recording.last_voiced),
    ):
        low, high = handed_over(sample)
        assert low <= future.result() <= high
    assert spoken.finished.done()
    track.stop()


async def test_only_one_recording_is_said_at_a_time() -> None:
    track = SpeakingTrack()
    track.say(recording(0, 50, 0))
    with pytest.raises(ValueError, match="still being said"):
        track.say(recording(0, 50, 0))
    track.stop()


async def test_stopping_tells_whoever_waits_for_the_recording() -> None:
    track = SpeakingTrack()
    spoken = track.say(recording(0, 50, 0))
    track.stop()
    assert spoken.finished.cancelled()
    with pytest.raises(MediaStreamError):
        await track.recv()
    assert track.say(recording(0, 50, 0)).finished.cancelled()
