"""Recorded functions give what the functions give."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from model.graphs import GraphPool, RecordedFunction

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are recorded on a GPU only")


def test_a_function_without_recordings_is_the_function() -> None:
    doubled = RecordedFunction(lambda x: x * 2)
    assert doubled(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert not doubled.record(torch.ones(3))  # there is nothing to record on a CPU
    assert (doubled.num_recordings, doubled.num_replays) == (0, 0)


@needs_gpu
def test_replayed_functions_give_what_plain_ones_give() -> None:
    mixed = RecordedFunction(lambda x, y: torch.tanh(x) @ y)
    x, y = torch.randn(4, 8, device="cuda"), torch.randn(8, 3, device="cuda")
    assert mixed.record(x, y)
    assert not mixed.record(x, y)
    for _ in range(3):
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(8, 3, device="cuda")
        first = mixed(x, y)
        mixed(y.new_zeros(4, 8), y)  # must not change the first result
        torch.testing.assert_close(first, torch.tanh(x) @ y)
    assert mixed.num_replays == 6
    mixed(x[:2], y)  # another shape: not recorded
    assert mixed.num_replays == 6


@needs_gpu
def test_functions_that_share_memory_do_not_change_each_others_results() -> None:
    pool = GraphPool()
    squared = RecordedFunction(lambda x: torch.tanh(x) ** 2, pool)
    halved = RecordedFunction(lambda x: torch.tanh(x) / 2, pool)
    x = torch.randn(64, 64, device="cuda")
    assert squared.record(x)
    assert squared.record(x[:8])
    assert halved.record(x)
    large, small, half = squared(x), squared(x[:8]), halved(x)
    torch.testing.assert_close(large, torch.tanh(x) ** 2)
    torch.testing.assert_close(small, torch.tanh(x[:8]) ** 2)
    torch.testing.assert_close(half, torch.tanh(x) / 2)


@needs_gpu
def test_recordings_of_two_pools_may_be_replayed_at_the_same_time() -> None:
    """Products that are split and added up in cuBLAS's workspace, of which each stream that records has one."""
    pools = GraphPool(), GraphPool()
    device = torch.device("cuda", torch.cuda.current_device())
    assert pools[0].stream(device) != pools[1].stream(device)
    weights = [torch.randn(512, 8_192, device=device) / 90 for _ in pools]
    products = [
        RecordedFunction(partial(_many_products, weight), pool) for weight, pool in zip(weights, pools, strict=True)
    ]
    inputs = [torch.randn(4, 8_192, device=device) for _ in pools]
    for product, x in zip(products, inputs, strict=True):
        assert product.record(x)
    expected = [_many_products(weight, x) for weight, x in zip(weights, inputs, strict=True)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(device) for _ in pools]
    for _ in range(50):
        found = []
        for product, x, stream in zip(products, inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(product(x))
        torch.cuda.synchronize()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def _many_products(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    for _ in range(20):
        x = torch.tanh(x @ weight.T) @ weight
    return x
