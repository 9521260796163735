"""Sampling: its law, its seeds, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from model.opens2s.sampling import GREEDY, Sampling, probabilities, sample


def test_tokens_are_drawn_with_their_probabilities() -> None:
    sampling = Sampling(0.7, 4, 0.95)
    logits = torch.tensor([1.0, 2.0, 0.5, 1.5, -3.0, 0.0])
    expected = probabilities(logits, sampling)
    drawn = sample(logits.expand(40_000, -1), sampling, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=6) / 40_000
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.01)
    assert set(drawn.tolist()) == set(torch.nonzero(expected).flatten().tolist())


def test_equal_seeds_give_equal_tokens_and_rows_do_not_share_their_luck() -> None:
    logits = torch.zeros(64, 50)
    first = sample(logits, Sampling(), torch.Generator().manual_seed(3))
    assert torch.equal(first, sample(logits, Sampling(), torch.Generator().manual_seed(3)))
    assert not torch.equal(first, sample(logits, Sampling(), torch.Generator().manual_seed(4)))
    assert len(set(first.tolist())) > 20


def test_no_temperature_takes_the_likeliest() -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample(logits, GREEDY), logits.argmax(-1))
    assert Sampling(0.001).is_greedy


def test_the_likeliest_is_never_cut() -> None:
    logits = torch.tensor([[5.0, 4.9, 0.0], [0.0, 0.0, 0.0]])
    chances = probabilities(logits, Sampling(1.0, 0, 1e-9))
    assert chances[0].tolist() == [1.0, 0.0, 0.0]
    assert chances[1].sum() == 1.0


def test_probabilities_are_float32_whatever_the_logits_are() -> None:
    assert probabilities(torch.randn(2, 9, dtype=torch.bfloat16), Sampling(0.5, 3, 0.9)).dtype == torch.float32


@pytest.mark.parametrize("values", [(-0.1, 0, 1.0), (101.0, 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)])
def test_values_out_of_range_are_refused(values: tuple[float, int, float]) -> None:
    with pytest.raises(ValueError, match="it must"):
        Sampling(*values)
