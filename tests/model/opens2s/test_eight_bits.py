"""Linear layers of 8-bit weights: what they keep of the numbers, and that every way of multiplying agrees."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.opens2s.eight_bits import LARGEST, MOST_ROWS, EightBitLinear, narrow

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on a GPU only")
FORMATS = list(LARGEST)


def linear(
    num_in: int, num_out: int, *, bias: bool, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(num_in, num_out, bias=bias).to(device, dtype)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.int8, 0.5 / 127), (torch.float8_e4m3fn, 1 / 16)])
def test_no_number_changes_by_more_than_the_format_s_step(dtype: torch.dtype, limit: float) -> None:
    weight = linear(64, 32, bias=False).weight.data
    units, scale = narrow(weight, dtype)
    assert units.dtype == dtype
    assert scale.shape == (32,)
    change = (units.float() * scale[:, None] - weight).abs()
    assert (change <= limit * weight.abs().amax(1, keepdim=True) + 1e-9).all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_row_of_zeros_and_rows_of_any_size_survive(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.0, 0.0], [1e-30, -1e-30], [3e4, 1.0]])
    units, scale = narrow(weight, dtype)
    wide = units.float() * scale[:, None]
    assert torch.isfinite(wide).all()
    assert (wide[0] == 0).all()
    torch.testing.assert_close(wide[1:, 0], weight[1:, 0], rtol=0.01, atol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", FORMATS)
def test_it_multiplies_as_the_expanded_matrix_does(dtype: torch.dtype, bias: bool) -> None:
    before = linear(48, 20, bias=bias)
    layer = EightBitLinear(before, dtype)
    x = torch.randn(2, 3, 48)
    torch.testing.assert_close(layer(x), F.linear(x, layer.expanded(torch.float32), before.bias))
    assert (layer.in_features, layer.out_features) == (48, 20)


@needs_gpu
@pytest.mark.parametrize("x_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    ("rows", "num_in", "num_out", "bias"),
    [
        (1, 4096, 6144, False),
        (16, 2048, 4096, True),
        (17, 96, 33, True),
        (5, 300, 70, False),
        (MOST_ROWS, 6144, 2048, False),
    ],
)
def test_the_kernel_gives_what_expanding_gives(
    dtype: torch.dtype, x_dtype: torch.dtype, rows: int, num_in: int, num_out: int, bias: bool
) -> None:
    layer = EightBitLinear(linear(num_in, num_out, bias=bias, dtype=x_dtype, device="cuda"), dtype)
    assert layer._has_kernel
    x = torch.randn(rows, num_in, device="cuda").to(x_dtype)
    wide = layer.weight.double() * layer.scale.double()[:, None]
    expected = x.double() @ wide.T + (0 if layer.bias is None else layer.bias.double())
    found = layer(x)
    assert found.dtype == x_dtype
    limit = 2**-8 if x_dtype == torch.bfloat16 else 2**-11  # one rounding of the result
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= 1.01 * limit, error
    assert torch.equal(layer(x[None]), found[None])


@needs_gpu
def test_rows_do_not_depend_on_their_neighbours() -> None:
    """As a batch may change from one step to the next, and a reply may not."""
    layer = EightBitLinear(linear(2048, 512, bias=False, dtype=torch.bfloat16, device="cuda"), torch.int8)
    x = torch.randn(16, 2048, device="cuda", dtype=torch.bfloat16)
    together = layer(x)
    assert all(torch.equal(layer(x[n : n + 1])[0], together[n]) for n in range(16))
