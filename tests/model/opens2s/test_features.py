"""The front end: against transformers' own, and the laws of a stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.opens2s.features import LogMelConfig, LogMelStream, mel_filters
from tests.support.opens2s_conversations import log_mel

CONFIG = LogMelConfig(chunk_length=1)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 3_000).astype(np.int16)


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    """But for the last bit, in which a matrix product may depend on how many rows it has."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_the_mel_filters_are_those_of_transformers() -> None:
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(201, 128, 0.0, 8_000.0, 16_000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(LogMelConfig()), theirs, atol=1e-8)


@pytest.mark.parametrize("samples", [1, 199, 200, 201, 8_000, 15_960, 15_999, 16_000, 16_001, 40_000])
def test_any_length_gives_what_transformers_front_end_gives(samples: int) -> None:
    from transformers import WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(feature_size=128, chunk_length=1)
    audio = noise(samples).astype(np.float32) / 32_768
    total = -(-samples // 16_000) * 16_000
    expected = theirs(
        audio, sampling_rate=16_000, padding="max_length", max_length=total, truncation=False, return_tensors="np"
    )["input_features"][0]
    np.testing.assert_allclose(log_mel(noise(samples), CONFIG).features, expected, atol=2e-4)


@given(st.lists(st.integers(1, 4_000), min_size=1, max_size=12), st.integers(0, 3))
def test_pieces_give_what_the_whole_gives(sizes: list[int], seed: int) -> None:
    pcm = noise(sum(sizes), seed)
    stream = LogMelStream(CONFIG)
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        stream.push(pcm[start : start + size])
    same(stream.features().features, log_mel(pcm, CONFIG).features)


def test_asking_in_a_pause_does_not_disturb_what_comes_after() -> None:
    pcm = noise(20_000)
    stream = LogMelStream(CONFIG)
    stream.push(pcm[:7_123])
    same(stream.features().features, log_mel(pcm[:7_123], CONFIG).features)
    stream.push(pcm[7_123:])
    same(stream.features().features, log_mel(pcm, CONFIG).features)


def test_at_the_end_only_the_tail_is_left_to_compute() -> None:
    stream = LogMelStream(LogMelConfig())
    stream.push(noise(16_000 * 20))
    computed: list[int] = []
    compute = stream._compute

    def counted(first: int, last: int, num_samples: int, end: int) -> np.ndarray:
        computed.append(last - first)
        return compute(first, last, num_samples, end)

    stream._compute = counted  # type: ignore[method-assign]
    stream.features()
    assert sum(computed) <= 4  # of 2,000 frames


def test_no_audio_is_refused() -> None:
    with pytest.raises(ValueError, match="no audio"):
        LogMelStream(CONFIG).features()
