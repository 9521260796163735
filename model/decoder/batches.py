"""How pieces of different replies share one batch: groups of equal ones, and the batch sizes that were recorded.

Rows of a batch never influence each other in the decoder, so any split and any filling row gives the same results.
Lengths are never filled up: the flow sees and normalises over all frames of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_groups(
    items: Sequence[Item], key: Callable[[Item], Hashable], function: Callable[[list[Item]], Iterable[Result]]
) -> list[Result]:
    """The results of all items, in their order; `function` gets those of equal `key` at once and gives one each."""
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(key(item), []).append(index)
    results: dict[int, Result] = {}
    for indices in groups.values():
        results.update(zip(indices, function([items[index] for index in indices]), strict=True))
    return [results[index] for index in range(len(items))]


def in_batches(function: Callable[..., Tensor], recorded: Collection[int], *inputs: Tensor) -> Tensor:
    """`function` of inputs that all have B rows → its B rows, called with batches of `recorded` sizes; see
    `batch_sizes`. Filling rows repeat the last one."""
    count = inputs[0].shape[0]
    assert all(rows.shape[0] == count for rows in inputs), [rows.shape for rows in inputs]
    sizes = batch_sizes(count, recorded)
    if sizes == [count]:
        return function(*inputs)
    results, start = [], 0
    for size in sizes:
        end = min(start + size, count)
        results.append(function(*(_filled(rows[start:end], size) for rows in inputs))[: end - start])
        start = end
    return torch.cat(results)


def rows_of(batch: Tensor) -> list[Tensor]:
    """[B, ...] → B of [1, ...], without a copy."""
    return list(batch.unsqueeze(1).unbind())


def batch_sizes(count: int, recorded: Collection[int]) -> list[int]:
    """Sizes of the batches that `count` rows are computed in; only the last one may be larger than what is left for it.

    The smallest of the `recorded` sizes that takes them all; before it the largest one as often as there are more rows
    than that. Where nothing is recorded, one batch of `count`.
    """
    assert count > 0, count
    if not recorded:
        return [count]
    largest = max(recorded)
    num_full = (count - 1) // largest
    rest = count - num_full * largest
    return [largest] * num_full + [min(size for size in recorded if size >= rest)]


def _filled(rows: Tensor, size: int) -> Tensor:
    """rows [b, ...] → [size, ...]"""
    missing = size - rows.shape[0]
    return torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:]))) if missing else rows
