"""Functions on a GPU whose kernels are recorded once and replayed: no Python and no launches between them.

A recording belongs to the shapes of its inputs. Calls with other shapes run as they are, so nothing has to be recorded
for a function to be right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

Shapes: TypeAlias = tuple[tuple[tuple[int, ...], torch.dtype], ...]
Result = TypeVar("Result", bound=Tensor | tuple[Tensor, ...])


class GraphPool:
    """Device memory that several recordings work in, one after the other, instead of each in its own.

    A replay may overwrite what any other replay of the pool left in it. `RecordedFunction` copies its results out right
    after each replay, so that sharing is safe as long as all functions of a pool run on one CUDA stream. Recording the
    largest shapes first needs the least memory. Works without a GPU, where nothing is recorded.

    Recordings of different pools may be replayed at the same time. For that each pool records on a stream of its own:
    torch gives cuBLAS one workspace per stream, whose address stays in a recording, whatever memory pool it was made
    with (pytorch issue 193402). Replayed beside each other, recordings of one stream spoil each other's products, and
    kernels that wait for a partner in the workspace wait for ever."""

    def __init__(self) -> None:
        self._handle: torch.cuda._POOL_HANDLE | None = None
        self._stream: torch.cuda.Stream | None = None

    def handle(self) -> torch.cuda._POOL_HANDLE:
        """What `torch.cuda.graph` takes; made by the first call, which needs a GPU."""
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        """The stream to record on; made by the first call, which needs a GPU."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._stream


@dataclass(frozen=True, slots=True)
class _Recording(Generic[Result]):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: Result


class RecordedFunction(Generic[Result]):
    """A function of tensors that returns one tensor or a plain tuple of them, and what was recorded of it.

    It must wait for nothing and keep no state but in tensors that live as long as it does. Not for several threads, nor
    for several CUDA streams at a time; with a `pool` that holds for all functions that share it."""

    def __init__(self, function: Callable[..., Result], pool: GraphPool | None = None) -> None:
        """Without a `pool` the function has one of its own."""
        self._function = function
        self._pool = pool or GraphPool()
        self._recordings: dict[Shapes, _Recording[Result]] = {}
        self.num_replays = 0
        """Calls that were answered by a recording."""

    @property
    def num_recordings(self) -> int:
        return len(self._recordings)

    @property
    def first_shapes(self) -> list[tuple[int, ...]]:
        """The shape of the first input of each recording."""
        return [shapes[0][0] for shapes in self._recordings]

    @torch.inference_mode()
    def record(self, *inputs: Tensor) -> bool:
        """Record for the shapes of `inputs`, whatever their values. False where there is no GPU, or nothing new.

        The function runs twice: once so that libraries choose their kernels, once recorded."""
        key = _shapes(inputs)
        if inputs[0].device.type != "cuda" or key in self._recordings:
            return False
        held = tuple(tensor.clone() for tensor in inputs)
        stream = self._pool.stream(inputs[0].device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._function(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool.handle(), stream=stream):
            result = self._function(*held)
        self._recordings[key] = _Recording(graph, held, result)
        return True

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Result:
        """The function's result; a copy where it was replayed, so that the next call does not change it."""
        recording = self._recordings.get(_shapes(inputs)) if self._recordings else None
        if recording is None:
            return self._function(*inputs)
        for held, given in zip(recording.inputs, inputs, strict=True):
            held.copy_(given)
        recording.graph.replay()
        self.num_replays += 1
        return _copy(recording.result)


def _copy(result: Result) -> Result:
    if isinstance(result, Tensor):
        return cast(Result, result.clone())
    return cast(Result, tuple(tensor.clone() for tensor in result))


def _shapes(inputs: tuple[Tensor, ...]) -> Shapes:
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
