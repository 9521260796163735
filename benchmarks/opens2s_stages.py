"""How long each stage of OpenS2S takes, beside the least that this device's memory and arithmetic allow.

    python -m benchmarks.opens2s_stages                            random weights of the released size (a GPU of 40 GB)
    python -m benchmarks.opens2s_stages --small                    the small checkpoint of the tests, on the CPU too
    python -m benchmarks.opens2s_stages --checkpoint DIR --decoder DIR      real weights
    python -m benchmarks.opens2s_stages --quantization int8        and --dtype, --decoder-dtype, --device

One stream, an utterance of 3 s. *Bound*: the stage's weights over the measured copy rate, or its operations over the
measured rate of a large matrix product, whichever is longer. *Eager*: launched from Python. *Graph*: the same kernels
replayed from a CUDA graph. Medians over many runs; a text or speech step includes embedding, head and sampling. The
line "engine" is the backend as it serves: passes of both models, the encoder, the flow and the vocoder replayed, the
rest launched; sound is decoded beside the models.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.support.machine import ROOT, provenance
from model.backends.opens2s.engine import OpenS2SEngine
from model.backends.opens2s.loading import Parts
from model.backends.opens2s.memory import BLOCK_SIZE
from model.backends.opens2s.options import OpenS2SOptions
from model.decoder.decoder import Decoder
from model.decoder.source import SourceDraws
from model.engine.paged_cache import PagedKvCache
from model.interface import INPUT_SAMPLE_RATE, AudioDelta, GenerateRequest, TextDelta
from model.opens2s.features import LogMelConfig, LogMelStream
from model.opens2s.language_model import LanguageModel
from model.opens2s.sampling import Sampling, sample

SECONDS = 3.0
PROMPT_POSITIONS = 45  # of an utterance of 3 s: 26 of text and 19 of audio
CACHE_POSITIONS = 1024
RUNS = 50
QUICK_RUNS = 5
REPLY_MS = 6_000  # random weights do not know when to stop
SMALL = ROOT / "tests" / "data" / "opens2s"


@dataclass(frozen=True)
class Stage:
    """One row of the table; times in milliseconds."""

    name: str
    bound_ms: float
    eager_ms: float
    graph_ms: float | None
    """None where there are no graphs (a CPU) or nothing to record."""
    gflop: float
    gigabytes: float
    """Of weights."""


class Clock:
    """Times work on a device."""

    def __init__(self, device: torch.device, runs: int) -> None:
        self.device, self.runs = device, runs
        self.copy_rate = self._copy_rate()
        self.compute_rates: dict[torch.dtype, float] = {}

    @property
    def has_graphs(self) -> bool:
        return self.device.type == "cuda"

    def median_ms(self, work: Callable[[], object]) -> float:
        for _ in range(3):
            work()
        times = []
        for _ in range(self.runs):
            self.wait()
            begun = time.perf_counter()
            work()
            self.wait()
            times.append((time.perf_counter() - begun) * 1e3)
        return statistics.median(times)

    def graph_ms(self, work: Callable[[], object]) -> float | None:
        """The work replayed from a CUDA graph."""
        if not self.has_graphs:
            return None
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return self.median_ms(graph.replay)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def compute_rate(self, dtype: torch.dtype) -> float:
        """Operations per second of a large matrix product."""
        if dtype not in self.compute_rates:
            size = 8192 if self.device.type == "cuda" else 1024
            left, right = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
            elapsed = self.median_ms(lambda: left @ right)
            self.compute_rates[dtype] = 2 * size**3 / elapsed * 1e3
        return self.compute_rates[dtype]

    def _copy_rate(self) -> float:
        """Bytes per second, read and written, of a large copy."""
        source = torch.ones(1 << (31 if self.device.type == "cuda" else 26), device=self.device, dtype=torch.uint8)
        target = torch.empty_like(source)
        return 2 * source.numel() / self.median_ms(lambda: target.copy_(source)) * 1e3


class Bench:
    """The stages of one loaded model."""

    def __init__(self, parts: Parts, clock: Clock) -> None:
        self._parts, self._clock = parts, clock
        self._model, self._decoder = parts.model, parts.decoder
        self.stages: list[Stage] = []

    def run(self) -> None:
        self._front_end()
        with torch.inference_mode():
            self._listener()
            self._language_models()
            self._flow()
            self._vocoder()

    def _add(self, name: str, work: Callable[[], object], weights: float, dtype: torch.dtype) -> None:
        with FlopCounterMode(display=False) as counter:
            work()
        flop = counter.get_total_flops()
        bound = max(weights / self._clock.copy_rate, flop / self._clock.compute_rate(dtype)) * 1e3
        eager, graph = self._clock.median_ms(work), self._clock.graph_ms(work)
        self.stages.append(Stage(name, bound, eager, graph, flop / 1e9, weights / 1e9))

    def _front_end(self) -> None:
        """On the host, in numpy; there is no bound worth the name."""
        config: LogMelConfig = self._parts.checkpoint.front_end
        audio = noise(SECONDS)

        def whole() -> None:
            stream = LogMelStream(config)
            stream.push(audio)
            stream.features()

        heard = LogMelStream(config)
        heard.push(audio)
        for name, work in (("log-mel, all at once", whole), ("log-mel, what is left at the end", heard.features)):
            self.stages.append(Stage(name, 0.0, self._clock.median_ms(work), None, 0.0, 0.0))

    def _listener(self) -> None:
        listener, config = self._model.listener, self._model.config.audio
        weight = listener.adapter.fc1.weight
        window = torch.randn(1, config.num_mel_bins, config.window_frames, device=weight.device, dtype=weight.dtype)
        self._add("encoder, one window", lambda: listener.encoder(window), size_of(listener.encoder), weight.dtype)
        vectors = torch.randn(1, round(25 * SECONDS), config.hidden_size, device=weight.device, dtype=weight.dtype)
        self._add("adapter", lambda: listener.adapter(vectors), size_of(listener.adapter), weight.dtype)

    def _language_models(self) -> None:
        llm, speech = self._model.llm, self._model.speech.lm
        text = Sampling(0.2, 20, 0.8)
        self._step(f"text model, prompt of {PROMPT_POSITIONS}", llm, PROMPT_POSITIONS, text)
        self._step("text model, one step", llm, 1, text)
        units = Sampling(1.0, 50)
        group = self._model.config.interleaving.num_text + 1
        self._step("speech model, one step", speech, 1, units)
        self._step(f"speech model, first of a group ({group})", speech, group, units)

    def _step(self, name: str, lm: LanguageModel, length: int, sampling: Sampling) -> None:
        """A token from `length` inputs over a cache that is half full; its own output is the next input."""
        weight = lm.norm.weight
        num_blocks = CACHE_POSITIONS // BLOCK_SIZE
        cache = PagedKvCache(lm.config, num_blocks, BLOCK_SIZE, weight.device, weight.dtype)
        table = torch.arange(1, num_blocks + 1, device=weight.device)[None]
        start = torch.tensor([0 if length > 8 else CACHE_POSITIONS // 2], device=weight.device)
        count = torch.tensor([length], device=weight.device)
        ids = torch.zeros(1, length, dtype=torch.int64, device=weight.device)

        def work() -> None:
            hidden = lm(lm.embed(ids), cache.at(table, start, count, length))
            ids[:, -1] = sample(lm.logits(hidden[:, -1]), sampling)

        self._add(name, work, size_of(lm) - size_of(lm.embed_tokens), weight.dtype)

    def _flow(self) -> None:
        decoder, device = self._decoder, self._decoder.device
        bins, plan = decoder.config.flow.output_size, (10, 24)
        context = 344  # frames of a live reply's left context
        for units, past in ((plan[0], 0), (plan[1], 0), (plan[0], context)):
            frames = decoder.frames(units) + past
            tokens, condition = (torch.randn(1, bins, frames, device=device) for _ in range(2))
            start, speaker = decoder.flow_noise.slice(0, frames), decoder.flow.speaker()
            name = f"flow, {units} units ({frames} frames{', with context' if past else ''}), 10 steps"

            def work(
                tokens: Tensor = tokens, speaker: Tensor = speaker, condition: Tensor = condition, start: Tensor = start
            ) -> object:
                return decoder.flow.decoder.solve(tokens.to(decoder.dtype), speaker, condition, start)

            self._add(name, work, 10 * size_of(decoder.flow.decoder), decoder.dtype)

    def _vocoder(self) -> None:
        decoder, device = self._decoder, self._decoder.device
        for frames in (34, 131):
            mel = torch.randn(1, decoder.config.flow.output_size, frames, device=device)
            samples = frames * decoder.config.vocoder.frame_samples
            draws = SourceDraws.draw(decoder.config.vocoder, samples, torch.Generator().manual_seed(0)).to(device)

            def work(mel: Tensor = mel, draws: SourceDraws = draws, decoder: Decoder = decoder) -> object:
                source, _ = decoder.vocoder.excite(decoder.vocoder.predict_f0(mel), draws)
                return decoder.vocoder(mel, source)

            self._add(f"vocoder, {frames} frames", work, size_of(decoder.vocoder), decoder.dtype)


def size_of(module: nn.Module) -> float:
    """Bytes of all weights, quantized ones as they are stored."""
    held = (*module.parameters(), *module.buffers())
    return float(sum(tensor.numel() * tensor.element_size() for tensor in held))


def noise(seconds: float) -> np.ndarray:
    samples = round(seconds * INPUT_SAMPLE_RATE)
    return (np.random.default_rng(0).standard_normal(samples) * 3_000).astype(np.int16)


def first_audio(engine: OpenS2SEngine, runs: int) -> dict[str, float]:
    """Median milliseconds from a spoken turn to its first text and its first sound, and the whole reply's rate."""
    texts, sounds, rates = [], [], []
    for number in range(runs + 1):
        audio = noise(SECONDS)
        audio[:1] = number  # not one that it has heard before
        begun = time.monotonic()
        request = GenerateRequest("", f"r{number}", f"t{number}", (), audio, max_output_tokens=24, seed=number)
        engine.submit(replace(request, audio_credit_ms=REPLY_MS))
        text = sound = None
        samples = 0
        while engine.has_work and samples < REPLY_MS * engine.info.sample_rate // 1000:
            for event in engine.step(time.monotonic()):
                if isinstance(event, TextDelta):
                    text = text or time.monotonic()
                elif isinstance(event, AudioDelta):
                    sound = sound or time.monotonic()
                    samples += len(event.pcm)
        if number and text and sound:  # the first warms up
            texts.append((text - begun) * 1e3)
            sounds.append((sound - begun) * 1e3)
            rates.append((time.monotonic() - begun) / (samples / engine.info.sample_rate))
        engine.cancel(f"r{number}")
    return {
        "first_text_ms": statistics.median(texts),
        "first_audio_ms": statistics.median(sounds),
        "real_time_factor": statistics.median(rates),
    }


