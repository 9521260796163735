"""What the flow's stages promise beyond the reference: encoding in pieces, batches, other number types."""

from __future__ import annotations

import pytest
import torch

from model.decoder.block_encoder import EncoderCache
from model.decoder.config import RELEASED
from model.decoder.decoder import Decoder
from model.decoder.fixed_noise import FixedNoise
from model.decoder.weights import build, load_decoder
from tests.support.opens2s_fixtures import Fixtures

CLOSE = 1e-5


@pytest.fixture(scope="module")
def decoder(bundled: Fixtures) -> Decoder:
    return load_decoder(bundled.decoder)


def random_codes(decoder: Decoder, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(decoder.num_codes, (1, count), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
@pytest.mark.parametrize("pieces", [(10, 10, 10, 5), (20, 15), (1,) * 35, (3, 9, 11, 12), (30, 5)])
def test_tokens_encoded_in_pieces_equal_the_whole(decoder: Decoder, pieces: tuple[int, ...]) -> None:
    codes, block = random_codes(decoder, sum(pieces)), decoder.config.flow.encoder.block_size
    whole = decoder.flow.encoder_proj(decoder.flow.encoder(decoder.flow.input_embedding(codes)))
    cache, given = EncoderCache(), 0
    for piece in pieces:
        given += piece
        done = cache.num_tokens
        encoded, cache = decoder.flow.encode(codes[:, done:given], cache)
        complete = cache.num_tokens - done
        assert cache.num_tokens == given // block * block
        torch.testing.assert_close(encoded[:, :complete], whole[:, done : done + complete], rtol=0, atol=CLOSE)
    torch.testing.assert_close(encoded, whole[:, -encoded.shape[1] :], rtol=0, atol=CLOSE)


@torch.inference_mode()
def test_encoding_on_leaves_the_cache_it_started_from(decoder: Decoder) -> None:
    block = decoder.config.flow.encoder.block_size
    _, cache = decoder.flow.encode(random_codes(decoder, block), EncoderCache())
    first, _ = decoder.flow.encode(random_codes(decoder, block, seed=1), cache)
    assert cache.num_tokens == block
    decoder.flow.encode(random_codes(decoder, block, seed=2), cache)
    again, _ = decoder.flow.encode(random_codes(decoder, block, seed=1), cache)
    torch.testing.assert_close(first, again, rtol=0, atol=0)


@torch.inference_mode()
def test_the_guidance_pair_in_one_batch_equals_two_evaluations(decoder: Decoder) -> None:
    estimator, mel = decoder.flow.decoder.estimator, decoder.config.flow.output_size
    generator = torch.Generator().manual_seed(0)
    tokens, condition, noise = (torch.randn((1, mel, 41), generator=generator) for _ in range(3))
    speaker = decoder.flow.speaker()
    known = torch.cat((tokens, speaker[:, :, None].expand(-1, -1, 41), condition), 1)
    time = estimator.embed_time(torch.zeros(1))
    guided = estimator(torch.cat((noise, known), 1), time)
    free = estimator(torch.cat((noise, 0 * known), 1), time)
    guidance = decoder.config.flow.guidance
    # One step of the ODE covers the whole time and starts at 0.
    expected = noise + (1 + guidance) * guided - guidance * free
    found = decoder.flow.decoder.solve(tokens, speaker, condition, noise, steps=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE)


@torch.inference_mode()
def test_replies_in_one_batch_equal_replies_alone(decoder: Decoder) -> None:
    mel = decoder.config.flow.output_size
    generator = torch.Generator().manual_seed(0)
    tokens, condition, noise = (torch.randn((3, mel, 30), generator=generator) for _ in range(3))
    together = decoder.flow.decoder.solve(tokens, decoder.flow.speaker(), condition, noise)
    for row in range(3):
        pieces = (tokens[row : row + 1], decoder.flow.speaker(), condition[row : row + 1], noise[row : row + 1])
        alone = decoder.flow.decoder.solve(*pieces)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_ode_never_looks_at_values() -> None:
    """Meta tensors have none: whatever asked for one (and so would stop a CUDA graph) would raise here. Full size."""
    flow, _ = build(RELEASED)
    shape = (2, flow.config.output_size, 69)
    pieces = [torch.empty(shape, device="meta") for _ in range(3)]
    assert flow.decoder.solve(pieces[0], flow.speaker(), pieces[1], pieces[2]).shape == shape


@torch.inference_mode()
def test_bfloat16_stays_near_float32(bundled: Fixtures, decoder: Decoder) -> None:
    half = load_decoder(bundled.decoder, dtype=torch.bfloat16)
    codes = random_codes(decoder, 13)[0].tolist()
    exact, rough = decoder.mel(codes), half.mel(codes)
    assert rough.dtype == torch.float32
    assert float((rough - exact).square().mean().sqrt() / exact.std()) < 0.1


def test_fixed_noise_is_the_same_wherever_a_piece_starts() -> None:
    noise = FixedNoise(4, 50, seed=42, device=torch.device("cpu"))
    long = noise.slice(0, 170)
    assert long.shape == (1, 4, 170)
    for start, stop in ((0, 1), (30, 70), (49, 51), (50, 100), (99, 168)):
        torch.testing.assert_close(noise.slice(start, stop), long[:, :, start:stop], rtol=0, atol=0)
    same = FixedNoise(4, 50, seed=42, device=torch.device("cpu")).slice(0, 50)
    torch.testing.assert_close(same, long[:, :, :50], rtol=0, atol=0)
    assert not torch.equal(long[:, :, :25], long[:, :, 25:50])
