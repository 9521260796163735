"""Fading from one signal into another."""

from __future__ import annotations

import torch
from torch import Tensor

from .live_window import falling_weights
from .transfer import to_device


class Blend:
    """Fades on one device. Their weights stay there, by length: few occur, and a piece then needs no copy for them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._weights: dict[int, Tensor] = {}

    def __call__(self, old: Tensor, new: Tensor) -> Tensor:
        """`new` [..., n] with its start faded in from `old` [..., m], both float32; weights sum to one. `old` may be
        empty."""
        assert old.dtype == new.dtype == torch.float32, (old.dtype, new.dtype)
        length = min(old.shape[-1], new.shape[-1])
        if length == 0:
            return new
        if length not in self._weights:
            self._weights[length] = to_device(falling_weights(length), torch.float32, self._device)
        weights = self._weights[length]
        mixed = weights * old[..., :length] + (1 - weights) * new[..., :length]
        return torch.cat((mixed, new[..., length:]), -1)
