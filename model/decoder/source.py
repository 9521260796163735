"""The vocoder's excitation: a sum of sines that follow the fundamental frequency, with noise.

Nothing is drawn in here: phases and noise come in as tensors, so the same excitation can be made again, and a stream
can go on where it stopped. Phases are counted in cycles in float64: after ten seconds of the ninth harmonic at 2 kHz a
float32 sum resolves no more than 1/512 cycle, and every sample adds an error of that size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import VocoderConfig


@dataclass(frozen=True, slots=True)
class SourceDraws:
    """What the reference draws at random for every call."""

    phase: Tensor
    """[1 or B, num_harmonics] start phases in radians, uniform in -pi..pi; that of the fundamental is taken as zero."""
    noise: Tensor
    """[B, num_harmonics, samples] standard normal."""

    @classmethod
    def draw(cls, config: VocoderConfig, samples: int, generator: torch.Generator) -> SourceDraws:
        """For one piece (B = 1), on the generator's device."""
        shape = (1, config.num_harmonics)
        phase = torch.rand(shape, generator=generator, device=generator.device) * (2 * math.pi) - math.pi
        noise = torch.randn((*shape, samples), generator=generator, device=generator.device)
        return cls(phase, noise)

    def to(self, device: torch.device) -> SourceDraws:
        return SourceDraws(self.phase.to(device), self.noise.to(device))


class SineSource(nn.Module):
    """Weighs the harmonics; always in float32."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self._config = config
        self.l_linear = nn.Linear(config.num_harmonics, 1)

    def forward(self, f0: Tensor, draws: SourceDraws, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f0 [B, T] Hz per frame → samples [B, T · frame_samples] float32 in -1..1, and the clock [B, T + 1] float64.

        clock[:, t] is how many cycles the fundamental had made before frame t, modulo 1; `start` [B] is that of frame 0
        (None: zero).
        """
        config = self._config
        assert f0.dim() == 2, f0.shape
        samples = config.frame_samples
        rate = f0.double() / config.sample_rate  # cycles per sample
        passed = torch.cumsum(rate * samples, 1)
        clock = torch.cat((torch.zeros_like(passed[:, :1]), passed), 1)
        if start is not None:
            clock = clock + start[:, None]
        # [B, T, 1] + [B, T, 1] · [samples] → [B, T · samples]; the first sample of a frame is one step into it.
        steps = torch.arange(1, samples + 1, device=f0.device, dtype=torch.float64)
        cycles = (clock[:, :-1, None] + rate[:, :, None] * steps).flatten(1)
        harmonics = torch.arange(1, config.num_harmonics + 1, device=f0.device, dtype=torch.float64)
        turns = ((cycles[:, None] * harmonics[:, None]) % 1.0).float()  # [B, harmonics, samples]
        phase = draws.phase * (harmonics > 1)  # the fundamental starts at zero
        sines = config.sine_amplitude * torch.sin(2 * math.pi * turns + phase[:, :, None].float())
        voiced = (f0 > config.voiced_threshold).float().repeat_interleave(samples, 1)[:, None]
        noise = config.noise_amplitude * voiced + config.sine_amplitude / 3 * (1 - voiced)
        waves = sines * voiced + noise * draws.noise
        merged = self.l_linear(waves.transpose(1, 2)).squeeze(2)
        return torch.tanh(merged), clock % 1.0