def measure_stages(options: OpenS2SOptions, runs: int) -> tuple[Clock, list[Stage]]:
    """On an engine of its own that has not recorded anything, so that plain calls are plain."""
    with loaded(options) as engine:
        clock = Clock(parts_of(engine).model.device, runs)
        bench = Bench(parts_of(engine), clock)
        bench.run()
    stages = bench.stages
    del bench, engine
    gc.collect()
    if clock.has_graphs:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return clock, stages


def parts_of(engine: OpenS2SEngine) -> Parts:
    assert engine._parts is not None
    return engine._parts


@contextmanager
def loaded(options: OpenS2SOptions) -> Iterator[OpenS2SEngine]:
    engine = OpenS2SEngine(options)
    try:
        yield engine
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the small checkpoint and decoder of the tests")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--decoder", default="")
    for name, default in (
        ("device", "auto"),
        ("dtype", "auto"),
        ("quantization", "none"),
        ("decoder-dtype", "float32"),
    ):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs of each stage instead of {RUNS}")
    arguments = parser.parse_args()
    folders = {"checkpoint": arguments.checkpoint, "decoder": arguments.decoder}
    if arguments.small:
        folders = {name: str(SMALL / name) for name in folders}
    options = OpenS2SOptions(
        **folders,
        load_format="auto" if folders["checkpoint"] else "dummy",
        device=arguments.device,
        dtype=arguments.dtype,
        quantization=arguments.quantization,
        decoder_dtype=arguments.decoder_dtype,
    )
    runs = QUICK_RUNS if arguments.quick else RUNS
    clock, stages = measure_stages(options, runs)
    begun = time.perf_counter()
    with loaded(options) as engine:
        model = parts_of(engine).model
        clock.wait()
        load_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        engine.warm_up()
        warm_up_seconds = time.perf_counter() - begun
        whole = first_audio(engine, max(3, runs // 10))
    result = {
        **provenance(),
        "torch": torch.__version__,
        "device": str(model.device) if model.device.type == "cpu" else torch.cuda.get_device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": options.quantization,
        "decoder_dtype": options.decoder_dtype,
        "copy_gigabytes_per_second": round(clock.copy_rate / 1e9, 1),
        "teraflop_per_second": {
            str(dtype).removeprefix("torch."): round(rate / 1e12, 2) for dtype, rate in clock.compute_rates.items()
        },
        "load_seconds": round(load_seconds, 1),
        "warm_up_seconds": round(warm_up_seconds, 1),
        "device_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 2) if clock.has_graphs else None,
        "engine": {name: round(value, 3) for name, value in whole.items()},
        "stages": [asdict(stage) for stage in stages],
    }
    print_table(result, stages)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2))


def print_table(result: dict[str, object], stages: list[Stage]) -> None:
    setting = ("device", "dtype", "quantization", "decoder_dtype", "torch", "commit")
    measured = ("copy_gigabytes_per_second", "teraflop_per_second", "load_seconds", "warm_up_seconds")
    for key in (*setting, *measured, "device_gigabytes", "engine"):
        print(f"{key}: {result[key]}")
    print()
    print("| stage | bound ms | graph ms | eager ms | GFLOP | weights GB |")
    print("|---|---|---|---|---|---|")
    for stage in stages:
        graph = "-" if stage.graph_ms is None else f"{stage.graph_ms:.2f}"
        bound = f"{stage.bound_ms:.3f}" if stage.bound_ms else "-"
        print(
            f"| {stage.name} | {bound} | {graph} | {stage.eager_ms:.2f} | {stage.gflop:.1f} | {stage.gigabytes:.2f} |"
        )


if __name__ == "__main__":
    main()
