"""How fast the language models' matrix products are with 8-bit weights, beside the same in bfloat16.

    python -m benchmarks.opens2s_products                a GPU; the shapes of the released models, 1 to 64 rows
    python -m benchmarks.opens2s_products --search       which tiles of the kernel are the fastest, 16 rows
    python -m benchmarks.opens2s_products --quick --json out/opens2s_products.json

Every product is replayed from a CUDA graph over so many copies of its matrix that none is found in the GPU's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.support.machine import provenance
from model.opens2s.eight_bits import narrow

SHAPES = {
    "text qkv": (4096, 6144),
    "text o": (4096, 4096),
    "text gate, up": (4096, 24576),
    "text down": (12288, 4096),
    "text head": (4096, 151936),
    "speech qkv": (2048, 4096),
    "speech o": (2048, 2048),
    "speech gate, up": (2048, 12288),
    "speech down": (6144, 2048),
    "speech head": (2048, 16385),
}
"""Inputs and outputs."""
LAYERS = {"text": 36, "speech": 28}
ROWS, SEARCH_ROWS = (1, 4, 16, 64), 16
TILES = list(product((16, 32, 64), (128, 256), (4,), (3, 5)))
"""Columns, depth, warps, stages."""
BEYOND_CACHE = 200e6
RUNS, QUICK_RUNS = 9, 3
Tile = tuple[int, int, int, int]


class Clock:
    """Times products in microseconds each."""

    def __init__(self, runs: int) -> None:
        self._runs = runs

    def us(self, work: Callable[[int], object], copies: int) -> float:
        """The median of replays; `work(number)` uses copy `number`."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            work(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for number in range(copies):
                work(number)
        times = []
        for _ in range(self._runs + 1):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begun.record()
            graph.replay()
            ended.record()
            ended.synchronize()
            times.append(begun.elapsed_time(ended) * 1e3 / copies)
        return float(statistics.median(times[1:]))


def matrices(name: str) -> tuple[list[Tensor], int]:
    """Copies of a random matrix [out, in] in bfloat16, and how many."""
    num_in, num_out = SHAPES[name]
    copies = max(2, round(BEYOND_CACHE / (num_in * num_out)))
    return [torch.randn(num_out, num_in, device="cuda", dtype=torch.bfloat16) for _ in range(copies)], copies


def eight_bits(x: Tensor, narrowed: list[tuple[Tensor, Tensor]], options: dict[str, int], number: int) -> Tensor:
    from model.opens2s.eight_bits_kernel import multiply

    weight, scale = narrowed[number]
    return multiply(x, weight, scale, None, **options)


def sixteen_bits(x: Tensor, wide: list[Tensor], number: int) -> Tensor:
    return F.linear(x, wide[number])


@torch.inference_mode()
def measure(name: str, rows: tuple[int, ...], tiles: list[Tile | None], clock: Clock) -> list[dict[str, Any]]:
    """One line for each number of rows, format and tile; None: the kernel's own."""
    wide, copies = matrices(name)
    found = []
    for dtype in (torch.int8,) if len(tiles) > 1 else (torch.int8, torch.float8_e4m3fn):
        narrowed = [narrow(matrix, dtype) for matrix in wide]
        gigabytes = narrowed[0][0].numel() / 1e9
        for count, tile in product(rows, tiles):
            x = torch.randn(count, SHAPES[name][0], device="cuda", dtype=torch.bfloat16)
            options: dict[str, int] = {}
            if tile is not None:
                options = dict(zip(("columns", "depth", "warps", "stages"), tile, strict=True))
            try:
                us = clock.us(partial(eight_bits, x, narrowed, options), copies)
            except Exception as error:  # a tile that this GPU has no room for raises whatever Triton raises
                print(f"{name} {tile}: {type(error).__name__}", file=sys.stderr)
                continue
            line = {"product": name, "rows": count, "format": str(dtype).removeprefix("torch."), "tile": tile, "us": us}
            found.append(line | {"gb_per_s": gigabytes / us * 1e6})
        del narrowed
    if tiles == [None]:
        for count in rows:
            x = torch.randn(count, SHAPES[name][0], device="cuda", dtype=torch.bfloat16)
            us = clock.us(partial(sixteen_bits, x, wide), copies)
            line = {"product": name, "rows": count, "format": "bfloat16", "tile": None, "us": us}
            found.append(line | {"gb_per_s": 2 * wide[0].numel() / 1e9 / us * 1e6})
    return found


def steps(found: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds that all products of one step take, by model, format, rows, and tile where several were tried."""
    sums: dict[str, float] = {}
    for line in found:
        model, part = line["product"].split(" ", 1)
        key = f"{model} {line['format']} {line['rows']} {line['tile'] or ''}".strip()
        sums[key] = sums.get(key, 0.0) + line["us"] / 1e3 * (1 if part == "head" else LAYERS[model])
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="try tiles of the kernel")
    parser.add_argument("--quick", action="store_true", help="fewer runs and rows")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here: 8-bit products are made by a kernel for GPUs")
    clock = Clock(QUICK_RUNS if arguments.quick else RUNS)
    rows = (SEARCH_ROWS,) if arguments.search else (1, 16) if arguments.quick else ROWS
    tiles: list[Tile | None] = [*TILES] if arguments.search else [None]
    found: list[dict[str, Any]] = []
    for name in SHAPES:
        found += measure(name, rows, tiles, clock)
        best = sorted((line for line in found if line["product"] == name), key=lambda line: float(line["us"]))[:12]
        for line in best:
            print(f"{name:16} {line['format']:14} {line['rows']:3} rows {line['tile'] or ''} ", end="")
            print(f"{line['us']:8.1f} us {line['gb_per_s']:6.0f} GB/s", flush=True)
    sums = dict(sorted(steps(found).items(), key=lambda item: item[1]))
    made_with = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    result = {**provenance(), **made_with, "products": found, "steps_ms": sums}
    for key, milliseconds in sums.items():
        print(f"all products of a step, {key}: {milliseconds:.2f} ms")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
