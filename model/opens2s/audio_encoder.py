"""Mel windows -> vectors at 25 Hz (Qwen2-Audio's encoder), and those -> embeddings of the text model at 6.25 Hz.

The encoder takes whole windows of 30 s without any mask: the model was trained with the silence behind the utterance
taking part, so leaving it out changes the result. docs/opens2s.md has the shapes at every hop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.graphs import RecordedFunction

from .config import AudioEncoderConfig, OpenS2SConfig
from .features import LogMel
from .tensors import Target, targets_of

LAYER_NORM_EPS = 1e-5


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer; q, k and v as one projection."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.num_heads = config.num_heads
        self.self_attn_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.qkv_proj = nn.Linear(hidden, 3 * hidden)
        self.out_proj = nn.Linear(hidden, hidden)
        self.final_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(hidden, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [W, T, hidden] -> the same shape."""
        windows, length, hidden = x.shape
        qkv = self.qkv_proj(self.self_attn_layer_norm(x))
        # [W, T, 3 * hidden] -> 3 x [W, heads, T, head_dim]
        q, k, v = qkv.view(windows, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out_proj(attended.transpose(1, 2).reshape(windows, length, hidden))
        transformed: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return x + transformed

    def targets(self, prefix: str) -> Iterator[Target]:
        hidden = self.out_proj.in_features
        for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
            part = slice(number * hidden, (number + 1) * hidden)
            yield Target(f"{prefix}self_attn.{name}.weight", self.qkv_proj.weight.data[part])
            if name == "k_proj":
                yield Target("", self.qkv_proj.bias.data[part])  # it has none in the checkpoint
            else:
                yield Target(f"{prefix}self_attn.{name}.bias", self.qkv_proj.bias.data[part])
        yield from targets_of(f"{prefix}self_attn.out_proj", self.out_proj)
        for name in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"):
            yield from targets_of(f"{prefix}{name}", getattr(self, name))


class AudioEncoder(nn.Module):
    """Windows of mel frames -> half as many vectors as positions."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.config = config
        self.scale = hidden**0.5 if config.scale_embedding else 1.0
        self.conv1 = nn.Conv1d(config.num_mel_bins, hidden, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(hidden, hidden, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.num_positions, hidden)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)

    def forward(self, windows: Tensor) -> Tensor:
        """windows [W, mel bins, 2 * positions] -> [W, positions / 2, hidden] (3000 frames -> 750 vectors)."""
        assert windows.shape[1:] == (self.config.num_mel_bins, self.config.window_frames), windows.shape
        x = F.gelu(self.conv1(windows))
        x = F.gelu(self.conv2(x)).transpose(1, 2) * self.scale
        x = x + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        pooled = F.avg_pool1d(x.transpose(1, 2), kernel_size=2, stride=2).transpose(1, 2)
        normed: Tensor = self.layer_norm(pooled)
        return normed

    def targets(self, prefix: str) -> Iterator[Target]:
        for name in ("conv1", "conv2", "embed_positions", "layer_norm"):
            yield from targets_of(f"{prefix}{name}", getattr(self, name))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, EncoderLayer)
            yield from layer.targets(f"{prefix}layers.{number}.")


class Adapter(nn.Module):
    """Convolutions that halve the rate, then a residual bottleneck: encoder vectors -> embeddings of the text model."""

    def __init__(self, input_size: int, output_size: int, inner_size: int, kernels: Sequence[int]) -> None:
        super().__init__()
        last = len(kernels) - 1
        self.conv_layers = nn.ModuleList(
            nn.Conv1d(
                input_size,
                # GLU halves the channels; those in the middle have twice the input's
                2 * (output_size if number == last else input_size),
                kernel_size=kernel,
                stride=2,
                padding=kernel // 2,
            )
            for number, kernel in enumerate(kernels)
        )
        self.fc1 = nn.Linear(output_size, inner_size, bias=False)
        self.fc2 = nn.Linear(inner_size, output_size, bias=False)
        self.ln = nn.LayerNorm(output_size, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, input] -> [B, about T / 4, output]; see `length`."""
        for conv in self.conv_layers:
            assert isinstance(conv, nn.Conv1d)
            x = F.glu(_convolve(conv, x), dim=2)
        x = x + self.fc2(F.gelu(self.fc1(x)))
        normed: Tensor = self.ln(x)
        return normed

    def length(self, num_vectors: int) -> int:
        """How many embeddings so many vectors become."""
        for _ in self.conv_layers:
            num_vectors = (num_vectors - 1) // 2 + 1
        return num_vectors

    def targets(self, prefix: str) -> Iterator[Target]:
        for number, conv in enumerate(self.conv_layers):
            yield from targets_of(f"{prefix}subsampler.conv_layers.{number}", conv)
        for name in ("fc1", "fc2", "ln"):
            yield from targets_of(f"{prefix}{name}", getattr(self, name))


class Listener(nn.Module):
    """Encoder and adapter: what an utterance is to the text model."""

    def __init__(self, config: OpenS2SConfig) -> None:
        super().__init__()
        self.encoder = AudioEncoder(config.audio)
        self.adapter = Adapter(
            config.audio.hidden_size, config.llm.hidden_size, config.adapter_inner_dim, config.conv_kernel_sizes
        )
        self.recorded = RecordedFunction[Tensor](self.encoder)
        """The encoder, or a recording of it where somebody made one."""

    def num_embeddings(self, num_frames: int) -> int:
        """How many embeddings an utterance of `num_frames` mel frames becomes: 6.25 per second."""
        return self.adapter.length(self._num_vectors(num_frames))

    def num_windows(self, num_frames: int) -> int:
        """How many windows an utterance of `num_frames` mel frames takes."""
        return max(1, -(-num_frames // self.encoder.config.window_frames))

    @torch.inference_mode()
    def encode(self, mel: LogMel) -> Tensor:
        """One utterance -> [embeddings, hidden of the text model]; longer than a window: window by window."""
        windows = [self.encode_window(mel, number) for number in range(self.num_windows(mel.num_frames))]
        return self.adapt(windows, mel.num_frames)

    @torch.inference_mode()
    def encode_window(self, mel: LogMel, number: int) -> Tensor:
        """One window of an utterance -> its vectors [positions / 2, hidden], the silence at the end included."""
        size = self.encoder.config.window_frames
        weight = self.encoder.conv1.weight
        features = torch.from_numpy(mel.features[None, :, number * size : (number + 1) * size])
        vectors: Tensor = self.recorded(features.to(weight.dtype).to(weight.device))  # half the bytes to move
        return vectors[0]

    @torch.inference_mode()
    def adapt(self, windows: Sequence[Tensor], num_frames: int) -> Tensor:
        """All windows of an utterance of `num_frames` mel frames -> [embeddings, hidden of the text model]."""
        vectors = torch.cat(list(windows))[: self._num_vectors(num_frames)]
        embeddings: Tensor = self.adapter(vectors[None])[0]
        return embeddings

    def record(self) -> bool:
        """Record the encoder for one window. False where there is no GPU, or it is recorded already."""
        config, weight = self.encoder.config, self.encoder.conv1.weight
        shape = (1, config.num_mel_bins, config.window_frames)
        return self.recorded.record(torch.zeros(shape, device=weight.device, dtype=weight.dtype))

    @torch.inference_mode()
    def encode_batch(self, mels: Sequence[LogMel]) -> list[Tensor]:
        """As the reference encodes all audios of a conversation: padded to the longest.

        The last embedding of a shorter one then takes in what the encoder made of the silence behind it, so it differs
        from `encode`'s. For parity only: turn by turn, an utterance must not change when a longer one follows.
        """
        lengths = [self._num_vectors(mel.num_frames) for mel in mels]
        rows = [self._encode_windows(mel)[: max(lengths)] for mel in mels]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        padded = F.pad(padded, (0, 0, 0, max(lengths) - padded.shape[1]))
        embedded = self.adapter(padded)
        return [row[: self.adapter.length(length)] for row, length in zip(embedded, lengths, strict=True)]

    def _encode_windows(self, mel: LogMel) -> Tensor:
        """[windows * vectors per window, hidden], the silence at the end included."""
        return torch.cat([self.encode_window(mel, number) for number in range(self.num_windows(mel.num_frames))])

    def _num_vectors(self, num_frames: int) -> int:
        """Valid vectors of an utterance: of each of its windows on its own, added up."""
        size = self.encoder.config.window_frames
        full, rest = divmod(num_frames, size)
        return full * _pooled(size) + (_pooled(rest) if rest else 0)

    def targets(self) -> Iterator[Target]:
        yield from self.encoder.targets("audio_encoder_model.")
        yield from self.adapter.targets("audio_adapter.")


def _convolve(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """The convolution over x [B, T, C], as one matrix product: an utterance may have any length, and cuDNN would plan
    anew for each."""
    padding, kernel, stride = int(conv.padding[0]), conv.kernel_size[0], conv.stride[0]
    # [B, T, C] -> [B, T', C, kernel] -> [B, T', C * kernel], in the order of the weights
    windows = F.pad(x, (0, 0, padding, padding)).unfold(1, kernel, stride).flatten(2)
    return F.linear(windows, conv.weight.flatten(1), conv.bias)


def _pooled(num_frames: int) -> int:
    """Vectors of `num_frames` mel frames: halved by the second convolution, then by the pooling."""
    convolved = (num_frames - 1) // 2 + 1
    return max(0, (convolved - 2) // 2 + 1)
