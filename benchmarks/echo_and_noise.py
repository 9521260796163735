"""Our own voice coming back, and noise: what the echo guard, the canceller and the suppressor do about it, and cost.

    python -m benchmarks.echo_and_noise              everything, about five minutes
    python -m benchmarks.echo_and_noise --quick      two echo paths, one seed of noise
    python -m benchmarks.echo_and_noise --json FILE  the numbers too

Echo: replies (`tests/data/speech`) leave, come back over a path (codec, loudspeaker, room, delay, codec) into the turn
detector, open loop: the reply goes on whatever is found. A *pause* is a voice's onset, which makes a reply silent; a
*turn* begins after 100 ms of voice. Users speak over the echo at -27 dBFS and are *found* when a turn begins within
1.5 s of their first sound. Noise: words heard wrong by the embedded recognition in all words, and when turns end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.support.echo_paths import (
    EchoPath,
    Samples,
    at_snr,
    babble,
    car,
    echo_of,
    level,
    through_codec,
    to_pcm,
    white,
)
from benchmarks.support.machine import ROOT, percentiles, provenance
from benchmarks.support.words import word_errors, words
from benchmarks.voice_detection import pink, read
from model.backends.cascade.asr import Recognizer
from model.interface import INPUT_SAMPLE_RATE, Pcm16
from model.weights import SILERO_VAD, default_models_dir, model_path
from rtc_server.audio.cleaning import CANCELLER_DELAY, SUPPRESSOR_DELAY, EchoCanceller, NoiseSuppressor
from rtc_server.client.listener import voice_bounds
from rtc_server.turns.detector import TurnDetector, TurnDetectorConfig
from rtc_server.turns.echo_guard import EchoGuard
from rtc_server.turns.events import SpeechStarted, SpeechStopped, TurnEvent, VoiceOnset
from rtc_server.turns.vad_factory import create_detector
from rtc_server.turns.vad_quiet import QuietVoiceDetector

SPEECH = ROOT / "tests" / "data" / "speech"
MS = INPUT_SAMPLE_RATE // 1000
FRAME = 20 * MS
REPLY = ("librivox_0890", "f1_slt", "librivox_0870", "f2_rms", "librivox_0880")
USERS = ("f0_rms", "f3_rms", "f2_slt", "go_forward_ten_meters")
TALKS_AT_MS = (1_500, 5_000, 9_000)
USER_RMS = 1_500
ALONE_MINUTES = 2.0  # of reply without a user
FOUND_WITHIN_MS = 1_500
PATHS = (
    EchoPath(),  # the first: what the acceptance names
    EchoPath(codec="pcmu"),
    EchoPath(gain_db=-25, delay_ms=40),
    EchoPath(gain_db=-6, delay_ms=400),
    EchoPath(gain_db=-6, rt60_seconds=0.5, direct_db=0),
    EchoPath(delay_ms=600),
    EchoPath(gain_db=-10, distortion=1.0),
    EchoPath(gain_db=-10, distortion=1.0, codec="pcmu"),
)
WAYS = {"nothing": (False, False), "echo guard": (True, False), "canceller and guard": (True, True)}
NOISES: dict[str, Callable[[int, int], Samples]] = {"white": white, "car": car}
LEAD_MS = 500  # noise before the speech, so that the suppressor knows it
PRE_ROLL_MS = 300  # of it that the turn keeps, as the server does


@dataclass(frozen=True, slots=True)
class Found:
    """What one way made of one stream."""

    events: list[tuple[int, TurnEvent]]
    """With the sample at which each was known."""
    cpu: float
    """Share of one core."""
    turn: Pcm16
    """The latest turn as recognition gets it."""

    def known(self, kind: type[TurnEvent]) -> list[int]:
        return [at for at, event in self.events if isinstance(event, kind)]


def listened(microphone: Pcm16, sent: Pcm16, *, has_guard: bool, cancels: bool, suppresses: bool = False) -> Found:
    """Through the parts of a call's input, in the call's order."""
    guard = EchoGuard(INPUT_SAMPLE_RATE) if has_guard else None
    canceller = EchoCanceller(INPUT_SAMPLE_RATE) if cancels else None
    vad = QuietVoiceDetector(create_detector("gated", 2, model_path(default_models_dir(), SILERO_VAD)))
    vad.suppresses_noise = suppresses
    turns = TurnDetector(vad, TurnDetectorConfig(), guard.is_echo if guard else None)
    events: list[tuple[int, TurnEvent]] = []
    turn = np.zeros(0, np.int16)
    began = time.process_time()
    for at in range(0, len(microphone) - FRAME + 1, FRAME):
        for listener in (guard, canceller):
            if listener is not None:
                listener.sent(sent[at : at + FRAME])
        heard = microphone[at : at + FRAME]
        for event in turns.receive_audio(heard if canceller is None else canceller.clean(heard)):
            events.append((at + FRAME, event))
            if isinstance(event, SpeechStopped):
                turn = turns.utterance()
    cpu = (time.process_time() - began) / (len(microphone) / INPUT_SAMPLE_RATE)
    turns.close()
    return Found(events, cpu, turn)


def recording(name: str) -> Pcm16:
    return read(SPEECH / f"{name}.wav")


def bounds(pcm: Pcm16) -> tuple[int, int]:
    """First and last sample of the voice."""
    found = voice_bounds(pcm, INPUT_SAMPLE_RATE)
    assert found is not None
    return found


def transcripts() -> dict[str, str]:
    """Name of a recording -> its words."""
    questions = (SPEECH / "questions.txt").read_text().splitlines()
    found = {f"f{i}_{voice}": questions[i] for i in range(4) for voice in ("rms", "slt")}
    return found | {path.stem: path.read_text() for path in SPEECH.glob("*.txt") if path.stem != "questions"}


def echo_results(path: EchoPath, recognizer: Recognizer, texts: dict[str, str]) -> dict[str, object]:
    reply = np.concatenate([recording(name) for name in REPLY])
    echo = echo_of(reply, path) + pink(len(reply), 10.0, 1)
    long_reply = np.resize(reply, round(ALONE_MINUTES * 60 * INPUT_SAMPLE_RATE))
    back = through_codec(to_pcm(echo_of(long_reply, path) + pink(len(long_reply), 10.0, 2)), path.codec)
    results: dict[str, object] = {}
    for way, (has_guard, cancels) in WAYS.items():
        alone = listened(back, long_reply, has_guard=has_guard, cancels=cancels)
        late, errors, total, trials = [], 0, 0, 0
        for name in USERS:
            for at_ms in TALKS_AT_MS:
                user = recording(name)
                at, end = at_ms * MS, at_ms * MS + len(user)
                mixed, sent = echo[: end + 1_500 * MS].copy(), reply[: end + 1_500 * MS].copy()
                mixed[at:end] += user * (USER_RMS / level(user))
                # Interrupted: the reply ends half a second into the user's turn, its echo with it.
                stop = at + 500 * MS
                sent[stop:] = 0
                mixed[stop + path.delay_ms * MS :] -= echo[stop + path.delay_ms * MS : len(mixed)]
                found = listened(through_codec(to_pcm(mixed), path.codec), sent, has_guard=has_guard, cancels=cancels)
                first = at + bounds(user)[0]
                begun = [
                    known for known in found.known(SpeechStarted) if -100 <= (known - first) / MS < FOUND_WITHIN_MS
                ]
                trials += 1
                if begun:
                    late.append((begun[0] - first) / MS)
                heard = recognizer.recognize(found.turn, lambda: False) if len(found.turn) else ""
                errors += min(word_errors(texts[name], heard or ""), len(words(texts[name])))
                total += len(words(texts[name]))
        results[way] = {
            "false_turns_per_minute": round(len(alone.known(SpeechStarted)) / ALONE_MINUTES, 1),
            "pauses_per_minute": round(len(alone.known(VoiceOnset)) / ALONE_MINUTES, 1),
            "users_found": len(late),
            "users": trials,
            "late_ms": percentiles(late),
            "words_wrong_percent": round(100 * errors / total, 1),
            "cpu_percent_of_a_core": round(100 * alone.cpu, 2),
        }
    return results


def noise_results(seeds: int, recognizer: Recognizer, texts: dict[str, str]) -> dict[str, dict[str, object]]:
    results: dict[str, dict[str, object]] = {}
    conditions = [("clean", 99.0), *((kind, snr) for kind in ("white", "car", "babble") for snr in (10.0, 5.0))]
    for kind, snr in conditions:
        errors = {"as it is": 0, "suppressed": 0}
        ends: dict[str, list[float]] = {"as it is": [], "suppressed": []}
        total = 0
        for name, text in texts.items():
            for seed in range(1 if kind == "clean" else seeds):
                speech = np.concatenate([silence(LEAD_MS), recording(name), silence(1_000)])
                others = [recording(other) for other in texts if other[:2] != name[:2]]
                noise = NOISES[kind](len(speech), seed) if kind in NOISES else babble(others, len(speech), seed)
                mixed = at_snr(speech, noise, snr)
                total += len(words(text))
                last = LEAD_MS * MS + bounds(recording(name))[1]
                for way in errors:
                    heard = NoiseSuppressor().suppress(mixed) if way == "suppressed" else mixed
                    said = heard[(LEAD_MS - PRE_ROLL_MS) * MS : last + 100 * MS]
                    errors[way] += word_errors(text, recognizer.recognize(said, lambda: False) or "")
                    sent = np.zeros(len(mixed), np.int16)
                    turns = listened(mixed, sent, has_guard=False, cancels=False, suppresses=way == "suppressed")
                    ends[way] += [(known - last) / MS for known in turns.known(SpeechStopped)[-1:]]
        results[kind if kind == "clean" else f"{kind}, {snr:.0f} dB"] = {
            way: {
                "words_wrong_percent": round(100 * errors[way] / total, 1),
                "turn_ends_after_ms": percentiles(ends[way]),
            }
            for way in errors
        }
    return results


def costs() -> dict[str, float]:
    """Processor time of each part alone, percent of a core per call that talks all the time."""
    speech = np.resize(recording("librivox_0890"), 60 * INPUT_SAMPLE_RATE)

    def percent(step: Callable[[Pcm16], object]) -> float:
        began = time.process_time()
        for at in range(0, len(speech), FRAME):
            step(speech[at : at + FRAME])
        return round(100 * (time.process_time() - began) / 60, 2)

    canceller, suppressor = EchoCanceller(INPUT_SAMPLE_RATE), NoiseSuppressor()

    def cancel(pcm: Pcm16) -> Pcm16:
        canceller.sent(pcm)
        return canceller.clean(pcm)

    return {
        "canceller": percent(cancel),
        "suppressor": percent(suppressor.suppress),
        "canceller_late_ms": CANCELLER_DELAY / MS,
        "suppressor_late_ms_at_most": round(SUPPRESSOR_DELAY / MS, 1),
    }


def silence(ms: int) -> Pcm16:
    return np.zeros(ms * MS, np.int16)


def show(results: dict[str, dict[str, dict[str, object]]]) -> None:
    console = Console(width=140)
    table = Table("echo", "way", "turns/min", "pauses/min", "users found", "late p50/p95", "words wrong", "CPU")
    for path, ways in results["echo"].items():
        for way, row in ways.items():
            assert isinstance(row, dict)
            late = f"{row['late_ms']['p50']} / {row['late_ms']['p95']}"
            found = f"{row['users_found']} of {row['users']}"
            false, pauses = row["false_turns_per_minute"], row["pauses_per_minute"]
            rest = (late, f"{row['words_wrong_percent']} %", f"{row['cpu_percent_of_a_core']} %")
            table.add_row(path, way, str(false), str(pauses), found, *rest)
    console.print(table)
    table = Table("noise", "words wrong: as it is", "suppressed", "turn ends p50/p95: as it is", "suppressed")
    for kind, ways in results["noise"].items():
        rows = [row for row in ways.values() if isinstance(row, dict)]
        ends = [f"{row['turn_ends_after_ms']['p50']} / {row['turn_ends_after_ms']['p95']} ms" for row in rows]
        table.add_row(kind, *(f"{row['words_wrong_percent']} %" for row in rows), *ends)
    console.print(table)
    console.print(results["cost"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Echo and noise: what helps, and what it costs.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recognizer, texts = Recognizer(default_models_dir()), transcripts()
    paths = PATHS[:2] if arguments.quick else PATHS
    results: dict[str, dict[str, dict[str, object]]] = {
        "echo": {path.name: echo_results(path, recognizer, texts) for path in paths},
        "noise": noise_results(1 if arguments.quick else 4, recognizer, texts),
    }
    results["cost"] = dict(costs())  # type: ignore[arg-type]
    show(results)
    if arguments.json:
        about = {"from": provenance(), "paths": [asdict(path) for path in paths], **results}
        arguments.json.write_text(json.dumps(about, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
