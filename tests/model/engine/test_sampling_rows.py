"""Choosing a token for each row: the law of `sample`, and nothing that depends on who else is in the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.opens2s.sampling import GREEDY, Sampling, clocks, probabilities, sample_rows
from tests.support.opens2s_watch import NoWaiting

DRAWS = 40_000
FREE = Sampling()
EXTREME = ((230, 0, 129_102), (356, 0, 108_100), (384, 0, 113_568))
"""Seeds, steps and ids whose bits are all ones: with 24 of them float32 rounds up to 1, whose clock is zero."""


def logits_of(count: int, ids: int = 50, seed: int = 0) -> Tensor:
    return torch.randn(count, ids, generator=torch.Generator().manual_seed(seed)) * 2


def numbers(count: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 1 << 62, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 5, 40])
@pytest.mark.parametrize("top_p", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("varies", ["seed", "step"])
def test_tokens_are_drawn_with_their_probabilities(temperature: float, top_k: int, top_p: float, varies: str) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    logits = logits_of(1, ids=20)
    expected = probabilities(logits[0], sampling)
    counting, fixed = torch.arange(DRAWS), torch.full((DRAWS,), 7)
    seeds, steps = (counting, fixed) if varies == "seed" else (fixed, counting)
    drawn = sample_rows(logits.expand(DRAWS, -1), sampling, seeds, steps)
    counts = torch.bincount(drawn, minlength=20).double()
    assert not counts[expected == 0].any(), "what is cut is never drawn"
    possible = expected * DRAWS > 5
    wanted = expected[possible].double() * DRAWS
    squares = ((counts[possible] - wanted) ** 2 / wanted).sum()
    freedom = max(1, int(possible.sum()) - 1)
    assert squares < freedom + 6 * (2 * freedom) ** 0.5, "chi square, six deviations from what is expected"


def test_neighbouring_seeds_steps_and_kinds_have_nothing_in_common() -> None:
    """As the engine numbers them: text and speech of one reply have seeds beside each other."""
    logits = torch.zeros(DRAWS, 100)
    seeds, steps = torch.arange(DRAWS) * 2, torch.arange(DRAWS) % 300
    first = sample_rows(logits, FREE, seeds, steps)
    for other in (
        sample_rows(logits, FREE, seeds + 1, steps),
        sample_rows(logits, FREE, seeds + 2, steps),
        sample_rows(logits, FREE, seeds, steps + 1),
        sample_rows(logits, FREE, seeds + 1, steps - 1),
    ):
        equal = (first == other).double().mean()
        assert abs(equal - 0.01) < 0.0025, "as often as by chance: five deviations"


def test_clocks_of_neighbouring_ids_have_nothing_in_common() -> None:
    found = clocks(numbers(200), numbers(200, seed=2), torch.arange(500).expand(200, -1))
    assert abs(found.mean() - 1) < 0.02
    assert abs(found.var() - 1) < 0.05
    centred = found - 1
    for shift in (1, 2, 7):
        assert abs((centred[:, shift:] * centred[:, :-shift]).mean()) < 0.02
    assert abs((centred[1:] * centred[:-1]).mean()) < 0.02


@pytest.mark.parametrize(
    "sampling", [FREE, Sampling(0.2, 20, 0.8), Sampling(1.0, 50), Sampling(0.7, 0, 0.9), GREEDY], ids=str
)
@pytest.mark.parametrize("ids", [97, 4_001])
def test_a_row_is_chosen_alike_in_any_company_and_order(sampling: Sampling, ids: int) -> None:
    logits, seeds, steps = logits_of(37, ids), numbers(37), torch.arange(37) * 3
    together = sample_rows(logits, sampling, seeds, steps)
    generator = torch.Generator().manual_seed(5)
    for size in (1, 2, 3, 8, 37):
        chosen = torch.randperm(37, generator=generator)[:size]
        alone = sample_rows(logits[chosen], sampling, seeds[chosen], steps[chosen])
        assert torch.equal(alone, together[chosen])


def test_clocks_are_the_same_bits_wherever_they_stand() -> None:
    seeds, steps, ids = numbers(5), torch.arange(5), torch.arange(1_003)
    whole = clocks(seeds, steps, ids.expand(5, -1))
    for start, end in ((0, 1), (3, 10), (500, 1_003), (1, 1_002)):
        assert torch.equal(clocks(seeds[1:2], steps[1:2], ids[None, start:end]), whole[1:2, start:end])


def test_a_clock_is_neither_zero_nor_endless() -> None:
    """At the ends of the range of uniform numbers. Dividing by a clock of zero would choose what has no chance."""
    seeds, steps, ids = (torch.tensor(column) for column in zip(*EXTREME, strict=True))
    found = clocks(seeds, steps, ids[:, None]).flatten()
    assert torch.isfinite(found).all()
    assert (found > 0).all()


def test_the_likeliest_is_taken_where_sampling_is_greedy() -> None:
    logits = logits_of(9)
    assert torch.equal(sample_rows(logits, GREEDY, numbers(9), torch.arange(9)), logits.argmax(-1))


def test_the_likeliest_is_never_cut() -> None:
    logits = torch.tensor([[5.0, 4.9, 0.0], [0.0, 0.0, 0.0]])
    chosen = [sample_rows(logits, Sampling(1.0, 0, 1e-9), torch.full((2,), s), torch.zeros(2).long()) for s in range(9)]
    assert {int(row[0]) for row in chosen} == {0}
    assert len({int(row[1]) for row in chosen}) == 1


def test_logits_of_less_precision_are_chosen_from_in_float32() -> None:
    logits = logits_of(9).bfloat16()
    sampling = Sampling(0.5, 7, 0.9)
    seeds, steps = numbers(9), torch.arange(9)
    found = sample_rows(logits, sampling, seeds, steps)
    assert torch.equal(found, sample_rows(logits.float(), sampling, seeds, steps))


@pytest.mark.parametrize("sampling", [FREE, Sampling(0.2, 20, 0.8), Sampling(0.7, 0, 0.9), GREEDY], ids=str)
def test_nothing_waits_for_the_device(sampling: Sampling) -> None:
    """On a device without values: whoever looks at one fails."""
    with NoWaiting():
        empty = torch.zeros(4, dtype=torch.int64, device="meta")
        assert sample_rows(logits_of(4).to("meta"), sampling, empty, empty).is_meta
