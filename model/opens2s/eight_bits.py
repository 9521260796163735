"""Linear layers whose weights are stored in 8 bits and multiplied as they are, without being expanded in memory.

A step of a language model waits for its weights to come from memory, so half the bytes are worth more than the work of
widening them. Activations keep their type: the product of a narrow matrix and a wide vector is not in cuBLAS, so it is
a Triton kernel (`eight_bits_kernel`). Without Triton, on a CPU and for long prompts the matrix is expanded first.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest number of each format that is used."""
NEEDS = {torch.int8: (8, 0), torch.float8_e4m3fn: (8, 9)}
"""Compute capability from which on the kernel can read each format: Ampere; Ada and Hopper."""
ROWS_AT_ONCE = 4_096
"""Of a matrix that is narrowed: the largest would take 2.5 GB in float32, on a GPU that may be full."""
MOST_ROWS = 64
"""Products of more rows compute rather than read, and cuBLAS computes faster."""


def narrow(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """weight [out, in] → the same in int8 or float8_e4m3fn, symmetric, and float32 scales [out], one per row."""
    largest = LARGEST[dtype]
    units = torch.empty_like(weight, dtype=dtype)
    scale = torch.empty(weight.shape[0], device=weight.device)
    for start in range(0, weight.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        wide = weight[rows].to(torch.float32, copy=True)
        scale[rows] = wide.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * largest) / largest
        wide /= scale[rows, None]
        if dtype == torch.int8:
            wide.round_()
        units[rows] = wide.clamp_(-largest, largest).to(dtype)
    return units, scale


class EightBitLinear(nn.Module):
    """`nn.Linear` with a narrow weight. For inference only: nothing of it can be trained."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        """Takes over the values of `linear`, which keeps its own. dtype: int8 or float8_e4m3fn."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = narrow(linear.weight.data, dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.data)
        self._has_kernel = (
            weight.is_cuda
            and torch.cuda.get_device_capability(weight.device) >= NEEDS[dtype]
            and find_spec("triton") is not None
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out], in the type of `x`."""
        rows = x.numel() // self.in_features
        if self._has_kernel and 0 < rows <= MOST_ROWS and x.dtype != torch.float32:
            from .eight_bits_kernel import multiply

            flat = x.reshape(rows, self.in_features).contiguous()
            return multiply(flat, self.weight, self.scale, self.bias).view(*x.shape[:-1], self.out_features)
        return F.linear(x, self.expanded(x.dtype), self.bias)

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight, [out, in], as it is multiplied."""
        return self.weight.to(dtype) * self.scale[:, None].to(dtype)
