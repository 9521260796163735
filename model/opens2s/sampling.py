"""From logits to tokens: temperature, then top-k, then top-p, with the meaning they have in transformers' generate().

Everything stays on the device: no step waits for the host, so that sampling can be part of a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_BELOW = 1e-3
"""Temperature from which on the reference samples at all."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How freely tokens are chosen."""

    temperature: float = 1.0
    """0 always takes the likeliest."""
    top_k: int = 0
    """How many of the likeliest to choose from; 0 means all."""
    top_p: float = 1.0
    """Share of the probability to choose from; 1 means all."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise ValueError(f"temperature is {self.temperature}; it must be between 0 and 100.")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must not be negative.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= GREEDY_BELOW


GREEDY = Sampling(temperature=0.0)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """logits [..., ids] -> probabilities of the same shape, float32; sampling must not be greedy."""
    scores = logits.float() / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        smallest = torch.topk(scores, sampling.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < smallest, float("-inf"))
    if sampling.top_p < 1.0:
        # Ascending, so that what is cut is the tail whose mass is at most 1 - top_p; the likeliest always stays.
        ordered, order = torch.sort(scores, descending=False, dim=-1)
        is_cut = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - sampling.top_p
        is_cut[..., -1] = False
        scores = scores.masked_fill(is_cut.scatter(-1, order, is_cut), float("-inf"))
    return scores.softmax(dim=-1)


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """One token of each row: logits [..., ids] -> int64 [...]."""
    if sampling.is_greedy:
        return logits.argmax(dim=-1)
    chances = probabilities(logits, sampling)
    # The first of independent exponential clocks with these rates: the same law as multinomial, without its checks,
    # which wait for the device.
    clocks = torch.empty_like(chances).exponential_(1.0, generator=generator)
    return (chances / clocks).argmax(dim=-1)
