"""HiFT: mel → samples. A pitch predictor drives a harmonic source; a convolutional trunk shapes it into a spectrum.

Weight normalisation is folded into plain weights when a file is loaded (weights.py). The pitch predictor, the source
and the Fourier transforms stay in float32 whatever the trunk's type: pitch in bfloat16 would be off by up to 0.4 %.
Nothing here depends on the data's values, so every call can be captured in a CUDA graph per length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.graphs import GraphPool, RecordedFunction

from .config import VocoderConfig
from .fourier import istft, stft
from .source import SineSource, SourceDraws

_LAST_SLOPE = 0.01  # of the leaky ReLU before the last convolution; torch's default, in the reference by omission
_MAX_MAGNITUDE = 100.0
FLOAT32_PARTS = ("f0_predictor", "m_source")


class Vocoder(nn.Module):
    def __init__(self, config: VocoderConfig, pool: GraphPool | None = None) -> None:
        """`pool` is what recordings work in; see `Decoder.record`."""
        super().__init__()
        self.config = config
        bins = config.n_fft + 2  # real and imaginary parts
        width = config.base_channels
        self.f0_predictor = F0Predictor(config)
        self.m_source = SineSource(config)
        self.conv_pre = nn.Conv1d(config.in_channels, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for stage, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernels, strict=True)):
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=(kernel - rate) // 2))
            width //= 2
            stride = config.source_strides[stage]
            shape = (1, 1, 0) if stride == 1 else (2 * stride, stride, stride // 2)
            self.source_downs.append(nn.Conv1d(bins, width, shape[0], shape[1], padding=shape[2]))
            self.source_resblocks.append(ResBlock(width, config.source_kernels[stage], config.source_dilations[stage]))
            self.resblocks.extend(
                ResBlock(width, size, dilations)
                for size, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True)
            )
        self.conv_post = nn.Conv1d(width, bins, 7, padding=3)
        self.voice = RecordedFunction(self.forward, pool)
        """`forward`, or recordings of it where somebody made them."""
        self.pitch = RecordedFunction(self.predict_f0, pool)
        """`predict_f0`, likewise, and of the same sizes."""

    def record(self, frames: int, batch: int = 1) -> bool:
        """Record `voice` and `pitch` for `batch` mels of `frames` frames. False without a GPU, or if they exist."""
        device, config = self.conv_pre.weight.device, self.config
        mel = torch.zeros((batch, config.in_channels, frames), device=device)
        self.pitch.record(mel)
        return self.voice.record(mel, torch.zeros((batch, frames * config.frame_samples), device=device))

    def recorded_batches(self, frames: int) -> set[int]:
        """Batch sizes for which `voice` and `pitch` are recorded for mels of `frames` frames."""
        return {batch for batch, _, length in self.voice.first_shapes if length == frames}

    def predict_f0(self, mel: Tensor) -> Tensor:
        """mel [B, mel bins, T] → fundamental frequency [B, T] in Hz, float32."""
        f0: Tensor = self.f0_predictor(mel.float())
        return f0

    def excite(self, f0: Tensor, draws: SourceDraws, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f0 [B, T] → source [B, T · 256] and phase clock [B, T + 1]; see SineSource."""
        source, clock = self.m_source(f0, draws, start)
        return source, clock

    def forward(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel [B, mel bins, T] and source [B, T · 256] → samples [B, T · 256] float32, at most `audio_limit` in
        size."""
        config = self.config
        spectrum = self.spectrum(mel, source).float()
        half = config.n_fft // 2 + 1
        magnitude = spectrum[:, :half].exp().clamp(max=_MAX_MAGNITUDE)
        phase = spectrum[:, half:].sin()
        samples = istft(magnitude * phase.cos(), magnitude * phase.sin(), config.n_fft, config.hop)
        return samples.clamp(-config.audio_limit, config.audio_limit)

    def spectrum(self, mel: Tensor, source: Tensor) -> Tensor:
        """The trunk: [B, n_fft + 2, T · 64 + 1], logarithmic magnitudes and phases before their sine."""
        config = self.config
        assert source.shape == (mel.shape[0], mel.shape[2] * config.frame_samples), (mel.shape, source.shape)
        dtype = self.conv_pre.weight.dtype
        excitation = stft(source, config.n_fft, config.hop).to(dtype)
        x = self.conv_pre(mel.to(dtype))
        kinds = len(config.resblock_kernels)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, config.lrelu_slope))
            if stage == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")  # one column more, as the centred transform of the source has
            x = x + self.source_resblocks[stage](self.source_downs[stage](excitation))
            branches = self.resblocks[stage * kinds : (stage + 1) * kinds]
            x = torch.stack([branch(x) for branch in branches]).mean(0)
        out: Tensor = self.conv_post(F.leaky_relu(x, _LAST_SLOPE))
        return out


class F0Predictor(nn.Module):
    LAYERS = 5

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        before = config.in_channels
        for _ in range(self.LAYERS):
            modules += [nn.Conv1d(before, config.f0_channels, 3, padding=1), nn.ELU()]
            before = config.f0_channels
        self.condnet = nn.Sequential(*modules)
        self.classifier = nn.Linear(before, 1)

    def forward(self, mel: Tensor) -> Tensor:
        hidden: Tensor = self.classifier(self.condnet(mel).transpose(1, 2))
        return hidden.squeeze(2).abs()


class ResBlock(nn.Module):
    """x += conv(snake(dilated conv(snake(x)))) for each dilation."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        steps = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for first, dilated, second, conv in steps:
            x = x + conv(second(dilated(first(x))))
        return x


class Snake(nn.Module):
    """x + sin²(a x) / a, with one a per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        # 1e-9 would vanish in half precision and leave a division by zero.
        scale = (1.0 / (alpha.float() + 1e-9)).to(x.dtype)
        return x + scale * torch.sin(alpha * x).square()
