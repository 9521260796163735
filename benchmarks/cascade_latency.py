"""How long the cascade engine takes from a request to its transcript, first text and first sound.

    python -m benchmarks.cascade_latency [--quick] [--json FILE] [WAV ...]

Runs the engine in this process, one request at a time, over recordings (16 kHz mono WAV; by default those of the
tests). Every recording is a call of its own, and recordings alternate, so that no question finds its own answer
in a cache. No network, no media path: `benchmarks.turn_latency` measures whole calls.
"""

from __future__ import annotations

import argparse
import json
import platform
import threading
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from model.interface import (
    AudioDelta,
    GenerateRequest,
    Pcm16,
    ResponseDone,
    SpeechEngine,
    TextDelta,
    Transcript,
)
from model.registry import create_engine

SPEECH = Path(__file__).resolve().parent.parent / "tests" / "data" / "speech"
STAGES = ("transcript", "first_text", "first_audio", "done")
CREDIT_MS = 60_000  # everything at once: playout is not what is measured here


def read_wav(path: Path) -> Pcm16:
    """int16 mono PCM at 16 kHz. Raises ValueError for another format."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (16_000, 1, 2):
            raise ValueError(f"{path} is not 16 kHz mono 16-bit.")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def measure(engine: SpeechEngine, woken: threading.Event, request: GenerateRequest) -> dict[str, Any]:
    """One response: milliseconds from submit to each stage, and what was said."""
    started = time.monotonic()
    marks: dict[str, float] = {}
    transcript, reply, samples = "", "", 0
    engine.submit(request)
    while "done" not in marks:
        if not engine.has_work:
            woken.wait(30)
        woken.clear()
        for event in engine.step(time.monotonic()):
            at = (time.monotonic() - started) * 1000
            match event:
                case Transcript(text=text):
                    transcript = text
                    marks["transcript"] = at
                case TextDelta(text=text):
                    reply += text
                    marks.setdefault("first_text", at)
                case AudioDelta(pcm=pcm):
                    samples += len(pcm)
                    marks.setdefault("first_audio", at)
                case ResponseDone(status=status):
                    marks["done"] = at
                    if status == "failed":
                        raise RuntimeError(f"the response failed: {event.fault}")
    seconds = samples / engine.info.sample_rate
    return {**{k: round(v, 1) for k, v in marks.items()}, "heard": transcript, "said": reply, "seconds": seconds}


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 95, 99)} | {"max": max(values)}


def main() -> None:
    """Print a table; with --json also write every single measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wavs", nargs="*", type=Path)
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    parser.add_argument("--llm-threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    paths = arguments.wavs or sorted(SPEECH.glob("*.wav"))
    recordings = [(path.stem, read_wav(path)) for path in paths]

    process, woken = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    started = time.monotonic()
    engine = create_engine("cascade", {"llm_threads": arguments.llm_threads}, woken.set)
    loaded = time.monotonic()
    engine.warm_up()
    warm = time.monotonic()
    runs: list[dict[str, Any]] = []
    try:
        for round_number in range(1 if arguments.quick else 5):
            for name, audio in recordings:
                key = f"{name}-{round_number}"
                # A new seed each round, so that replies differ; a new call, so that none has a history.
                request = GenerateRequest(
                    key, key, key, (), audio=audio, seed=arguments.seed + round_number, audio_credit_ms=CREDIT_MS
                )
                result = measure(engine, woken, request)
                runs.append({"recording": name, "round": round_number, **result})
        rss = process.memory_info().rss
    finally:
        engine.close()
    report = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": psutil.cpu_count()},
        "load_seconds": round(loaded - started, 2),
        "warm_up_seconds": round(warm - loaded, 2),
        "rss_mb": round(rss / 1e6),
        "rss_without_engine_mb": round(before / 1e6),
        "runs": len(runs),
        "ms": {stage: percentiles([run[stage] for run in runs if stage in run]) for stage in STAGES},
    }
    for run in runs[: len(recordings)]:
        marks = " ".join(f"{stage} {run[stage]:6.0f}" for stage in STAGES if stage in run)
        print(f"{run['recording']:24s} {marks}  | {run['heard']} -> {run['said']}")
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**report, "all": runs}, indent=2))


if __name__ == "__main__":
    main()
