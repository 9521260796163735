"""How well the end of a turn is recognised, how soon turns end by it, and what that costs.

    python -m benchmarks.turn_completion            all recordings, four phases
    python -m benchmarks.turn_completion --quick    three recordings, one phase

Recordings of `tests/data/speech` in a quiet room, through voice and turn detection: their ends, their inner pauses, and
the same recordings broken off where the level dips (words end there, more or less). Rank: how often an end scores above
what is no end, of all pairs; 0.5 is chance. Endpoint: silence at which the turn ends, the time for the answers
included, by the rules of `rtc_server.turns.completion`. Answered within a time: a user who paused that long is cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the media process; read when numpy is imported

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT, percentiles, provenance
from benchmarks.support.turn_pauses import SILENCES_MS, Material, Pause, endpoint_ms, rank, read
from model.interface import Pcm16
from model.weights import SILERO_VAD, SMART_TURN, default_models_dir
from rtc_server.media.turn_judges import TurnJudges
from rtc_server.media.worker import SWITCH_INTERVAL_SECONDS
from rtc_server.turns.completion import Eagerness, completion, wait_ms
from rtc_server.turns.smart_turn import SmartTurn, log_mel

TICK_SECONDS = 0.005
WORDS_MS = 150.0  # recognition of an utterance of a few seconds on a busy machine (docs/experiments.md: 35 to 157)
SOUND_MS = 40.0  # the model, busy; measured below
WITHIN_MS = (500, 1_000, 2_000)
Score = Callable[[Pause], float | None]
SOUND: Score = lambda pause: pause.sound  # noqa: E731
WORDS: Score = lambda pause: pause.words  # noqa: E731
BOTH: Score = lambda pause: completion(pause.sound, pause.words)  # noqa: E731


def ranks(pauses: Sequence[Pause]) -> dict[str, dict[str, float]]:
    """Ranks of sound, words and both, at the moment the pause is told and with more silence in view."""

    def of(score: Callable[[Pause], float | None]) -> float:
        scored = [(pause.is_end, value) for pause in pauses if (value := score(pause)) is not None and value == value]
        return rank([v for is_end, v in scored if is_end], [v for is_end, v in scored if not is_end])

    found = {"when told": {"sound": of(SOUND), "words": of(WORDS), "both": of(BOTH)}}
    for index, silence_ms in enumerate(SILENCES_MS):
        found[f"{silence_ms} ms"] = {
            "sound": of(lambda pause, i=index: pause.sounds[i]),  # type: ignore[misc]
            "both": of(lambda pause, i=index: (pause.sounds[i] + pause.words) / 2),  # type: ignore[misc]
        }
    return found


def ends_at(pause: Pause, eagerness: Eagerness, has_sound: bool, has_words: bool) -> float:
    """Silence in ms at which the turn ends under semantic_vad, as the server's parts answer one after the other."""
    sound = pause.sound if has_sound else None
    words = pause.words if has_words else None
    steps = [(pause.told_ms, wait_ms(eagerness, None))]
    if has_sound:
        steps.append((pause.told_ms + SOUND_MS, wait_ms(eagerness, completion(sound, None))))
    if has_words:
        steps.append((pause.told_ms + WORDS_MS, wait_ms(eagerness, completion(sound, words))))
    return endpoint_ms(steps)


def endpoints(pauses: Sequence[Pause]) -> dict[str, dict[str, float]]:
    """Each rule: endpoint at true ends, and how many of the other pauses would have been answered."""
    rules: dict[str, Callable[[Pause], float]] = {
        f"server_vad {silence_ms} ms": lambda pause, ms=silence_ms: float(ms)  # type: ignore[misc]
        for silence_ms in (400, 500, 1_000)
    }
    for eagerness in ("high", "medium", "low"):
        for name, has_sound, has_words in (("both", True, True), ("words", False, True), ("sound", True, False)):
            rules[f"{eagerness}, {name}"] = lambda pause, e=eagerness, s=has_sound, w=has_words: (  # type: ignore[misc]
                ends_at(pause, e, s, w)
            )
    found = {}
    for name, rule in rules.items():
        ends = [rule(pause) for pause in pauses if pause.is_end]
        others = [rule(pause) for pause in pauses if not pause.is_end]
        p50, p90 = np.percentile(ends, (50, 90))
        found[name] = {"p50_ms": float(p50), "mean_ms": float(np.mean(ends)), "p90_ms": float(p90)}
        found[name] |= {f"answered_within_{ms}_ms": float(np.mean(np.array(others) <= ms)) for ms in WITHIN_MS}
    return found


