"""How long a checkpoint of the released size takes to load, and how much memory of the host.

    python -m benchmarks.opens2s_load --device cuda          22 GB of random weights, written to a folder and loaded
    python -m benchmarks.opens2s_load --scale 8              widths divided by 8: 0.3 GB, on any machine
    python -m benchmarks.opens2s_load --checkpoint DIR       a checkpoint that is there

The weights are written in shards as the released ones are laid out, loaded by the server's own loader, and compared
with what was written. *Host memory*: the highest resident size during the load, less that before it, over the largest
shard; on a CPU the parameters themselves are there before the measurement begins.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from benchmarks.support.machine import provenance
from model.opens2s import model, shards
from model.opens2s.config import RELEASED, LanguageModelConfig, OpenS2SConfig, read_config
from model.opens2s.precision import resolve_device

SHARD_BYTES = 5_000_000_000
POLL_SECONDS = 0.001


def scaled(factor: int) -> OpenS2SConfig:
    """The released model with its widths divided."""

    def language(part: LanguageModelConfig) -> LanguageModelConfig:
        return replace(
            part,
            vocab_size=part.vocab_size // factor,
            hidden_size=part.hidden_size // factor,
            intermediate_size=part.intermediate_size // factor,
            head_dim=part.head_dim // factor,
        )

    audio = replace(
        RELEASED.audio,
        hidden_size=RELEASED.audio.hidden_size // factor,
        intermediate_size=RELEASED.audio.intermediate_size // factor,
    )
    return replace(
        RELEASED,
        audio=audio,
        llm=language(RELEASED.llm),
        tts=language(RELEASED.tts),
        adapter_inner_dim=RELEASED.adapter_inner_dim // factor,
    )


def write_shards(source: model.OpenS2S, folder: Path, shard_bytes: int) -> None:
    """All tensors in the released layout, bfloat16; one shard in memory at a time."""
    pending: dict[str, torch.Tensor] = {}
    files: dict[str, str] = {}

    def flush() -> None:
        name = f"model-{len(set(files.values())) + 1:05}.safetensors"
        save_file(pending, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(pending, name))
        pending.clear()

    for target in source.targets():
        if not target.name:
            continue
        pending[target.name] = target.tensor.to("cpu", torch.bfloat16, copy=True).contiguous()
        if sum(tensor.numel() * 2 for tensor in pending.values()) > shard_bytes:
            flush()
    if pending:
        flush()
    (folder / shards.INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": files}))


class Peak:
    """Highest resident size of this process while it is watched, less that at the beginning."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.bytes = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(POLL_SECONDS):
                self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def measure(folder: Path, config: OpenS2SConfig, device: torch.device) -> tuple[dict[str, float], model.OpenS2S]:
    """Load once; figures and the loaded model."""
    stored = shards.read_headers(folder)
    loaded = model.build(config, device=device, dtype=torch.bfloat16)
    for parameter in loaded.parameters():  # so that they exist before the measurement begins
        parameter.zero_()
    peak = Peak()
    begun = time.perf_counter()
    with peak.watched():
        shards.fill(loaded.targets(), stored)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begun
    sizes = [path.stat().st_size for path in {tensor.path for tensor in stored.values()}]
    figures = {
        "gigabytes": round(sum(sizes) / 1e9, 2),
        "shards": len(sizes),
        "seconds": round(seconds, 2),
        "gigabytes_per_second": round(sum(sizes) / 1e9 / seconds, 2),
        "host_memory_over_largest_shard": round(peak.bytes / max(sizes), 3),
    }
    return figures, loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--scale", type=int, default=1, help="divide the widths of the random model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="where the random weights are written for a while")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="the same as --scale 8")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    if arguments.checkpoint:
        figures, _ = measure(arguments.checkpoint, read_config(arguments.checkpoint), device)
    else:
        factor = 8 if arguments.quick else arguments.scale
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            config = scaled(factor)
            source = model.dummy(config, device=device, dtype=torch.bfloat16)
            write_shards(source, Path(name), SHARD_BYTES // factor**2)
            figures, loaded = measure(Path(name), config, device)
            pairs = zip(source.parameters(), loaded.parameters(), strict=True)
            if not all(torch.equal(written, read) for written, read in pairs):
                raise SystemExit("What was loaded is not what was written.")
            figures["parameters"] = sum(parameter.numel() for parameter in loaded.parameters())
    for key, value in figures.items():
        print(f"{key}: {value}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**provenance(), "device": str(device), **figures}, indent=2))


if __name__ == "__main__":
    main()
