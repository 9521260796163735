"""Sizes and constants of the decoder, valid from construction. No torch in here, no files.

The defaults are the released decoder; `config_file.py` reads another from its config.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import prod


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The block-causal encoder of speech tokens."""

    input_size: int = 512
    output_size: int = 512
    attention_heads: int = 8
    linear_units: int = 2048
    num_blocks: int = 6
    """Layers."""
    block_size: int = 10
    """Tokens that see each other; a token's encoding is final once its block is complete."""

    @property
    def head_size(self) -> int:
        return self.output_size // self.attention_heads


@dataclass(frozen=True, slots=True)
class EstimatorConfig:
    """The U-Net over mel frames that the ODE asks for a direction."""

    in_channels: int = 320
    """State, expanded tokens, speaker and condition, each of mel size."""
    out_channels: int = 80
    channels: tuple[int, ...] = (256, 256)
    """Width of each level; between two levels the frames are halved."""
    attention_head_dim: int = 64
    n_blocks: int = 4
    """Transformer blocks after each residual block."""
    num_mid_blocks: int = 12
    num_heads: int = 8

    @property
    def time_size(self) -> int:
        return 4 * self.channels[0]


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """Speech tokens → mel."""

    vocab_size: int = 16_384
    input_size: int = 512
    output_size: int = 80
    """Mel bins."""
    spk_embed_dim: int = 192
    token_rate: Fraction = Fraction(25, 2)
    """Speech tokens per second."""
    guidance: float = 0.7
    """r in (1 + r) f(conditional) - r f(unconditional)."""
    regulator_layers: int = 4
    """Convolutions that smooth the expanded tokens, before the last one of width 1."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)


@dataclass(frozen=True, slots=True)
class VocoderConfig:
    """Mel → samples: a harmonic source shaped by a convolutional trunk that ends in an inverse STFT."""

    in_channels: int = 80
    base_channels: int = 512
    nb_harmonics: int = 8
    """Overtones above the fundamental."""
    sample_rate: int = 22_050
    sine_amplitude: float = 0.1
    noise_amplitude: float = 0.003
    """Standard deviation of the noise added to voiced samples; unvoiced ones get a third of `sine_amplitude`."""
    voiced_threshold: float = 10.0
    """Hz; a frame with a lower fundamental is unvoiced."""
    upsample_rates: tuple[int, ...] = (8, 8)
    upsample_kernels: tuple[int, ...] = (16, 16)
    n_fft: int = 16
    hop: int = 4
    """Samples between two columns of the short-time Fourier transform."""
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    source_kernels: tuple[int, ...] = (7, 11)
    source_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 2
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    f0_channels: int = 512

    @property
    def frame_samples(self) -> int:
        """Samples per mel frame: 256."""
        return prod(self.upsample_rates) * self.hop

    @property
    def num_harmonics(self) -> int:
        """Sines of the source, the fundamental included."""
        return self.nb_harmonics + 1

    @property
    def source_strides(self) -> tuple[int, ...]:
        """STFT columns per step of each stage's input, first stage first: 8, 1."""
        return tuple(prod(self.upsample_rates[stage + 1 :]) for stage in range(len(self.upsample_rates)))


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    flow: FlowConfig = field(default_factory=FlowConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)

    @property
    def sample_rate(self) -> int:
        """Hz of the sound."""
        return self.vocoder.sample_rate

    @property
    def frames_per_token(self) -> Fraction:
        """Mel frames per speech token: 6.890625."""
        return Fraction(self.sample_rate, self.vocoder.frame_samples) / self.flow.token_rate

    def frames(self, num_tokens: int) -> int:
        """Mel frames of `num_tokens` speech tokens.

        Whole-number arithmetic; the reference's floating point loses one frame now and then from token 2240 (3
        minutes) on.
        """
        return int(num_tokens * self.frames_per_token)

    def token_of_frame(self, frame: int) -> int:
        """The speech token that mel frame `frame` belongs to, both counted from the start of the reply."""
        return int(frame / self.frames_per_token)


RELEASED = DecoderConfig()
"""glm-4-voice-decoder as released."""
