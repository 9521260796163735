"""What a Bluetooth headset costs: voice detection and recognition of narrowband speech beside the same in full.

    python -m benchmarks.narrowband                five passes over tests/data/speech, about two minutes
    python -m benchmarks.narrowband --quick        one pass
    python -m benchmarks.narrowband --json FILE    the numbers too

A headset's microphone gives 8 kHz (CVSD) or 16 kHz (mSBC). A browser and libwebrtc send either as Opus at 48 kHz; a
gateway sends 8 kHz as Opus narrowband or as G.711. Each recording goes that way as packets, through the server's
receiver, into a turn detector (Silero, as the server has it) and into the embedded recognition. *Found*: turns that
began and ended, in recordings. *Late*: from the first sound above -45 dBFS to the known beginning of the turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.audio_quality import Utterance, browser_sender, hear, resample, utterances, with_silence
from benchmarks.support.machine import percentiles, provenance
from benchmarks.support.words import word_errors, words
from model.backends.cascade.asr import Recognizer
from model.interface import INPUT_SAMPLE_RATE, Pcm16
from model.weights import SILERO_VAD, default_models_dir, fetch, model_path
from rtc_server.client.listener import voice_bounds
from rtc_server.codecs import g711
from rtc_server.codecs.opus import OpusEncoder, OpusOptions
from rtc_server.turns.detector import TurnDetector, TurnDetectorConfig
from rtc_server.turns.events import SpeechStarted, SpeechStopped
from rtc_server.turns.vad_factory import create_detector

NARROW = 8_000
FRAME_SECONDS = 0.02
FRAME = INPUT_SAMPLE_RATE // 50
NARROW_CONFIGURATIONS = range(4)  # SILK, narrowband: RFC 6716 table 2
Way = Callable[[Pcm16], Pcm16]
"""int16 mono 16 kHz as it was said -> as the call hears it."""


def received(payloads: Sequence[bytes]) -> Pcm16:
    """Through the server's receiver, on time and without a loss."""
    return hear(payloads, [(number * FRAME_SECONDS, number) for number in range(len(payloads))])[0]


def narrowed(pcm: Pcm16) -> Pcm16:
    """What an 8 kHz microphone gives: nothing above 4 kHz. Still at 16 kHz."""
    return resample(resample(pcm, INPUT_SAMPLE_RATE, NARROW), NARROW, INPUT_SAMPLE_RATE)


def opus_narrowband(pcm: Pcm16) -> list[bytes]:
    """Opus packets with a bandwidth of 4 kHz, SILK at 16 kb/s."""
    narrow = resample(pcm, INPUT_SAMPLE_RATE, NARROW)
    encoder = OpusEncoder(OpusOptions(mode="silk", bitrate=16_000, sample_rate=NARROW))
    try:
        size = encoder.frame_samples
        payloads = [encoder.encode(narrow[at : at + size]) for at in range(0, len(narrow) - size + 1, size)]
    finally:
        encoder.close()
    assert all(payload[0] >> 3 in NARROW_CONFIGURATIONS for payload in payloads)
    return payloads


def telephone(pcm: Pcm16) -> Pcm16:
    """PCMU and back."""
    narrow = resample(pcm, INPUT_SAMPLE_RATE, NARROW)
    return resample(g711.decode("PCMU", g711.encode("PCMU", narrow)), NARROW, INPUT_SAMPLE_RATE)


WAYS: dict[str, Way] = {
    "16 kHz, Opus of a browser": lambda pcm: received(browser_sender(pcm, 0.0)),
    "8 kHz, Opus of a browser": lambda pcm: received(browser_sender(narrowed(pcm), 0.0)),
    "8 kHz, Opus narrowband": lambda pcm: received(opus_narrowband(pcm)),
    "8 kHz, PCMU": telephone,
}


@dataclass(slots=True)
class Heard:
    """What one way made of all recordings."""

    turns: int = 0
    found: int = 0
    words: int = 0
    errors: int = 0
    late_ms: dict[str, float | int | None] | None = None

    @property
    def rate(self) -> float:
        """Words wrong in all words."""
        return self.errors / self.words


def turn_in(pcm: Pcm16) -> tuple[bool, float | None]:
    """Whether one turn began and ended, and how long after the first sound its beginning was known, in ms."""
    vad = create_detector("silero", 2, model_path(default_models_dir(), SILERO_VAD))
    detector = TurnDetector(vad, TurnDetectorConfig())
    started: list[int] = []
    num_stopped = 0
    for at in range(0, len(pcm) - FRAME + 1, FRAME):
        for event in detector.receive_audio(pcm[at : at + FRAME]):
            if isinstance(event, SpeechStarted):
                started.append(at + FRAME)
            num_stopped += isinstance(event, SpeechStopped)
    detector.close()
    bounds = voice_bounds(pcm, INPUT_SAMPLE_RATE)
    is_found = bool(started) and len(started) == num_stopped
    late = (started[0] - bounds[0]) * 1e3 / INPUT_SAMPLE_RATE if started and bounds else None
    return is_found, late


def measure(way: Way, said: Sequence[Utterance], passes: int, recognizer: Recognizer) -> Heard:
    """Every recording, `passes` times, with its frames cut elsewhere each time."""
    result, late = Heard(), []
    for seed in range(passes):
        for utterance in said:
            pcm = way(with_silence(utterance.pcm, seed))
            is_found, late_ms = turn_in(pcm)
            result.turns += 1
            result.found += is_found
            late += [] if late_ms is None else [late_ms]
            result.words += len(words(utterance.text))
            result.errors += word_errors(utterance.text, recognizer.recognize(pcm, lambda: False) or "")
    result.late_ms = percentiles(late)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.narrowband", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one pass")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    options = parser.parse_args(arguments)
    console, origin, began = Console(), provenance(), time.monotonic()
    fetch(default_models_dir())
    recognizer, passes = Recognizer(default_models_dir()), 1 if options.quick else 5
    said = utterances()
    results = {name: measure(way, said, passes, recognizer) for name, way in WAYS.items()}
    table = Table("microphone and codec", "found", "late p50", "p95 ms", "words wrong", box=None, pad_edge=False)
    for name, heard in results.items():
        assert heard.late_ms is not None
        late = [f"{heard.late_ms[key]:.0f}" for key in ("p50", "p95")]
        table.add_row(
            name, f"{heard.found} of {heard.turns}", *late, f"{heard.errors} of {heard.words} = {heard.rate:.1%}"
        )
    console.print(table)
    if options.json is not None:
        rows = {name: {**asdict(heard), "rate": heard.rate} for name, heard in results.items()}
        workload = {"passes": passes, "recordings": [u.name for u in said], "seconds": time.monotonic() - began}
        result = {"benchmark": "narrowband", **origin, "workload": workload, "results": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
