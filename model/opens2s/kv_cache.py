"""Keys and values of past positions, and attention over them.

A language model asks its `Attention` for the positions of what it is given and for attention over everything up to
there, so that this cache and the engine's (`model.engine.paged_cache`) are interchangeable.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import LanguageModelConfig

FIRST_CAPACITY = 256


class Attention(Protocol):
    """One forward pass's view of a cache."""

    @property
    def positions(self) -> Tensor:
        """Positions of the tokens of this pass, int64 [B, T]."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v [B, kv heads, T, head_dim] and return attention of q [B, heads, T, head_dim], its shape."""


class KvCache:
    """One sequence, contiguous, as long as it has to be. For eager execution."""

    def __init__(
        self, config: LanguageModelConfig, device: torch.device, dtype: torch.dtype, capacity: int = FIRST_CAPACITY
    ) -> None:
        """`capacity`: positions that are likely to be needed: taken at once. More are taken by doubling."""
        self._config, self._device, self._dtype = config, device, dtype
        self._first_capacity = capacity
        self._k = self._v = torch.empty(0)
        self._capacity = 0
        self.length = 0
        """Positions that are filled."""

    def begin(self, num_tokens: int) -> _Pass:
        """The pass that appends `num_tokens` positions. Raises ValueError beyond the model's last position."""
        end = self.length + num_tokens
        if end > self._config.max_positions:
            raise ValueError(f"The sequence would have {end} positions; the model has {self._config.max_positions}.")
        if end > self._capacity:
            self._grow(end)
        start, self.length = self.length, end
        return _Pass(self._k, self._v, start, end)

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def _grow(self, needed: int) -> None:
        config = self._config
        capacity = min(max(self._first_capacity, 2 * self._capacity, needed), config.max_positions)
        shape = (config.num_layers, 1, config.num_kv_heads, capacity, config.head_dim)
        k, v = (torch.empty(shape, device=self._device, dtype=self._dtype) for _ in range(2))
        if self.length:
            k[..., : self.length, :] = self._k[..., : self.length, :]
            v[..., : self.length, :] = self._v[..., : self.length, :]
        self._k, self._v, self._capacity = k, v, capacity


class _Pass:
    def __init__(self, k: Tensor, v: Tensor, start: int, end: int) -> None:
        self._k, self._v, self._start, self._end = k, v, start, end
        self.positions = torch.arange(start, end, device=k.device)[None]
        length = end - start
        self._is_causal = start == 0 and length > 1
        self._mask: Tensor | None = None
        if start and length > 1:
            self._mask = torch.arange(end, device=k.device)[None] <= self.positions[0, :, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._k[layer], self._v[layer]
        keys[:, :, self._start : self._end] = k
        values[:, :, self._start : self._end] = v
        return F.scaled_dot_product_attention(
            q,
            keys[:, :, : self._end],
            values[:, :, : self._end],
            attn_mask=self._mask,
            is_causal=self._is_causal,
            enable_gqa=True,
        )
