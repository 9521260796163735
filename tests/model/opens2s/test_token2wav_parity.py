"""Tokens to sound, whole and in the reference's pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.decoder.chunks import ReferenceOverlap
from model.decoder.decoder import Decoder
from model.decoder.parity_stream import ParityStream
from model.decoder.source import SourceDraws
from model.decoder.weights import load_decoder
from tests.support.opens2s_fixtures import Fixtures, load_fixtures

STREAMS = sorted(path.stem for path in load_fixtures().root.glob("stream_block*.npz"))
OFFLINE = sorted(path.stem for path in load_fixtures().root.glob("offline_token2wav*.npz"))


@pytest.fixture(scope="module")
def decoder(fixtures: Fixtures) -> Decoder:
    return load_decoder(fixtures.decoder)


def assert_equal(found: torch.Tensor, expected: NDArray[Any], tolerance: float) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)


def test_there_are_fixtures() -> None:
    assert STREAMS
    assert OFFLINE


@pytest.mark.parametrize("name", STREAMS)
def test_every_piece_is_the_references(fixtures: Fixtures, decoder: Decoder, name: str) -> None:
    arrays = fixtures.arrays(name)
    mel_tolerance, wav_tolerance = fixtures.tolerance("mel"), fixtures.tolerance("wav")
    stream, count, heard = ParityStream(decoder), int(arrays["n_chunks"]), []
    prompt_frames = 0
    for number in range(count):
        prefix = f"c{number}_"
        piece = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        assert prompt_frames == piece.get("prompt_frames", prompt_frames)
        source = torch.from_numpy(piece["source"])[:, 0]
        found = stream.decode(piece["tokens"].tolist(), number == count - 1, source=source)
        assert_equal(found.mel, piece["mel_returned"], mel_tolerance)
        assert_equal(found.mel, piece["hift_mel"], mel_tolerance)
        assert_equal(found.wav, piece["wav"], wav_tolerance)
        if "mel_overlap_kept" in piece:
            assert_equal(found.kept, piece["mel_overlap_kept"], mel_tolerance)
        prompt_frames += found.mel.shape[2]
        heard.append(found.wav)
    assert_equal(torch.cat(heard, 1), arrays["wav_all"], wav_tolerance)


@pytest.mark.parametrize("name", STREAMS)
def test_the_overlap_is_the_references(fixtures: Fixtures, decoder: Decoder, name: str) -> None:
    arrays, overlap = fixtures.arrays(name), ReferenceOverlap.of(decoder.config)
    if "overlap" in arrays:
        assert overlap.frames == int(arrays["overlap"])
    if "window" in arrays:
        np.testing.assert_allclose(overlap.window, arrays["window"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OFFLINE)
def test_one_final_call_gives_the_references_mel_and_length(fixtures: Fixtures, decoder: Decoder, name: str) -> None:
    arrays = fixtures.arrays(name)
    codes = arrays["token"].tolist()
    assert_equal(decoder.mel(codes), arrays["mel"], fixtures.tolerance("mel"))
    sound = decoder.offline(codes)
    assert sound.dtype == np.float32
    assert sound.shape == arrays["wav"].shape[-1:]
    assert float(np.abs(sound).max()) <= decoder.config.vocoder.audio_limit


def test_the_vocoders_draws_can_be_given(decoder: Decoder) -> None:
    codes = [1, 2, 3] * 6
    config = decoder.config.vocoder
    samples = (decoder.frames(len(codes))) * config.frame_samples
    draws = [SourceDraws.draw(config, samples, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    found = [ParityStream(decoder).decode(codes, True, draws=draw).wav for draw in draws]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_piece_that_leaves_nothing_fails_as_in_the_reference(decoder: Decoder) -> None:
    stream = ParityStream(decoder)
    with pytest.raises(ValueError, match="leaves nothing beside"):
        stream.decode([1] * 5, False)
    assert stream.decode([1] * 12, False).wav.shape[1] > 0  # and the stream is as before


@pytest.mark.parametrize("code", [-1, 10**6])
def test_a_code_that_is_no_speech_token_is_refused(decoder: Decoder, code: int) -> None:
    with pytest.raises(ValueError, match=f"speech token {code} is not in"):
        decoder.offline([0, code])
    with pytest.raises(ValueError, match="speech token"):
        ParityStream(decoder).decode([code] * 12, False)


def test_no_codes_give_no_sound(decoder: Decoder) -> None:
    assert decoder.offline([]).shape == (0,)
