"""Both halves of the decoder together: speech tokens → samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .blend import Blend
from .config import DecoderConfig
from .fixed_noise import FixedNoise
from .flow import Flow
from .source import SourceDraws
from .transfer import to_device
from .vocoder import Vocoder

SEED = 42  # with which the reference seeds the flow's noise before every call
PHASE_SEED = 0
FLOW_NOISE_FRAMES = 4096  # 48 s, after which the noise repeats: 1.3 MB
SOURCE_NOISE_SAMPLES = 1 << 17  # 6 s: 4.7 MB


@dataclass(frozen=True, slots=True)
class Decoder:
    """Weights and sizes; no state of any reply, so all streams share one."""

    config: DecoderConfig
    flow: Flow
    vocoder: Vocoder
    flow_noise: FixedNoise = field(init=False)
    """Start of the flow's ODE, by mel frame of a live reply."""
    source_noise: FixedNoise = field(init=False)
    """Noise of the vocoder's harmonics, by sample of a live reply."""
    source_phase: Tensor = field(init=False)
    """[1, num_harmonics] with which the harmonics of every live reply start."""
    blend: Blend = field(init=False)
    """Joins the pieces of live replies."""

    def __post_init__(self) -> None:
        flow, vocoder, device = self.config.flow, self.config.vocoder, self.device
        object.__setattr__(self, "flow_noise", FixedNoise(flow.output_size, FLOW_NOISE_FRAMES, SEED, device))
        noise = FixedNoise(vocoder.num_harmonics, SOURCE_NOISE_SAMPLES, SEED, device)
        object.__setattr__(self, "source_noise", noise)
        phase = SourceDraws.draw(vocoder, 0, torch.Generator().manual_seed(PHASE_SEED)).phase
        object.__setattr__(self, "source_phase", phase.to(device))
        object.__setattr__(self, "blend", Blend(device))
        self.flow.eval().requires_grad_(False)
        self.vocoder.eval().requires_grad_(False)
        self.flow.decoder.estimator.fuse()

    @property
    def device(self) -> torch.device:
        return self.flow.encoder_proj.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; mel, source and samples are float32 in any case."""
        return self.flow.encoder_proj.weight.dtype

    @property
    def sample_rate(self) -> int:
        """Hz of the sound."""
        return self.config.sample_rate

    @property
    def num_codes(self) -> int:
        """Speech tokens are 0..num_codes - 1."""
        return self.config.flow.vocab_size

    @property
    def token_rate(self) -> float:
        """Speech tokens per second."""
        return float(self.config.flow.token_rate)

    def frames(self, num_tokens: int) -> int:
        """Mel frames of `num_tokens` speech tokens."""
        return self.config.frames(num_tokens)

    @torch.inference_mode()
    def offline(self, codes: Sequence[int]) -> NDArray[np.float32]:
        """A whole reply at once, as the reference makes it: float32 [frames · 256] in -1..1. Raises ValueError."""
        mel = self.mel(codes)
        wav, _ = self.vocode(mel)
        return wav[0].cpu().numpy()

    @torch.inference_mode()
    def mel(self, codes: Sequence[int], prompt: Tensor | None = None) -> Tensor:
        """All codes of a reply → mel [1, mel bins, T] float32 of the frames after `prompt` [1, mel bins, P]."""
        bins = self.config.flow.output_size
        num_frames = self.frames(len(codes))
        if num_frames == 0:
            return torch.zeros((1, bins, 0), device=self.device)
        if prompt is None:
            prompt = torch.zeros((1, bins, 0), device=self.device)
        tokens = self.tensor(codes)
        noise = torch.randn((1, bins, num_frames), generator=torch.Generator().manual_seed(SEED)).to(self.device)
        return self.flow.whole(tokens, num_frames, prompt, noise, self.flow.speaker())

    @torch.inference_mode()
    def vocode(
        self, mel: Tensor, draws: SourceDraws | None = None, cached_source: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """mel [1, mel bins, T] → samples and source, both [1, T · 256] float32.

        Without `draws` a fixed generator makes them. `cached_source` [1, S] replaces the first samples of the source.
        """
        samples = mel.shape[2] * self.config.vocoder.frame_samples
        if samples == 0:
            empty = torch.zeros((1, 0), device=self.device)
            return empty, empty
        if draws is None:
            draws = SourceDraws.draw(self.config.vocoder, samples, torch.Generator().manual_seed(SEED))
        source, _ = self.vocoder.excite(self.vocoder.predict_f0(mel), draws.to(self.device))
        if cached_source is not None:
            source = torch.cat((cached_source, source[:, cached_source.shape[1] :]), 1)
        return self.vocoder(mel, source), source

    def record(self, flow_frames: Iterable[int], vocoder_frames: Iterable[int], batches: Iterable[int] = (1,)) -> None:
        """Record the regulator, the ODE's step and the vocoder for windows of these lengths
        (`live_window.usual_lengths`), each for these numbers of pieces at once, so that live pieces of them are
        replayed. Does nothing without a GPU.

        Other numbers of pieces are filled up to the next size or split (batches.py). All recordings work in one pool
        of memory, for which all decoding must happen on one CUDA stream at a time.
        """
        # The largest first, in whose memory the smaller ones then find room.
        sizes = list(batches)
        for frames, batch in sorted(product(flow_frames, sizes), key=prod, reverse=True):
            self.flow.record(frames, batch)
        for frames, batch in sorted(product(vocoder_frames, sizes), key=prod, reverse=True):
            self.vocoder.record(frames, batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what was recorded is there for every stream

    def tensor(self, codes: Sequence[int]) -> Tensor:
        """int64 [1, N] on the device. Raises ValueError for a code that is no speech token."""
        self.check(codes)
        return to_device(codes, torch.int64, self.device)[None]

    def check(self, codes: Sequence[int]) -> None:
        """Raises ValueError for a code that is no speech token."""
        for code in codes:
            if not 0 <= code < self.num_codes:
                raise ValueError(f"speech token {code} is not in 0..{self.num_codes - 1}")
