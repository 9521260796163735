"""The short-time Fourier transform of the vocoder and its inverse, as two small convolutions in float32.

torch.stft and torch.istft would do, but the latter looks at its window on the host, which a CUDA graph cannot contain.
Periodic Hann window, centred columns, reflection at both ends, as in torch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def stft(signal: Tensor, n_fft: int, hop: int) -> Tensor:
    """signal [B, S] → [B, n_fft + 2, S / hop + 1] float32: real parts of all bins, then imaginary parts."""
    assert signal.dim() == 2, signal.shape
    padded = F.pad(signal.float()[:, None], (n_fft // 2, n_fft // 2), mode="reflect")
    window = torch.hann_window(n_fft, device=signal.device)
    cosine, sine = _waves(n_fft, signal.device)
    return F.conv1d(padded, (torch.cat((cosine, -sine)) * window)[:, None], stride=hop)


def istft(real: Tensor, imaginary: Tensor, n_fft: int, hop: int) -> Tensor:
    """real and imaginary [B, n_fft / 2 + 1, K] → [B, (K - 1) · hop] float32."""
    assert real.shape == imaginary.shape, (real.shape, imaginary.shape)
    window = torch.hann_window(n_fft, device=real.device)
    cosine, sine = _waves(n_fft, real.device)
    # All bins but the first and the last stand for two of the full transform. The sine of those two is zero.
    count = torch.full((n_fft // 2 + 1, 1), 2.0, device=real.device)
    count[0] = count[-1] = 1.0
    basis = torch.cat((cosine * count, -sine * count)) * (window / n_fft)
    spectrum = torch.cat((real, imaginary), 1).float()
    overlapped = F.conv_transpose1d(spectrum, basis[:, None], stride=hop)
    ones = torch.ones((1, 1, real.shape[2]), device=real.device)
    weight = F.conv_transpose1d(ones, (window * window)[None, None], stride=hop)
    edge = n_fft // 2
    return (overlapped[:, 0, edge:-edge]) / weight[:, 0, edge:-edge]


def _waves(n_fft: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [n_fft / 2 + 1, n_fft] of all bins."""
    bins = torch.arange(n_fft // 2 + 1, device=device)[:, None]
    # The product is reduced before the angle is taken, so that the two bins without a sine get exact zeros or nearly.
    turns = (bins * torch.arange(n_fft, device=device)) % n_fft
    angle = turns * (2 * math.pi / n_fft)
    return angle.cos(), angle.sin()
