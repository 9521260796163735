"""What one call costs the media process, signaling and the embedded engine, in CPU time and memory.

    python -m benchmarks.call_cost                  about three minutes
    python -m benchmarks.call_cost --quick          does it work?
    python -m benchmarks.call_cost --json out/call_cost.json

CPU time (user and system) of the server's own processes is counted and never wall time, so that other programs on the
machine disturb the result little: they share its caches and nothing else. The figures are what `docs/scaling.md` plans
with, and what `benchmarks.scaling` reads with `--costs`.

*silent*: a caller whose microphone is open in a quiet room, hearing nothing. *heard*: one who speaks without a pause
and gets no answer. *echo*: one who speaks without a pause and hears himself: both codecs, all the time. *conversation*:
asks, gets a reply, pauses (`benchmarks.connections`). Of a set-up and of a second of call: two runs with equally many
calls of different length, and what each costs follows. *engine*: recordings of the tests through the cascade,
one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cascade_latency import CREDIT_MS, SPEECH, read_wav
from benchmarks.cascade_latency import measure as measure_response
from benchmarks.connections import measure as measure_conversation
from benchmarks.support.call_costs import Spent, set_up_and_second
from benchmarks.support.machine import provenance
from benchmarks.support.server import BenchmarkError, RunningServer, serving
from model.interface import INPUT_SAMPLE_RATE, GenerateRequest
from model.registry import create_engine
from rtc_server.loadtest.run import SETTLE_SECONDS, LoadPlan, LoadTestError, default_recordings, run

MAX_CALLS = 1_000
MEMORY_CALLS = 60
SET_UP_CALLS = 10
SET_UP_ROUNDS = 6
RAMP_MS = 60.0
SILENCE_SECONDS = 10
CLIENT_TAIL_SECONDS = 0.6  # the load test's client stays so long after its plan


def settings(*, creates_responses: bool) -> dict[str, object]:
    """Default settings, with room for every call of the test."""
    return {
        "server.echo_test": True,
        "server.max_calls": MAX_CALLS,
        "limits.calls_per_address": MAX_CALLS,
        "limits.burst": MAX_CALLS,
        "limits.address_burst": MAX_CALLS,
        "turns.create_response": creates_responses,
        "logging.level": "warning",
    }


def silence(folder: Path) -> Path:
    """A recording of a room in which nothing is to be heard."""
    path = folder / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(INPUT_SAMPLE_RATE)
        file.writeframes(bytes(2 * INPUT_SAMPLE_RATE * SILENCE_SECONDS))
    return path


def steady(server: RunningServer, calls: int, seconds: float, **more: Any) -> dict[str, Any]:
    """One run of the load test: what a second of call costs the media process once all calls are up."""
    recordings = more.pop("recordings", None) or default_recordings()
    plan = LoadPlan(server.url, recordings, calls, seconds, ramp_ms=RAMP_MS, pids=server.media_pids(), **more)
    report = run(plan)
    return {
        "calls": calls,
        "connected": report["connected"],
        "cpu_ms_per_call_second": round(report["server"]["cpu_ms_per_call_second"], 2),
        "rss_mb_per_call": round(report["server"]["rss_mb_per_call"], 3),
    }


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that these processes have used so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def whole_runs(server: RunningServer, recordings: Sequence[Path], rounds: int, seconds: float) -> tuple[Spent, Spent]:
    """What so many runs of silent calls, all set up at once, cost from offer to hang-up: in signaling, in media."""
    assert server.process is not None
    owners = ([server.process.pid], server.media_pids())
    before = [cpu_seconds(pids) for pids in owners]
    plan = LoadPlan(server.url, recordings, SET_UP_CALLS, seconds, path="/api/offer", ramp_ms=0.0, expects_audio=False)
    for _ in range(rounds):
        report = run(plan)
        if report["connected"] < SET_UP_CALLS:
            raise BenchmarkError(f"Only {report['connected']} of {SET_UP_CALLS} calls could be set up.")
    calls, length = rounds * SET_UP_CALLS, seconds + SETTLE_SECONDS + CLIENT_TAIL_SECONDS
    signaling, media = (
        Spent(calls, calls * length, cpu_seconds(pids) - spent) for pids, spent in zip(owners, before, strict=True)
    )
    return signaling, media


def measure_media(*, is_quick: bool) -> dict[str, Any]:
    """All figures of signaling and media."""
    seconds, calls = (3.0, 4) if is_quick else (12.0, 40)
    many = 8 if is_quick else MEMORY_CALLS
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rtc-call-cost-") as name:
        quiet = (silence(Path(name)),)
        with serving("echo", settings(creates_responses=False)) as server:
            answers_nothing = {"path": "/api/offer", "expects_audio": False}
            result["silent"] = steady(server, calls, seconds, recordings=quiet, **answers_nothing)
            result["heard"] = steady(server, calls, seconds, **answers_nothing)
            rounds = 1 if is_quick else SET_UP_ROUNDS
            short, long = (whole_runs(server, quiet, rounds, length) for length in (0.5, seconds / 2))
            for owner, one, other in zip(("signaling", "media"), short, long, strict=True):
                set_up_ms, second_ms = set_up_and_second(one, other)
                costs = {"cpu_ms": round(set_up_ms, 1), "cpu_ms_per_call_second": round(second_ms, 2)}
                result[f"set_up_{owner}"] = costs
    with serving("echo", settings(creates_responses=True)) as server:
        result["echo"] = steady(server, calls, seconds, path="/api/echo")
        result["conversation"] = asyncio.run(measure_conversation(server, "webrtc", 2 if is_quick else 10, seconds + 8))
    with serving("echo", settings(creates_responses=False)) as server:
        result["memory"] = steady(server, many, seconds, path="/api/offer", expects_audio=False)
        assert server.process is not None
        processes = [psutil.Process(pid) for pid in (server.process.pid, *server.media_pids())]
        result["rss_mb"] = [round(process.memory_info().rss / 2**20) for process in processes]
    return result


def measure_cascade(*, is_quick: bool) -> dict[str, float]:
    """CPU time of the embedded engine, its threads included, per response and per second of sound."""
    paths = sorted(SPEECH.glob("*.wav"))
    recordings = [(path.stem, read_wav(path)) for path in (paths[:2] if is_quick else paths)]
    process, woken = psutil.Process(), threading.Event()
    engine = create_engine("cascade", {}, woken.set)
    spent = spoken = heard = 0.0
    count = 0
    try:
        engine.warm_up()
        for number in range(1 if is_quick else 3):
            for name, audio in recordings:
                key = f"{name}-{number}"
                request = GenerateRequest(key, key, key, (), audio=audio, seed=number, audio_credit_ms=CREDIT_MS)
                before = sum(process.cpu_times()[:2])
                response = measure_response(engine, woken, request)
                spent += sum(process.cpu_times()[:2]) - before
                spoken += response["seconds"]
                heard += len(audio) / INPUT_SAMPLE_RATE
                count += 1
        rss_mb = process.memory_info().rss / 2**20
    finally:
        engine.close()
    return {
        "responses": count,
        "cpu_ms_per_response": round(1000 * spent / count, 1),
        "heard_seconds": round(heard / count, 2),
        "spoken_seconds": round(spoken / count, 2),
        "rss_mb": round(rss_mb),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns 0; 2 after an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few calls, seconds each: does it work?")
    parser.add_argument("--without-engine", action="store_true", help="media and signaling only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"benchmark": "call_cost", **provenance()}
    try:
        result |= measure_media(is_quick=options.quick)
        if not options.without_engine:
            result["cascade"] = measure_cascade(is_quick=options.quick)
    except (BenchmarkError, LoadTestError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(result, indent=1)
    print(text)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
