"""Our language models and encoder against those of transformers, and the caches against each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from model.engine.paged_cache import PagedKvCache
from model.opens2s.audio_encoder import AudioEncoder
from model.opens2s.config import AudioEncoderConfig, LanguageModelConfig
from model.opens2s.kv_cache import KvCache
from model.opens2s.language_model import LanguageModel
from model.opens2s.tensors import Target

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}


def ours(config: LanguageModelConfig, theirs: nn.Module) -> LanguageModel:
    model = LanguageModel(config).eval().requires_grad_(False)
    fill(list(model.targets("")), theirs)
    return model


def fill(targets: list[Target], theirs: nn.Module) -> None:
    tensors = theirs.state_dict()
    assert {target.name for target in targets if target.name} == set(tensors)
    for target in targets:
        target.tensor.copy_(tensors[target.name]) if target.name else target.tensor.zero_()


def config(kind: str) -> LanguageModelConfig:
    return LanguageModelConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16 if kind == "qwen3" else 8,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        max_positions=512,
        is_tied=False,
        has_qk_norm=kind == "qwen3",
        has_qkv_bias=kind == "qwen2",
    )


@pytest.fixture(params=["qwen3", "qwen2"])
def pair(request: pytest.FixtureRequest) -> tuple[LanguageModel, nn.Module]:
    """Ours and transformers' with the same random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    if request.param == "qwen3":
        theirs = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16))
    else:
        theirs = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    for parameter in theirs.parameters():
        parameter.data.normal_(0.0, 0.2)
    return ours(config(request.param), theirs.eval()), theirs


@torch.inference_mode()
def test_hidden_states_and_logits_are_transformers(pair: tuple[LanguageModel, nn.Module]) -> None:
    mine, theirs = pair
    embeds = torch.randn(1, 17, 32)
    out = theirs(inputs_embeds=embeds, output_hidden_states=True)
    hidden = mine(embeds, KvCache(mine.config, CPU, torch.float32).begin(17))
    torch.testing.assert_close(hidden, out.hidden_states[-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.logits(hidden), out.logits, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_pieces_of_any_size_give_what_the_whole_gives(pair: tuple[LanguageModel, nn.Module]) -> None:
    lm = pair[0]
    embeds = torch.randn(1, 300, 32)  # more than the cache's first capacity
    whole = lm(embeds, KvCache(lm.config, CPU, torch.float32).begin(300))
    cache = KvCache(lm.config, CPU, torch.float32)
    pieces = [lm(piece, cache.begin(piece.shape[1])) for piece in embeds.split([1, 1, 40, 3, 200, 55], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_truncated_cache_goes_on_as_if_the_rest_had_never_been(pair: tuple[LanguageModel, nn.Module]) -> None:
    lm = pair[0]
    embeds = torch.randn(1, 20, 32)
    cache = KvCache(lm.config, CPU, torch.float32)
    lm(embeds, cache.begin(20))
    cache.truncate(8)
    again = lm(embeds[:, 8:], cache.begin(12))
    fresh = lm(embeds, KvCache(lm.config, CPU, torch.float32).begin(20))
    torch.testing.assert_close(again, fresh[:, 8:], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_batch_over_blocks_gives_what_each_sequence_gives_alone(pair: tuple[LanguageModel, nn.Module]) -> None:
    lm = pair[0]
    lengths = [5, 11, 1]
    prompts = torch.randn(3, 11, 32)
    steps = torch.randn(3, 4, 32)
    alone = []
    for prompt, length, inputs in zip(prompts, lengths, steps, strict=True):
        cache = KvCache(lm.config, CPU, torch.float32)
        lm(prompt[None, :length], cache.begin(length))
        pieces = [lm(piece[None], cache.begin(len(piece))) for piece in inputs.split([1, 1, 2])]
        alone.append(torch.cat(pieces, 1))
    paged = PagedKvCache(lm.config, 12, 4, CPU, torch.float32)
    tables = torch.tensor([[7, 2, 12, 4], [1, 9, 3, 11], [5, 8, 10, 6]])  # of no order
    starts, counts = torch.zeros(3, dtype=torch.int64), torch.tensor(lengths)
    lm(prompts, paged.at(tables, starts, counts, 11))  # all at once, the shorter ones padded
    together = []
    for piece in steps.split([1, 1, 2], dim=1):
        starts, counts = starts + counts, torch.full((3,), piece.shape[1])
        together.append(lm(piece, paged.at(tables, starts, counts, piece.shape[1])))
    torch.testing.assert_close(torch.cat(together, 1), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_sequence_beyond_the_last_position_is_refused(pair: tuple[LanguageModel, nn.Module]) -> None:
    cache = KvCache(pair[0].config, CPU, torch.float32)
    cache.begin(512)
    with pytest.raises(ValueError, match="513 positions; the model has 512"):
        cache.begin(1)


@torch.inference_mode()
def test_the_encoder_is_transformers() -> None:
    from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

    torch.manual_seed(2)
    sizes = {"d_model": 32, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "encoder_layers": 2}
    theirs = Qwen2AudioEncoder(Qwen2AudioEncoderConfig(**sizes, num_mel_bins=16, max_source_positions=40)).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0.0, 0.1)
    mine = AudioEncoder(AudioEncoderConfig(32, 4, 64, 2, 16, 40)).eval().requires_grad_(False)
    fill(list(mine.targets("")), theirs)
    windows = torch.randn(2, 16, 80)
    expected = theirs(windows).last_hidden_state
    torch.testing.assert_close(mine(windows), expected, rtol=1e-4, atol=1e-5)


def test_a_restricted_vocabulary_keeps_its_rows_in_order() -> None:
    lm = LanguageModel(config("qwen3"), rows=(40, 41, 42, 7)).eval()
    targets = {target.name: target for target in lm.targets("")}
    assert lm.embed_tokens.weight.shape == (4, 32)
    assert targets["model.embed_tokens.weight"].shape == (61, 32)
    assert targets["lm_head.weight"].rows == (40, 41, 42, 7)
