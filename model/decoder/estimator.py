"""The U-Net over mel frames that tells the ODE where to go.

Not causal: its attention sees all frames and its group normalisation runs over time. Module names are those of the
released file. Works on any batch of equally long pieces; no step depends on the data, so it can be captured in a graph.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import EstimatorConfig

_GROUPS = 8  # of every group normalisation
_FEED_FORWARD = 4  # width of the feed-forward layer in multiples of the block's
_TIME_SCALE = 1000.0


class Estimator(nn.Module):
    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        self.config = config
        widths, time = config.channels, config.time_size
        self.time_mlp = _TimeMlp(config.in_channels, time)
        self.down_blocks = nn.ModuleList()
        before = config.in_channels
        for level, width in enumerate(widths):
            is_last = level == len(widths) - 1
            shorten = nn.Conv1d(width, width, 3, padding=1) if is_last else _Downsample(width)
            self.down_blocks.append(_Level(before, width, config, shorten))
            before = width
        self.mid_blocks = nn.ModuleList(_Level(before, before, config) for _ in range(config.num_mid_blocks))
        self.up_blocks = nn.ModuleList()
        for level, (width, after) in enumerate(zip(widths[::-1], (*widths[-2::-1], widths[0]), strict=True)):
            is_last = level == len(widths) - 1
            lengthen = nn.Conv1d(after, after, 3, padding=1) if is_last else _Upsample(after)
            self.up_blocks.append(_Level(2 * width, after, config, lengthen))  # twice: the skip is joined to it
        self.final_block = _NormedConv(widths[0], widths[0])
        self.final_proj = nn.Conv1d(widths[0], config.out_channels, 1)

    def fuse(self) -> None:
        """Make it faster, once its weights are there for good."""
        for module in self.modules():
            if isinstance(module, _Attention):
                module.fuse()

    def embed_time(self, t: Tensor) -> Tensor:
        """t [B] in 0..1 → embedding [B, time_size]; independent of the frames, so it can be computed ahead."""
        half = self.config.in_channels // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float32)
        angle = _TIME_SCALE * t.float()[:, None] * torch.exp(steps * -(math.log(10_000.0) / (half - 1)))
        embedded: Tensor = self.time_mlp(torch.cat((angle.sin(), angle.cos()), 1).to(self.final_proj.weight.dtype))
        return embedded

    def forward(self, inputs: Tensor, time: Tensor) -> Tensor:
        """inputs [B, in_channels, T]: state, tokens, speaker, condition; time [B, time_size] → [B, out_channels, T]."""
        assert inputs.dim() == 3, inputs.shape
        time = F.mish(time)  # every residual block starts with it
        x = inputs
        skips: list[Tensor] = []
        for level in self.down_blocks:
            skip, x = level(x, time)
            skips.append(skip)
        for level in self.mid_blocks:
            _, x = level(x, time)
        for level in self.up_blocks:
            skip = skips.pop()
            # Halving rounds up, so doubling may give one frame too many.
            _, x = level(torch.cat((x[:, :, : skip.shape[2]], skip), 1), time)
        out: Tensor = self.final_proj(self.final_block(x))
        return out


class _Level(nn.ModuleList):
    """Residual block, transformer blocks and maybe a change of length: 0, 1 and 2 of the released file."""

    def __init__(self, before: int, after: int, config: EstimatorConfig, resize: nn.Module | None = None) -> None:
        transformers = nn.Sequential(*(_TransformerBlock(after, config) for _ in range(config.n_blocks)))
        modules: list[nn.Module] = [_ResidualBlock(before, after, config.time_size), transformers]
        super().__init__(modules if resize is None else [*modules, resize])

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, T] → [B, C', T] before and after the change of length."""
        x = self[0](x, time)
        x = self[1](x.transpose(1, 2)).transpose(1, 2)  # transformer blocks work on [B, T, C]
        return x, self[2](x) if len(self) > 2 else x


class _TimeMlp(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(before, after)
        self.linear_2 = nn.Linear(after, after)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class _NormedConv(nn.Module):
    """Convolution, group normalisation (torch gathers its statistics in float32 whatever the type), Mish."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv1d(before, after, 3, padding=1), nn.GroupNorm(_GROUPS, after), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Identity(), nn.Linear(time, after))  # Identity: Mish, applied once for all blocks
        self.block1 = _NormedConv(before, after)
        self.block2 = _NormedConv(after, after)
        self.res_conv = nn.Conv1d(before, after, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.block1(x) + self.mlp(time)[:, :, None]
        out: Tensor = self.block2(hidden) + self.res_conv(x)
        return out


class _TransformerBlock(nn.Module):
    def __init__(self, size: int, config: EstimatorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size)
        self.attn1 = _Attention(size, config)
        self.norm3 = nn.LayerNorm(size)
        self.ff = _FeedForward(size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class _Attention(nn.Module):
    def __init__(self, size: int, config: EstimatorConfig) -> None:
        super().__init__()
        self._heads, self._head_dim = config.num_heads, config.attention_head_dim
        inner = self._heads * self._head_dim
        self.to_q = nn.Linear(size, inner, bias=False)
        self.to_k = nn.Linear(size, inner, bias=False)
        self.to_v = nn.Linear(size, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, size)])
        self._fused: Tensor | None = None

    def fuse(self) -> None:
        """One matrix for queries, keys and values: a third of the launches. Weights must not change afterwards."""
        self._fused = torch.cat([layer.weight for layer in (self.to_q, self.to_k, self.to_v)])

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, _ = x.shape
        if self._fused is None:
            projected = torch.cat([layer(x) for layer in (self.to_q, self.to_k, self.to_v)], 2)
        else:
            projected = F.linear(x, self._fused)
        # [B, T, 3 · heads · d] → 3 x [B, heads, T, d]
        query, key, value = projected.view(batch, frames, 3, self._heads, self._head_dim).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.to_out[0](attended.transpose(1, 2).reshape(batch, frames, -1))
        return out


class _FeedForward(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [_GeluProjection(size, _FEED_FORWARD * size), nn.Identity(), nn.Linear(_FEED_FORWARD * size, size)]
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net[2](self.net[0](x))
        return out


class _GeluProjection(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.proj = nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out
