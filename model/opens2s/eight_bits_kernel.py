"""A few rows times a matrix of 8-bit numbers, which are widened on their way from memory to the tensor cores.

Needs Triton, which torch brings along wherever it computes on NVIDIA GPUs. Import it only there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Of a tile: the fewest that tensor cores multiply."""
COLUMNS, DEPTH, WARPS, STAGES = 32, 256, 4, 5
"""Of a tile of the matrix; chosen by `benchmarks.opens2s_products`."""


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]  # Triton compiles annotations too, and takes only its own
    x,
    weight,
    scale,
    bias,
    out,
    num_rows,
    num_out,
    num_in,
    has_bias: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
):
    n = tl.program_id(0) * columns + tl.arange(0, columns)
    m = tl.program_id(1) * rows + tl.arange(0, rows)
    k = tl.arange(0, depth)
    total = tl.zeros((rows, columns), dtype=tl.float32)
    for start in range(0, num_in, depth):
        is_in = start + k < num_in
        left = tl.load(
            x + m[:, None] * num_in + start + k[None, :], mask=(m[:, None] < num_rows) & is_in[None, :], other=0.0
        )
        # A row of the matrix is one piece of memory: neighbouring threads read neighbouring bytes.
        right = tl.load(
            weight + n[:, None].to(tl.int64) * num_in + start + k[None, :],
            mask=(n[:, None] < num_out) & is_in[None, :],
            other=0.0,
        )
        total = tl.dot(left, tl.trans(right.to(left.dtype)), total)
    total *= tl.load(scale + n, mask=n < num_out, other=0.0)[None, :]
    if has_bias:
        total += tl.load(bias + n, mask=n < num_out, other=0.0).to(tl.float32)[None, :]
    is_there = (m[:, None] < num_rows) & (n[None, :] < num_out)
    tl.store(out + m[:, None] * num_out + n[None, :], total.to(out.dtype.element_ty), mask=is_there)


def multiply(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    *,
    columns: int = COLUMNS,
    depth: int = DEPTH,
    warps: int = WARPS,
    stages: int = STAGES,
) -> Tensor:
    """x [rows, in] bfloat16 or float16, contiguous; weight [out, in] int8 or float8_e4m3fn, contiguous; scale [out]
    float32; bias [out] or None → [rows, out] in the type of x. Sums are float32."""
    num_rows, num_in = x.shape
    num_out = weight.shape[0]
    out = torch.empty((num_rows, num_out), device=x.device, dtype=x.dtype)
    grid = (triton.cdiv(num_out, columns), triton.cdiv(num_rows, ROWS))
    _multiply[grid](
        x,
        weight,
        scale,
        scale if bias is None else bias,
        out,
        num_rows,
        num_out,
        num_in,
        has_bias=bias is not None,
        rows=ROWS,
        columns=columns,
        depth=depth,
        num_warps=warps,
        num_stages=stages,
    )
    return out
