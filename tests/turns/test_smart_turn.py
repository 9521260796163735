"""The turn model hears what its authors' own code hears: features and answers, to the last digit that matters.

`tests/data/turns/smart_turn_reference.npz` was computed with the feature extractor in the wheel that the weights come
from: every 16th frame of the features, their mean, and the model's answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.interface import Pcm16
from model.weights import SMART_TURN, default_models_dir
from rtc_server.turns.smart_turn import NUM_MELS, WINDOW, SmartTurn, log_mel
from tests.support.recordings import RECORDINGS, pink_noise, recording, silence, to_pcm, voiced_range

REFERENCE = np.load(Path(__file__).parent.parent / "data" / "turns" / "smart_turn_reference.npz")
INPUTS = {
    "short": lambda: recording("f2_rms"),  # padded on the left
    "long": lambda: np.concatenate([recording("librivox_0870"), recording("librivox_0890")]),  # the last 8 s of 12
    "silent": lambda: silence(500),
}


@pytest.fixture(scope="module")
def model() -> SmartTurn:
    path = default_models_dir() / SMART_TURN
    if not path.exists():
        pytest.skip("the turn model is missing; run `rtc-server models fetch`")
    return SmartTurn(path)


@pytest.mark.parametrize("name", INPUTS)
def test_features_are_those_of_the_reference(name: str) -> None:
    features = log_mel(INPUTS[name]())
    assert features.shape == (NUM_MELS, 800)
    assert features.dtype == np.float32
    assert np.abs(features[:, ::16] - REFERENCE[f"{name}_bands"]).max() < 1e-5
    assert float(features.mean(dtype=np.float64)) == pytest.approx(float(REFERENCE[f"{name}_mean"]), abs=1e-6)


@pytest.mark.parametrize("name", INPUTS)
def test_answers_are_those_of_the_reference(name: str, model: SmartTurn) -> None:
    # Kernels round differently from machine to machine, and the weights are 8 bits wide.
    assert model(INPUTS[name]()) == pytest.approx(float(REFERENCE[f"{name}_probability"]), abs=0.05)


def test_only_the_last_eight_seconds_count() -> None:
    pcm: Pcm16 = np.random.default_rng(1).integers(-9_000, 9_000, WINDOW + 5_000).astype(np.int16)
    assert np.array_equal(log_mel(pcm), log_mel(pcm[-WINDOW:]))


def test_no_audio_at_all_is_eight_seconds_of_silence() -> None:
    assert np.array_equal(log_mel(silence(0)), log_mel(silence(8_000)))


def test_whole_utterances_sound_more_complete_than_their_beginnings(model: SmartTurn) -> None:
    """On the whole: single answers are as often wrong as docs/experiments.md says."""
    whole, begun = [], []
    for name in RECORDINGS:
        start, end = voiced_range(recording(name))
        room = to_pcm(pink_noise(WINDOW, 8.0))
        for stop, answers in ((end, whole), (start + (end - start) * 2 // 5, begun)):
            pcm = np.concatenate([silence(300), recording(name)[start:stop], silence(150)])
            answers.append(model(pcm + room[: len(pcm)]))
    assert np.median(whole) > 0.7
    assert np.mean(whole) > np.mean(begun) + 0.2
