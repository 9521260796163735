"""What voice detection costs, call by call and in one batch per tick, and how well it hears.

    python -m benchmarks.voice_detection            cost and quality of webrtcvad, Silero and the gated pair
    python -m benchmarks.voice_detection --quick    fewer recordings

Cost: CPU ms per second of call, one thread, many calls at once with frames at phases of their own; a call is one third
speech, the rest a quiet room. Quality: recordings of `tests/data/speech` with silence before and after,
pink noise at 40, 10 and 3 dB SNR; voice is where the clean recording is above -45 dBFS. The threshold is 0.5.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT, provenance
from model.interface import Pcm16
from model.weights import SILERO_VAD, default_models_dir
from rtc_server.audio.pacing import SLOT_SECONDS
from rtc_server.client.listener import voice_bounds
from rtc_server.turns.vad import VoiceDetector
from rtc_server.turns.vad_factory import create_detector, create_vad_factory

RATE = 16_000
CALLS = (1, 10, 40, 100)
WAYS = (
    ("webrtcvad", "webrtcvad", False),
    ("Silero, call by call", "silero", False),
    ("gated, call by call", "gated", False),
    ("Silero, one batch per tick", "silero", True),
    ("gated, one batch per tick", "gated", True),
)
SNRS_DB = (40, 10, 3)
KINDS = ("webrtcvad", "silero", "gated")


def read(path: Path) -> Pcm16:
    """int16 mono 16 kHz."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def pink(samples: int, rms: float, seed: int) -> np.ndarray:
    """Noise with the spectrum of rooms, `rms` in int16 units."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(1, np.arange(len(spectrum))))
    noise = np.fft.irfft(spectrum, samples)
    return np.asarray(noise * (rms / noise.std()))


def cost(kind: str, model: Path, calls: int, is_batched: bool, talk: Pcm16, seconds: float) -> float:
    """CPU ms per second of call, of `calls` calls in one process: as the server runs them, on virtual time."""
    waiting: list[Callable[[], None]] = []
    factory = create_vad_factory(kind, 2, model, waiting.append if is_batched else None)

    class Caller:
        def __init__(self, number: int) -> None:
            self.detector = factory(self.judge)
            self.size = self.detector.frame_samples
            self.at = number * len(talk) // calls // self.size * self.size
            self.due = number * self.size // calls  # the sample at which its next frame is complete
            self.frame = talk[: self.size]

        def judge(self) -> None:
            if self.detector.probability(self.frame) is not None:
                self.at = (self.at + self.size) % (len(talk) - self.size)

        def receive(self) -> None:
            self.frame = talk[self.at : self.at + self.size]
            self.due += self.size
            self.judge()

    callers = [Caller(number) for number in range(calls)]
    tick = int(RATE * SLOT_SECONDS)
    begun = time.process_time()
    for now in range(tick, int(seconds * RATE), tick):
        for caller in callers:
            if caller.due <= now:
                caller.receive()
        for flush in waiting:
            flush()
        waiting.clear()
    return (time.process_time() - begun) * 1e3 / seconds / calls


def quality(make: Callable[[], VoiceDetector], recordings: list[Pcm16], snr_db: float) -> dict[str, float]:
    """Onset and offset delay (median ms), speech missed (share), false alarms (seconds per minute of no speech)."""
    onsets, offsets, missed, speech, alarms, quiet = [], [], 0.0, 0.0, 0.0, 0.0
    for number, clean in enumerate(recordings):
        bounds = voice_bounds(clean, RATE)
        assert bounds is not None
        pad = 2 * RATE
        level = float(np.sqrt(np.mean(clean[bounds[0] : bounds[1]].astype(float) ** 2)))
        padded = np.concatenate([np.zeros(pad), clean, np.zeros(pad)])
        noisy = padded + pink(len(padded), level / 10 ** (snr_db / 20), number)
        pcm = np.clip(noisy, -32_768, 32_767).astype(np.int16)
        first, last = bounds[0] + pad, bounds[1] + pad
        detector = make()
        size = detector.frame_samples
        hits = []
        for start in range(0, len(pcm) - size + 1, size):
            probability = detector.probability(pcm[start : start + size])
            assert probability is not None, "one detector answers at once"
            if probability >= 0.5:
                hits.append(start + size)
        inside = [end for end in hits if first < end <= last + size]
        outside = [end for end in hits if end <= first or end > last + RATE // 2]
        if inside:
            onsets.append((inside[0] - first) * 1e3 / RATE)
            offsets.append((max(end for end in hits if end <= last + RATE // 2) - last) * 1e3 / RATE)
        missed += (last - first) / RATE - min(len(inside) * size, last - first) / RATE
        speech += (last - first) / RATE
        alarms += len(outside) * size / RATE
        quiet += (len(pcm) - (last - first) - RATE // 2) / RATE
    return {
        "onset_ms": float(np.median(onsets)) if onsets else float("nan"),
        "offset_ms": float(np.median(offsets)) if offsets else float("nan"),
        "missed": missed / speech,
        "false_alarm_s_per_min": alarms * 60 / quiet,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = default_models_dir() / SILERO_VAD
    paths = sorted((ROOT / "tests/data/speech").glob("*.wav"))
    recordings = [read(path) for path in paths[:3] if path] if arguments.quick else [read(path) for path in paths]
    # A call: one third speech, the rest a quiet room.
    talk = np.concatenate([np.concatenate([pcm, np.zeros(2 * len(pcm), np.int16)]) for pcm in recordings[:4]])
    slower = 10 if arguments.quick else 1
    console = Console(width=120)
    result: dict[str, object] = {"provenance": provenance()}
    table = Table(title="CPU ms per second of call")
    for name in ("detector", *(f"{calls} calls" for calls in CALLS)):
        table.add_column(name, justify="left" if name == "detector" else "right")
    costs: dict[str, dict[int, float]] = {}
    for name, kind, is_batched in WAYS:
        per_calls = {calls: cost(kind, model, calls, is_batched, talk, 400 / calls / slower) for calls in CALLS}
        costs[name] = per_calls
        table.add_row(name, *(f"{value:.2f}" for value in per_calls.values()))
    result["cpu_ms_per_call_s"] = costs
    console.print(table)
    rows = []
    table = Table(title=f"{len(recordings)} recordings")
    for name in ("detector", "SNR dB", "onset ms", "offset ms", "missed %", "false alarm s/min"):
        table.add_column(name, justify="right")
    for kind in KINDS:
        for snr in SNRS_DB:
            row = quality(partial(create_detector, kind, 2, model), recordings, snr)
            rows.append({"detector": kind, "snr_db": snr, **row})
            values = (row["onset_ms"], row["offset_ms"], 100 * row["missed"], row["false_alarm_s_per_min"])
            table.add_row(kind, str(snr), *(f"{value:.1f}" for value in values))
    console.print(table)
    result["quality"] = rows
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
