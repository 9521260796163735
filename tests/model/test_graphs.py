"""Recorded functions give what the functions give."""

from __future__ import annotations

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
