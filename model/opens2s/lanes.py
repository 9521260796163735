"""One sequence in one language model: the model and the sequence's cache, eager or with recorded steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.graphs import RecordedFunction

from .kv_cache import FIRST_CAPACITY, KvCache, StaticKvCache
from .language_model import LanguageModel
from .model import OpenS2S

SMALLEST_REACH = 256
"""Recorded steps look at 256, 512, 1024, ... positions: what lies beyond a sequence costs time too."""


class SequenceLane(Protocol):
    """What a reply needs of a language model."""

    @property
    def lm(self) -> LanguageModel: ...

    def forward(self, embeds: Tensor) -> Tensor:
        """Append embeddings [T, hidden]; returns the hidden state of the last one, [hidden]."""


class LanePair(NamedTuple):
    """The two sequences of one reply."""

    llm: SequenceLane
    tts: SequenceLane


class Lane:
    """Launched from Python, with a cache that grows."""

    def __init__(self, lm: LanguageModel, capacity: int = FIRST_CAPACITY) -> None:
        self.lm = lm
        weight = lm.norm.weight
        self.cache = KvCache(lm.config, weight.device, weight.dtype, capacity)

    def forward(self, embeds: Tensor) -> Tensor:
        hidden: Tensor = self.lm(embeds[None], self.cache.begin(len(embeds)))
        return hidden[0, -1]


class StaticLane:
    """With a cache of fixed size, so that short steps can be recorded; used by one reply after the other."""

    def __init__(self, lm: LanguageModel, capacity: int) -> None:
        self.lm = lm
        weight = lm.norm.weight
        self._cache = StaticKvCache(lm.config, 1, capacity, weight.device, weight.dtype)
        self._capacity = capacity
        self._places = torch.arange(capacity, device=weight.device)
        self._length = 0
        self._steps = {reach: RecordedFunction(partial(self._step, reach)) for reach in reaches(capacity)}

    def record(self, lengths: Sequence[int]) -> None:
        """Record steps of so many positions each. Does nothing without a GPU."""
        weight = self.lm.norm.weight
        for step in self._steps.values():
            for length in lengths:
                embeds = torch.zeros(1, length, self.lm.config.hidden_size, device=weight.device, dtype=weight.dtype)
                step.record(embeds, self._places[None, :length])

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget the sequence. What is masked out later still takes part as 0 times its value, so that a number that is
        not finite would stay for all that come after."""
        self._length = 0
        self._cache.k.zero_()
        self._cache.v.zero_()

    def forward(self, embeds: Tensor) -> Tensor:
        """As `SequenceLane`. Raises ValueError beyond the capacity."""
        end = self._length + len(embeds)
        if end > self._capacity:
            raise ValueError(f"The sequence would have {end} positions; this lane has {self._capacity}.")
        reach = next(reach for reach in self._steps if reach >= end)
        hidden = self._steps[reach](embeds[None], self._places[None, self._length : end])
        self._length = end
        return hidden[0, -1]

    def _step(self, reach: int, embeds: Tensor, positions: Tensor) -> Tensor:
        hidden: Tensor = self.lm(embeds, self._cache.at(positions, reach))
        return hidden


def reaches(capacity: int) -> list[int]:
    """256, 512, ... and the capacity itself."""
    found = []
    reach = SMALLEST_REACH
    while reach < capacity:
        found.append(reach)
        reach *= 2
    return [*found, capacity]


class LanePool:
    """As many pairs of static lanes as replies are worked on at once."""

    def __init__(self, model: OpenS2S, count: int, llm_capacity: int, tts_capacity: int) -> None:
        group = model.config.interleaving.num_text + 1  # the first step of a group reads its states and the unit before
        self._free: list[LanePair] = []
        for _ in range(count):
            llm, tts = StaticLane(model.llm, llm_capacity), StaticLane(model.speech.lm, tts_capacity)
            llm.record((1,))
            tts.record(sorted({1, group}))
            self._free.append(LanePair(llm, tts))

    @staticmethod
    def size(model: OpenS2S, count: int, llm_capacity: int, tts_capacity: int) -> int:
        """Bytes of all caches."""
        per_position = [
            2 * lm.config.num_layers * lm.config.num_kv_heads * lm.config.head_dim * model.dtype.itemsize
            for lm in (model.llm, model.speech.lm)
        ]
        return count * (per_position[0] * llm_capacity + per_position[1] * tts_capacity)

    def take(self) -> LanePair | None:
        """An empty pair; None when all are in use."""
        return self._free.pop() if self._free else None

    def give_back(self, lanes: LanePair) -> None:
        for lane in lanes:
            assert isinstance(lane, StaticLane)
            lane.reset()
        self._free.append(lanes)
