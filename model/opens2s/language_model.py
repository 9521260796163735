"""A Qwen3 or Qwen2 decoder, small enough to read: embeddings in, hidden states out.

Projections that read the same input are one matrix (q, k, v; gate, up). Positions and attention come from the cache
(`kv_cache.Attention`), so the same code runs one sequence eagerly and a batch inside a CUDA graph.
tests/model/opens2s/test_language_model.py holds it against transformers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LanguageModelConfig
from .eight_bits import EightBitLinear
from .kv_cache import Attention
from .tensors import Target, targets_of


class RotaryEmbedding(nn.Module):
    """Angles of the rotary position embedding (RoFormer), halves rotated as in Llama."""

    inverse_frequencies: Tensor

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self._theta, self._dim = config.rope_theta, config.head_dim
        self.register_buffer("inverse_frequencies", torch.empty(config.head_dim // 2), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Compute the frequencies (again, after the module was made on the meta device)."""
        buffer = self.inverse_frequencies
        exponents = torch.arange(0, self._dim, 2, dtype=torch.float32) / self._dim
        self.inverse_frequencies = (1.0 / self._theta**exponents).to(buffer.device)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """positions [B, T] -> cosines, and sines with the sign that `rotate` wants, [B, 1, T, head_dim]."""
        angles = positions[:, None, :, None].float() * self.inverse_frequencies.float()
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, heads, T, head_dim], rotated; the sines of the first half are negative, which spares a kernel per layer."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


class DecoderLayer(nn.Module):
    """Attention and SwiGLU, each behind an RMSNorm."""

    def __init__(self, config: LanguageModelConfig, number: int) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.number = number
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, head_dim
        rows = (config.num_heads + 2 * config.num_kv_heads) * head_dim
        self.input_layernorm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.qkv_proj = nn.Linear(hidden, rows, bias=config.has_qkv_bias)
        self.o_proj = nn.Linear(config.num_heads * head_dim, hidden, bias=config.has_output_bias)
        self.q_norm = nn.RMSNorm(head_dim, eps=config.rms_norm_eps) if config.has_qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim, eps=config.rms_norm_eps) if config.has_qk_norm else None
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.gate_up_proj = nn.Linear(hidden, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """x [B, T, hidden] -> the same shape."""
        batch, length, _ = x.shape
        qkv = self.qkv_proj(self.input_layernorm(x)).view(batch, length, -1, self.head_dim)
        q, k, v = qkv.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, heads, T, head_dim]
        attended = attention.attend(self.number, rotate(q, cos, sin), rotate(k, cos, sin), v)
        x = x + self.o_proj(attended.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up_proj(self.post_attention_layernorm(x)).chunk(2, dim=-1)
        transformed: Tensor = self.down_proj(F.silu(gate) * up)
        return x + transformed

    def targets(self, prefix: str) -> Iterator[Target]:
        sizes = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        start = 0
        for name, heads in zip(("q_proj", "k_proj", "v_proj"), sizes, strict=True):
            part = slice(start, start + heads * self.head_dim)
            yield Target(f"{prefix}self_attn.{name}.weight", self.qkv_proj.weight.data[part])
            if self.qkv_proj.bias is not None:
                yield Target(f"{prefix}self_attn.{name}.bias", self.qkv_proj.bias.data[part])
            start = part.stop
        yield from targets_of(f"{prefix}self_attn.o_proj", self.o_proj)
        for name, norm in (("q_norm", self.q_norm), ("k_norm", self.k_norm)):
            if norm is not None:
                yield from targets_of(f"{prefix}self_attn.{name}", norm)
        half = self.down_proj.in_features
        yield Target(f"{prefix}mlp.gate_proj.weight", self.gate_up_proj.weight.data[:half])
        yield Target(f"{prefix}mlp.up_proj.weight", self.gate_up_proj.weight.data[half:])
        yield from targets_of(f"{prefix}mlp.down_proj", self.down_proj)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield from targets_of(f"{prefix}{name}", getattr(self, name))


class LanguageModel(nn.Module):
    """Token embeddings, layers, final norm and head.

    `rows` are the ids of the vocabulary that are kept, in this order; ids here are indices into them. None keeps all.
    """

    def __init__(self, config: LanguageModelConfig, rows: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.config = config
        self.rows = rows
        count = config.vocab_size if rows is None else len(rows)
        self.embed_tokens = nn.Embedding(count, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, number) for number in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary = RotaryEmbedding(config)
        self.lm_head: nn.Linear | EightBitLinear = nn.Linear(config.hidden_size, count, bias=False)

    def tie_head(self) -> None:
        """Let the embedding table be the head."""
        self.lm_head.weight = self.embed_tokens.weight

    def embed(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., hidden]."""
        embedded: Tensor = self.embed_tokens(ids)
        return embedded

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """Embeddings x [B, T, hidden] -> hidden states after the final norm, the same shape."""
        cos, sin = self.rotary(attention.positions, x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, attention)
        normed: Tensor = self.norm(x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., ids] in float32, as sampling wants them."""
        scores: Tensor = self.lm_head(hidden)
        return scores.float()

    def targets(self, prefix: str) -> Iterator[Target]:
        rows, count = self.rows, self.config.vocab_size
        yield Target(f"{prefix}model.embed_tokens.weight", self.embed_tokens.weight.data, rows, count)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            yield from layer.targets(f"{prefix}model.layers.{number}.")
        yield from targets_of(f"{prefix}model.norm", self.norm)
        yield Target(f"{prefix}lm_head.weight", self.lm_head.weight.data, rows, count, is_optional=True)
