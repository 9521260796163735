"""The encoder of speech tokens: attention that sees everything up to the end of its own block.

A token sees all earlier tokens and the rest of its block of `block_size`, so its encoding is final once the block is
complete. `encode` uses that: keys and values of complete blocks are kept, and later calls compute only what follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import rows_of
from .config import EncoderConfig

_NORM_EPS = 1e-5


@dataclass(slots=True)
class EncoderCache:
    """Keys and values of the complete blocks of one reply; owned by whoever encodes it."""

    keys: tuple[Tensor, ...] = ()
    """One per layer, [B, heads, num_tokens, head_size]; empty before the first complete block."""
    values: tuple[Tensor, ...] = ()

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0

    @classmethod
    def join(cls, caches: Sequence[EncoderCache]) -> EncoderCache:
        """One cache of the rows of several that are equally long."""
        if len(caches) == 1:
            return caches[0]
        keys, values = (zip(*layers, strict=True) for layers in ([c.keys for c in caches], [c.values for c in caches]))
        return cls(tuple(torch.cat(rows) for rows in keys), tuple(torch.cat(rows) for rows in values))

    def rows(self, count: int) -> list[EncoderCache]:
        """The caches of its `count` rows; none is a view of a batch."""
        if count == 1 or not self.keys:
            return [self] * count
        rows = [[row.clone() for row in rows_of(tensor)] for tensor in (*self.keys, *self.values)]
        half = len(self.keys)
        return [
            EncoderCache(tuple(each[row] for each in rows[:half]), tuple(each[row] for each in rows[half:]))
            for row in range(count)
        ]


class BlockEncoder(nn.Module):
    """Embedded tokens → encodings."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _InputProjection(config)
        self.encoders = nn.ModuleList(_Layer(config) for _ in range(config.num_blocks))
        self.after_norm = nn.LayerNorm(config.output_size, eps=_NORM_EPS)

    def forward(self, embedded: Tensor) -> Tensor:
        """embedded [B, N, input_size], a whole reply → encodings [B, N, output_size]."""
        return self.encode(embedded, EncoderCache())[0]

    def encode(self, embedded: Tensor, cache: EncoderCache) -> tuple[Tensor, EncoderCache]:
        """embedded [B, n, input_size], the tokens after those in `cache` → their encodings [B, n, output_size].

        The returned cache holds the complete blocks among them too; the tokens of an incomplete block have to be given
        again, with what follows them. `cache` itself is left as it was.
        """
        assert embedded.dim() == 3, embedded.shape
        block, past = self.config.block_size, cache.num_tokens
        total = past + embedded.shape[1]
        assert past % block == 0, (past, block)
        complete = total // block * block
        x = self.embed(embedded)
        positions = _relative_positions(total, embedded.shape[1], self.config.output_size, x)
        mask = _block_mask(total, embedded.shape[1], block, x)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for index, layer in enumerate(self.encoders):
            known = (cache.keys[index], cache.values[index]) if past else None
            x, key, value = layer(x, positions, mask, known)
            keys.append(key[:, :, :complete])
            values.append(value[:, :, :complete])
        after = EncoderCache(tuple(keys), tuple(values)) if complete > past else cache
        return self.after_norm(x), after


class _InputProjection(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.out = nn.Sequential(
            nn.Linear(config.input_size, config.output_size), nn.LayerNorm(config.output_size, eps=_NORM_EPS)
        )
        self._scale = math.sqrt(config.output_size)

    def forward(self, embedded: Tensor) -> Tensor:
        projected: Tensor = self.out(embedded)
        return projected * self._scale


class _Layer(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = _RelativeAttention(config)
        self.feed_forward = _FeedForward(config)
        self.norm_mha = nn.LayerNorm(config.output_size, eps=_NORM_EPS)
        self.norm_ff = nn.LayerNorm(config.output_size, eps=_NORM_EPS)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, known: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        attended, key, value = self.self_attn(self.norm_mha(x), positions, mask, known)
        x = x + attended
        return x + self.feed_forward(self.norm_ff(x)), key, value


class _FeedForward(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.w_1 = nn.Linear(config.output_size, config.linear_units)
        self.w_2 = nn.Linear(config.linear_units, config.output_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class _RelativeAttention(nn.Module):
    """score(i, j) = [(q_i + u)·k_j + (q_i + v)·W_pos pe(i - j)] / sqrt(head size), as in Transformer-XL."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, heads = config.output_size, config.attention_heads
        self._heads, self._head_size = heads, config.head_size
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, config.head_size))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, config.head_size))
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.linear_pos = nn.Linear(size, size, bias=False)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, known: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, n, size], positions [n + K - 1, size], mask [n, K] → [B, n, size], keys, values [B, heads, K, d]."""
        batch, n, size = x.shape
        query, key, value = (self._split(layer(x)) for layer in (self.linear_q, self.linear_k, self.linear_v))
        if known is not None:
            key, value = torch.cat((known[0], key), 2), torch.cat((known[1], value), 2)
        total = key.shape[2]
        # [n + K - 1, size] → [heads, d, n + K - 1]
        distance = self.linear_pos(positions).view(-1, self._heads, self._head_size).permute(1, 2, 0)
        by_distance = (query + self.pos_bias_v[:, None]) @ distance  # [B, heads, n, n + K - 1]
        # Row i holds the distances from the largest down; key j of row i stands at column (n - 1 - i) + j.
        rows = torch.arange(n, device=x.device)[:, None]
        columns = (n - 1 - rows) + torch.arange(total, device=x.device)
        by_key = by_distance.gather(3, columns.expand(batch, self._heads, n, total))
        bias = (by_key / math.sqrt(self._head_size)).masked_fill(~mask, float("-inf"))
        attended = F.scaled_dot_product_attention(query + self.pos_bias_u[:, None], key, value, attn_mask=bias)
        # [B, heads, n, d] → [B, n, size]
        return self.linear_out(attended.transpose(1, 2).reshape(batch, n, size)), key, value

    def _split(self, x: Tensor) -> Tensor:
        """[B, n, size] → [B, heads, n, d]"""
        return x.view(x.shape[0], x.shape[1], self._heads, self._head_size).transpose(1, 2)


def _relative_positions(total: int, n: int, size: int, like: Tensor) -> Tensor:
    """pe(r) of the distances that the last `n` of `total` tokens have to all tokens: [n + total - 1, size].

    They run from r = total - 1 down to -(n - 1). Even entries are sines, odd ones cosines of r / 10000^(2k / size).
    In float32 whatever the model's type.
    """
    distance = torch.arange(total - 1, -n, -1, device=like.device, dtype=torch.float32)[:, None]
    steps = torch.arange(0, size, 2, device=like.device, dtype=torch.float32)
    angle = distance * torch.exp(steps * -(math.log(10_000.0) / size))
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1).to(like.dtype)


def _block_mask(total: int, n: int, block: int, like: Tensor) -> Tensor:
    """[n, total] bool: True where one of the last `n` tokens may look; up to the end of its own block."""
    tokens = torch.arange(total, device=like.device) // block
    return tokens[total - n :, None] >= tokens
