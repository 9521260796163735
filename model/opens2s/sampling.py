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


def sample_rows(logits: Tensor, sampling: Sampling, seeds: Tensor, steps: Tensor) -> Tensor:
    """One token per row: logits [B, ids] -> int64 [B], where row b's choice depends on its logits, seeds[b] and
    steps[b] (int64 [B]: how many tokens of its kind the sequence has) alone, and not on its batch or on the device.

    The law is that of `sample`; of ids that tie for the last place of top-k only the first ones are kept."""
    if sampling.is_greedy:
        return logits.argmax(dim=-1)
    count = logits.shape[-1]
    if 0 < sampling.top_k < count:  # descending; a fraction of what sorting everything costs
        scores, ids = torch.topk(logits.float(), sampling.top_k, dim=-1)
    elif sampling.top_p < 1.0:
        scores, ids = torch.sort(logits.float(), descending=True, dim=-1)
    else:
        scores, ids = logits.float(), torch.arange(count, device=logits.device).expand_as(logits)
    chances = (scores / sampling.temperature).softmax(dim=-1)
    if sampling.top_p < 1.0:
        before = chances.cumsum(dim=-1) - chances  # what is likelier; the likeliest always stays
        chances = chances.masked_fill(before >= sampling.top_p, 0.0)
    chosen = (chances / clocks(seeds, steps, ids)).argmax(dim=-1, keepdim=True)
    return ids.gather(-1, chosen).squeeze(-1)


def clocks(seeds: Tensor, steps: Tensor, ids: Tensor) -> Tensor:
    """Exponential numbers, float32, one for each of ids [B, n] under seeds [B] and steps [B], all int64: the same
    wherever and with whomever they are computed. A counter-based generator: the mixer of SplitMix64 (Steele et al.,
    2014) over the three numbers."""
    base = _mix(seeds + _mix(steps))
    bits = _mix(base[:, None] + ids * _GOLDEN)
    uniform = (_shift(bits, 41).float() + 0.5) * 2.0**-23  # in (0, 1): with one bit more the last one would be 1
    return -uniform.log()


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed numbers: torch's integers wrap around
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
