"""Standard normal noise at fixed places: place n holds the same number for every piece that covers it."""

from __future__ import annotations

import torch
from torch import Tensor


class FixedNoise:
    """`length` columns of `channels` numbers, then the same again. Drawn on the CPU, so that devices agree."""

    def __init__(self, channels: int, length: int, seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._columns = torch.randn((1, channels, length), generator=generator).to(device)

    def slice(self, start: int, stop: int) -> Tensor:
        """Columns start..stop - 1 → [1, channels, stop - start]."""
        length = self._columns.shape[2]
        pieces = []
        while start < stop:
            place = start % length
            count = min(stop - start, length - place)
            pieces.append(self._columns[:, :, place : place + count])
            start += count
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)
