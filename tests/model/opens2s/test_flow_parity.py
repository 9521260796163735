"""The flow's stages against the reference's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.decoder.block_encoder import EncoderCache
from model.decoder.decoder import Decoder
from model.decoder.flow import extend
from model.decoder.weights import load_decoder
from tests.support.opens2s_fixtures import Fixtures, load_fixtures

NAMES = sorted(path.stem for path in load_fixtures().root.glob("flow_*.npz"))
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def decoder(fixtures: Fixtures) -> Decoder:
    return load_decoder(fixtures.decoder)


def tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(array))


def codes_of(arrays: Arrays) -> Tensor:
    """Prompt and new tokens, int64 [1, N]."""
    return tensor(np.concatenate((arrays["prompt_token"].astype(np.int64), arrays["token"].astype(np.int64))))[None]


def tokens_of(decoder: Decoder, arrays: Arrays) -> Tensor:
    encoded, _ = decoder.flow.encode(codes_of(arrays), EncoderCache())
    return decoder.flow.length_regulator(encoded, arrays["noise_z"].shape[2])


def estimate(decoder: Decoder, arrays: Arrays, call: int, *, is_conditional: bool) -> Tensor:
    """The network's answer to what the fixture's call number `call` gave it."""
    # An unconditional call sees the state of the conditional one before it.
    source = call if f"eval{call}_x" in arrays else call - 1
    x, time = tensor(arrays[f"eval{source}_x"]), tensor(arrays[f"eval{source}_t"])[None]
    frames = x.shape[2]
    voice = decoder.flow.speaker(tensor(arrays["embedding"]))[:, :, None].expand(-1, -1, frames)
    prompt = tensor(arrays["prompt_feat"]).transpose(1, 2)
    known = torch.cat((tokens_of(decoder, arrays), voice, extend(prompt, frames)), 1)
    estimator = decoder.flow.decoder.estimator
    return estimator(torch.cat((x, known if is_conditional else 0 * known), 1), estimator.embed_time(time))


def assert_equal(found: Tensor, arrays: Arrays, name: str, tolerance: float) -> None:
    np.testing.assert_allclose(found.numpy(), arrays[name], rtol=0, atol=tolerance, err_msg=name)


def test_there_are_fixtures() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_gives_the_references_numbers(fixtures: Fixtures, decoder: Decoder, name: str) -> None:
    arrays, tolerance = fixtures.arrays(name), fixtures.tolerance("mel")
    codes, frames = codes_of(arrays), arrays["noise_z"].shape[2]
    assert decoder.frames(codes.shape[1]) == frames
    with torch.inference_mode():
        encoded = decoder.flow.encoder(decoder.flow.input_embedding(codes))
        assert_equal(encoded, arrays, "encoder_out", tolerance)
        assert_equal(decoder.flow.encoder_proj(encoded), arrays, "encoder_proj_out", tolerance)
        assert_equal(tokens_of(decoder, arrays).transpose(1, 2), arrays, "mu", tolerance)
        # Even calls of the reference are conditional, odd ones unconditional.
        for call in sorted(int(key[4:-4]) for key in arrays if key.startswith("eval") and key.endswith("_out")):
            found = estimate(decoder, arrays, call, is_conditional=call % 2 == 0)
            assert_equal(found, arrays, f"eval{call}_out", tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_mel_is_the_references(fixtures: Fixtures, decoder: Decoder, name: str) -> None:
    arrays = fixtures.arrays(name)
    codes, prompt = codes_of(arrays), tensor(arrays["prompt_feat"]).transpose(1, 2)
    with torch.inference_mode():
        speaker = decoder.flow.speaker(tensor(arrays["embedding"]))
        noise = tensor(arrays["noise_z"])
        mel = decoder.flow.whole(codes, noise.shape[2], prompt, noise, speaker)
        assert_equal(mel, arrays, "mel", fixtures.tolerance("mel"))
        if not arrays["embedding"].any():
            # the same from the codes alone: the fixed seed and the released voice are the decoder's own
            assert_equal(decoder.mel(codes[0].tolist(), prompt), arrays, "mel", fixtures.tolerance("mel"))