def model_cost(model: SmartTurn, pcm: Pcm16, rounds: int) -> dict[str, dict[str, float | int | None]]:
    """Wall-clock ms of the features, and of features and model together, one after the other in one thread."""
    parts: dict[str, Callable[[], object]] = {"features": lambda: log_mel(pcm), "all": lambda: model(pcm)}
    found = {}
    for name, part in parts.items():
        part()
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            part()
            times.append((time.perf_counter() - begun) * 1e3)
        found[name] = percentiles(times)
    return found


async def beside_the_loop(model: SmartTurn, pcm: Pcm16, rounds: int) -> dict[str, dict[str, float | int | None]]:
    """Ms from a question to its answer, and how late a 5 ms tick of the event loop is without and with questions."""
    loop = asyncio.get_running_loop()

    async def ticks(until: asyncio.Future[None]) -> list[float]:
        late, due = [], loop.time()
        while not until.done():
            due = max(due + TICK_SECONDS, loop.time())
            await asyncio.sleep(max(0.0, due - loop.time()))
            late.append((loop.time() - due) * 1e3)
        return late

    async def rest() -> None:
        await asyncio.sleep(rounds * 0.04)

    answers: list[float] = []

    async def ask() -> None:
        judge = TurnJudges(lambda: model)()
        for _ in range(rounds):
            answered: asyncio.Future[float] = loop.create_future()
            begun = loop.time()
            judge.ask(pcm, answered.set_result)
            await answered
            answers.append((loop.time() - begun) * 1e3)
        judge.close()

    found = {}
    for name, work in (("tick late, idle loop", rest()), ("tick late, judging without a pause", ask())):
        done: asyncio.Future[None] = loop.create_future()
        ticking = asyncio.create_task(ticks(done))
        await work
        done.set_result(None)
        found[name] = percentiles(await ticking)
    return {"question to answer": percentiles(answers), **found}


def costs(path: Path, pcm: Pcm16, rounds: int) -> dict[str, object]:
    """The same idle and with every core busy."""
    before = psutil.Process().memory_info().rss
    begun = time.perf_counter()
    model = SmartTurn(path)
    model(pcm)
    result: dict[str, object] = {
        "first_answer_ms": round((time.perf_counter() - begun) * 1e3, 1),
        "memory_mb": round((psutil.Process().memory_info().rss - before) / 1e6, 1),
    }
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    for name, hogs in (("idle", 0), ("busy", os.cpu_count() or 1)):
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(hogs)]
        try:
            result[name] = model_cost(model, pcm, rounds) | asyncio.run(beside_the_loop(model, pcm, rounds))
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
    return result


def show(console: Console, title: str, rows: dict[str, dict[str, float]]) -> None:
    table = Table(title=title)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    for column in ("", *columns):
        table.add_column(column.replace("_", " "), justify="right" if column else "left")
    for name, row in rows.items():
        digits = [f"{row[c]:.0f}" if row.get(c, 0) > 2 else f"{row[c]:.2f}" if c in row else "" for c in columns]
        table.add_row(name, *digits)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console, models = Console(width=120), default_models_dir()
    result: dict[str, object] = {"provenance": provenance()}
    paths = sorted((ROOT / "tests/data/speech").glob("*.wav"))[:: 4 if arguments.quick else 1]
    cost = costs(models / SMART_TURN, read(paths[0]), 20 if arguments.quick else 100)
    console.print_json(json.dumps(cost))
    material = Material(models, models / SILERO_VAD, SmartTurn(models / SMART_TURN))
    phases = range(1 if arguments.quick else 4)
    pauses = [pause for path in paths for phase in phases for pause in material.pauses(read(path), phase)]
    kinds = {kind: sum(pause.kind == kind for pause in pauses) for kind in ("end", "pause", "cut")}
    told = percentiles([pause.told_ms for pause in pauses])
    console.print(
        f"{len(paths)} recordings, {len(phases)} phases: {kinds}; told after {told['p50']} ms of silence (p50)"
    )
    result |= {"cost": cost, "pauses": kinds, "told_ms": told, "ranks": ranks(pauses), "endpoints": endpoints(pauses)}
    show(console, "Rank of ends above others, by silence in view", ranks(pauses))
    show(console, "Endpoint", endpoints(pauses))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
