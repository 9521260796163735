"""Keys and values in blocks, and attention over the blocks of a batch (Kwon et al., PagedAttention, 2023).

The blocks of each row are gathered and go through torch's scaled dot product attention: one copy more than in a kernel
that walks the table itself, and the same code on every device. Shapes depend on the size of the batch and of its tables
alone, so a pass can be recorded as a CUDA graph.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.opens2s.config import LanguageModelConfig


class PagedKvCache:
    """Blocks 1 to `num_blocks` of `block_size` positions; block 0 takes what padding writes."""

    def __init__(
        self, config: LanguageModelConfig, num_blocks: int, block_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_layers, num_blocks + 1, block_size, config.num_kv_heads, config.head_dim)
        self.block_size = block_size
        self.k, self.v = (_zeros(shape, device, dtype) for _ in range(2))

    @staticmethod
    def bytes_per_block(config: LanguageModelConfig, block_size: int, dtype: torch.dtype) -> int:
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize * block_size

    def at(self, tables: Tensor, starts: Tensor, counts: Tensor, length: int) -> PagedPass:
        """The pass over `length` tokens per row: row b fills positions starts[b] to starts[b] + counts[b] - 1; what is
        beyond is padding. tables int64 [B, R], filled up with any block of the row itself; starts and counts int64
        [B]."""
        return PagedPass(self.k, self.v, tables, starts, counts, length)

    @torch.inference_mode()
    def copy_out(self, blocks: list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of blocks, [layers, blocks, block_size, kv heads, head_dim] each, on the host."""
        index = torch.tensor(blocks, dtype=torch.int64, device=self.k.device)
        return self.k[:, index].cpu(), self.v[:, index].cpu()

    @torch.inference_mode()
    def copy_in(self, blocks: list[int], k: Tensor, v: Tensor) -> None:
        index = torch.tensor(blocks, dtype=torch.int64, device=self.k.device)
        self.k[:, index] = k.to(self.k.device)
        self.v[:, index] = v.to(self.v.device)

    @torch.inference_mode()
    def zero(self, blocks: list[int]) -> None:
        """What is masked out still takes part as 0 times its value, so numbers that are not finite must go. Padding's
        block goes with them."""
        index = torch.tensor([0, *blocks], device=self.k.device)
        self.k[:, index] = 0
        self.v[:, index] = 0


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """On a CPU pages of the system's that take memory once they are written; torch writes them all at once."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


class PagedPass:
    """One forward pass's view of a cache; a `kv_cache.Attention`."""

    def __init__(self, k: Tensor, v: Tensor, tables: Tensor, starts: Tensor, counts: Tensor, length: int) -> None:
        self._k, self._v, self._tables = k, v, tables
        block_size = k.shape[2]
        offsets = torch.arange(length, device=tables.device)
        self.positions = starts[:, None] + offsets  # [B, T]
        is_real = offsets < counts[:, None]
        block = tables.gather(1, (self.positions // block_size).clamp(max=tables.shape[1] - 1))
        # Places in a layer's flattened blocks, [B * T]; padding goes to the block that is nobody's.
        self._places = torch.where(is_real, block * block_size + self.positions % block_size, 0).flatten()
        reach = torch.arange(tables.shape[1] * block_size, device=tables.device)
        # Padding looks at the first position, so that no row of the softmax is empty: [B, T, reach]
        self._mask = reach <= torch.where(is_real, self.positions, 0)[:, :, None]
        self._bias: Tensor | None = None
        self._picked = tables.flatten()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._k[layer], self._v[layer]
        batch, heads, length, head_dim = q.shape
        kv_heads = k.shape[1]
        keys.view(-1, kv_heads, head_dim).index_copy_(0, self._places, k.transpose(1, 2).flatten(0, 1))
        values.view(-1, kv_heads, head_dim).index_copy_(0, self._places, v.transpose(1, 2).flatten(0, 1))
        # The tables pick [B * R, block_size, kv heads, head_dim] -> [B, kv heads, reach, head_dim]
        past_k, past_v = (
            cached.index_select(0, self._picked).view(batch, -1, kv_heads, head_dim).transpose(1, 2)
            for cached in (keys, values)
        )
        # Query heads that share a key head become rows of one query, so that no SDPA kernel has to repeat keys:
        # [B, heads, T, head_dim] -> [B, kv heads, group * T, head_dim]
        group = heads // kv_heads
        grouped = q.reshape(batch, kv_heads, group * length, head_dim)
        if self._bias is None:  # for the first layer; all others have as many heads
            self._bias = torch.zeros_like(self._mask, dtype=q.dtype).masked_fill(~self._mask, float("-inf"))
            self._bias = self._bias[:, None].expand(batch, group, length, -1).reshape(batch, 1, group * length, -1)
        return F.scaled_dot_product_attention(grouped, past_k, past_v, attn_mask=self._bias).reshape(q.shape)
