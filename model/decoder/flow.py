"""Speech tokens → mel: encoder, length regulator and the ODE that turns noise into a mel spectrogram.

Each stage is its own call, because a stream calls them on different pieces: tokens are encoded once, frames in windows.
`solve` makes no choice that depends on data; its step can be recorded as a CUDA graph per length.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.graphs import GraphPool, RecordedFunction

from .block_encoder import BlockEncoder, EncoderCache
from .config import FlowConfig
from .estimator import Estimator
from .length_regulator import LengthRegulator

ODE_STEPS = 10  # of the reference


class Flow(nn.Module):
    def __init__(self, config: FlowConfig, pool: GraphPool | None = None) -> None:
        """`pool` is what recordings work in; see `Decoder.record`."""
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.input_size)
        self.spk_embed_affine_layer = nn.Linear(config.spk_embed_dim, config.output_size)
        self.encoder = BlockEncoder(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.output_size, config.output_size)
        self.length_regulator = LengthRegulator(config.output_size, config.regulator_layers)
        self.smooth = RecordedFunction(self.length_regulator.smooth, pool)
        """The regulator's layers, or recordings of them."""
        self.decoder = FlowMatching(config, pool)

    def encode(self, codes: Tensor, cache: EncoderCache) -> tuple[Tensor, EncoderCache]:
        """codes [B, n] int64, those after the complete blocks in `cache` → [B, n, mel bins] and the next cache."""
        assert codes.dim() == 2, codes.shape
        encoded, cache = self.encoder.encode(self.input_embedding(codes), cache)
        return self.encoder_proj(encoded), cache

    def record(self, frames: int, batch: int = 1) -> None:
        """Record `smooth` and a step of the ODE for `batch` mels of `frames` frames. Does nothing without a GPU."""
        weight = self.encoder_proj.weight
        shape = (batch, weight.shape[0], frames)
        self.smooth.record(torch.zeros(shape, device=weight.device, dtype=weight.dtype))
        self.decoder.record(frames, batch)

    def speaker(self, embedding: Tensor | None = None) -> Tensor:
        """embedding [B, spk_embed_dim] of a voice, or None for the released one (zeros) → [B, mel bins]."""
        if embedding is None:
            # The reference normalises its vector of zeros, which stays zero.
            return self.spk_embed_affine_layer.bias[None]
        weight = self.spk_embed_affine_layer.weight
        vector: Tensor = self.spk_embed_affine_layer(F.normalize(embedding.float(), dim=1).to(weight.dtype))
        return vector

    def whole(self, codes: Tensor, num_frames: int, prompt: Tensor, noise: Tensor, speaker: Tensor) -> Tensor:
        """All codes [B, N] of a reply → mel [B, mel bins, num_frames - P] float32, as the reference computes it.

        prompt [B, mel bins, P]: mel of the first P frames, which the result leaves out; noise [B, mel bins, num_frames]
        standard normal.
        """
        encoded, _ = self.encode(codes, EncoderCache())
        tokens = self.length_regulator(encoded, num_frames)
        mel = self.decoder.solve(tokens, speaker, extend(prompt, num_frames), noise)
        return mel[:, :, prompt.shape[2] :]


class FlowMatching(nn.Module):
    """The ODE from noise to mel, with classifier-free guidance."""

    def __init__(self, config: FlowConfig, pool: GraphPool | None = None) -> None:
        super().__init__()
        self._guidance = config.guidance
        self.estimator = Estimator(config.estimator)
        self._schedules: dict[tuple[int, torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        self.advance = RecordedFunction(self._advance, pool)
        """One step of the ODE; see `_advance`. Plain calls, or recordings where somebody made them."""

    def solve(
        self, tokens: Tensor, speaker: Tensor, condition: Tensor, noise: Tensor, steps: int = ODE_STEPS
    ) -> Tensor:
        """Noise → mel [B, mel bins, T] float32.

        tokens [B, mel bins, T]: the regulator's output; speaker [1 or B, mel bins]; condition [B, mel bins, T]: known
        mel, zeros where unknown; noise [B, mel bins, T] standard normal. Both sides of the guidance run as one batch
        of 2B, in the estimator's type; the state stays in float32.
        """
        assert tokens.shape == condition.shape == noise.shape, (tokens.shape, condition.shape, noise.shape)
        batch, _, frames = tokens.shape
        dtype = self.estimator.final_proj.weight.dtype
        voice = speaker[:, :, None].expand(batch, -1, frames)
        known = torch.cat((tokens, voice, condition), 1).to(dtype)  # [B, 3 · mel bins, T]
        conditions = torch.cat((known, torch.zeros_like(known)))  # conditional, then unconditional
        times, lengths = self._schedule(steps, tokens.device)
        x = noise.float()
        for time, length in zip(times, lengths, strict=True):
            x = self.advance(x, conditions, time, length)
        return x

    def record(self, frames: int, batch: int = 1) -> bool:
        """Record a step for `batch` mels of `frames` frames. False where there is no GPU, or it exists already."""
        weight = self.estimator.final_proj.weight
        bins = weight.shape[0]
        x = torch.zeros((batch, bins, frames), device=weight.device)
        conditions = torch.zeros((2 * batch, 3 * bins, frames), device=weight.device, dtype=weight.dtype)
        times, lengths = self._schedule(ODE_STEPS, weight.device)
        return self.advance.record(x, conditions, times[0], lengths[0])

    def recorded_batches(self, frames: int) -> set[int]:
        """Batch sizes for which a step of `frames` frames is recorded."""
        return {batch for batch, _, length in self.advance.first_shapes if length == frames}

    def _advance(self, x: Tensor, conditions: Tensor, time: Tensor, length: Tensor) -> Tensor:
        """State x [B, mel bins, T] float32 → the next one. conditions [2B, 3 · mel bins, T]; time [1, time_size] of
        where the step begins, embedded; length [1] of the step."""
        batch = x.shape[0]
        state = x.to(conditions.dtype).repeat(2, 1, 1)
        direction: Tensor = self.estimator(torch.cat((state, conditions), 1), time.expand(2 * batch, -1)).float()
        guided = (1 + self._guidance) * direction[:batch] - self._guidance * direction[batch:]
        return x + length * guided

    def _schedule(self, steps: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        """Embedded beginnings [1, time_size] and lengths [1] of all steps; the same for every mel."""
        key = (steps, device, self.estimator.final_proj.weight.dtype)
        if key not in self._schedules:
            times = [1 - math.cos(math.pi / 2 * step / steps) for step in range(steps + 1)]
            embedded = [self.estimator.embed_time(torch.full((1,), time, device=device)) for time in times[:-1]]
            lengths = [torch.full((1,), after - now, device=device) for now, after in pairwise(times)]
            self._schedules[key] = embedded, lengths
        return self._schedules[key]


def extend(prompt: Tensor, num_frames: int) -> Tensor:
    """prompt [B, C, P] → [B, C, num_frames], zeros after the first P frames."""
    return F.pad(prompt, (0, num_frames - prompt.shape[2]))
