"""Functions on a GPU whose kernels are recorded once and replayed: no Python and no launches between them.

A recording belongs to the shapes of its inputs. Calls with other shapes run as they are, so nothing has to be recorded
for a function to be right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Shapes: TypeAlias = tuple[tuple[tuple[int, ...], torch.dtype], ...]


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class RecordedFunction:
    """A function of tensors that returns one tensor, and what was recorded of it.

    It must wait for nothing and keep no state but in tensors that live as long as it does. Not for several threads."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._recordings: dict[Shapes, _Recording] = {}
        self.num_replays = 0
        """Calls that were answered by a recording."""

    @property
    def num_recordings(self) -> int:
        return len(self._recordings)

    @torch.inference_mode()
    def record(self, *inputs: Tensor) -> bool:
        """Record for the shapes of `inputs`, whatever their values. False where there is no GPU, or nothing new.

        The function runs twice: once so that libraries choose their kernels, once recorded."""
        key = _shapes(inputs)
        if inputs[0].device.type != "cuda" or key in self._recordings:
            return False
        held = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream(inputs[0].device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._function(*held)
        self._recordings[key] = _Recording(graph, held, output)
        return True

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result; a copy where it was replayed, so that the next call does not change it."""
        recording = self._recordings.get(_shapes(inputs)) if self._recordings else None
        if recording is None:
            return self._function(*inputs)
        for held, given in zip(recording.inputs, inputs, strict=True):
            held.copy_(given)
        recording.graph.replay()
        self.num_replays += 1
        return recording.output.clone()


def _shapes(inputs: tuple[Tensor, ...]) -> Shapes:
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
