"""Stretches encoded tokens to mel frames and smooths the steps.

Its group normalisation runs over all channels and all frames, so the values of a frame depend on every other frame that
is given: the stage is not causal.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LengthRegulator(nn.Module):
    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for _ in range(layers):
            modules += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.Mish()]
        self.model = nn.Sequential(*modules, nn.Conv1d(channels, channels, 1))

    def forward(self, encoded: Tensor, num_frames: int) -> Tensor:
        """encoded [B, N, C], a whole reply → [B, C, num_frames]; a frame takes the nearest token (reference)."""
        return self.smooth(F.interpolate(encoded.transpose(1, 2), size=num_frames, mode="nearest"))

    def smooth(self, expanded: Tensor) -> Tensor:
        """expanded [B, C, T], one column per mel frame → [B, C, T]."""
        assert expanded.dim() == 3, expanded.shape
        out: Tensor = self.model(expanded)
        return out
