"""The vocoder against the reference's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.decoder.decoder import Decoder
from model.decoder.source import SourceDraws
from model.decoder.weights import load_decoder
from tests.support.opens2s_fixtures import Fixtures, load_fixtures

NAMES = sorted(path.stem for path in load_fixtures().root.glob("hift_*.npz"))
WITH_DRAWS = [name for name in NAMES if "draw_phase" in load_fixtures().arrays(name)]


@pytest.fixture(scope="module")
def decoder(fixtures: Fixtures) -> Decoder:
    return load_decoder(fixtures.decoder)


def tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(array))


def assert_equal(found: Tensor, arrays: dict[str, NDArray[Any]], name: str, tolerance: float) -> None:
    np.testing.assert_allclose(found.numpy(), arrays[name], rtol=0, atol=tolerance, err_msg=name)


def test_there_are_fixtures() -> None:
    assert NAMES
    assert WITH_DRAWS


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES)
def test_pitch_spectrum_and_samples_are_the_references(fixtures: Fixtures, decoder: Decoder, name: str) -> None:
    arrays, tolerance = fixtures.arrays(name), fixtures.tolerance("wav")
    mel, source = tensor(arrays["mel"]), tensor(arrays["source"])[:, 0]
    assert_equal(decoder.vocoder.predict_f0(mel), arrays, "f0", tolerance)
    assert_equal(decoder.vocoder.spectrum(mel, source), arrays, "conv_post_out", tolerance)
    assert_equal(decoder.vocoder(mel, source), arrays, "wav", tolerance)


@torch.inference_mode()
@pytest.mark.parametrize("name", WITH_DRAWS)
def test_the_source_is_the_references_for_the_same_draws(fixtures: Fixtures, decoder: Decoder, name: str) -> None:
    arrays, tolerance = fixtures.arrays(name), fixtures.tolerance("wav")
    draws = SourceDraws(tensor(arrays["draw_phase"])[:, :, 0], tensor(arrays["draw_noise"]))
    cached = tensor(arrays["cache_source"])[:, 0]
    wav, source = decoder.vocode(tensor(arrays["mel"]), draws, cached)
    assert_equal(source[:, None], arrays, "source", tolerance)
    assert_equal(wav, arrays, "wav", tolerance)
