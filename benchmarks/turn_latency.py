"""Response latency through real calls: recordings are said, replies are heard, every stage is written down.

    python -m benchmarks.turn_latency                       own server, default settings, the committed questions
    python -m benchmarks.turn_latency --url http://...      a server that runs already
    python -m benchmarks.turn_latency --quick               one round: does it work?

One call per round, so that the conversation stays short. The recordings rotate by one from round to round and no
question is ever asked twice in a row: a language model's prompt cache would flatter the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT, percentiles, provenance
from benchmarks.support.plots import plot_latency
from benchmarks.support.server import BenchmarkError, RunningServer, serving
from rtc_server.client.errors import CallError
from rtc_server.client.recording import Recording, load_recording
from rtc_server.client.report import TurnReport
from rtc_server.client.session import CallPlan, hold_call

DEFAULT_SAY = tuple(ROOT / "tests/data/speech" / f"f{number}_rms.wav" for number in range(4))
DEFAULT_ROUNDS = 5
REPLY_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One answered turn."""

    round: int
    turn: TurnReport


def rotated(recordings: Sequence[Recording], rounds: int) -> list[list[Recording]]:
    """The order of each round. The last of one round is never the first of the next, if there are two or more."""
    count = len(recordings)
    step = 0 if count == 2 else 1  # two would meet themselves when turned round
    return [[recordings[(number * step + i) % count] for i in range(count)] for number in range(rounds)]


async def measure(url: str, recordings: Sequence[Recording], rounds: int, console: Console) -> list[Measured]:
    """Hold one call per round and tell every turn as it comes. Raises CallError when a call goes wrong."""
    measured = []
    for number, order in enumerate(rotated(recordings, rounds)):
        report = await hold_call(CallPlan(url, order, timeout_s=REPLY_TIMEOUT_SECONDS))
        for turn in report.turns:
            measured.append(Measured(number, turn))
            latency = "no reply" if turn.response_latency_ms is None else f"{turn.response_latency_ms:.0f} ms"
            console.print(f"round {number + 1}/{rounds}  {turn.recording}: {latency}", highlight=False)
    return measured


def summarise(turns: Sequence[TurnReport]) -> dict[str, dict[str, float | int | None]]:
    """Percentiles in ms of the latency at the caller and at the server, and of every stage's duration."""
    rows = {
        "response latency (at the caller)": [t.response_latency_ms for t in turns],
        "response latency (at the server)": [t.server_latency_ms for t in turns],
    }
    names = dict.fromkeys(name for turn in turns for name in turn.stages)
    for name in names:
        rows[name] = [t.stages[name]["end_ms"] - t.stages[name]["start_ms"] for t in turns if name in t.stages]
    return {name: percentiles([value for value in values if value is not None]) for name, values in rows.items()}


def latency_table(summary: dict[str, dict[str, float | int | None]]) -> Table:
    """The summary for people."""
    table = Table("in ms", box=None, pad_edge=False, header_style="bold")
    for name in ("n", "p50", "p95", "p99", "min", "max"):
        table.add_column(name, justify="right")
    for name, figures in summary.items():
        cells = ["" if value is None else f"{value:g}" for value in figures.values()]
        table.add_row(name, *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report. Returns 0, 1 when a turn was not answered, 2 after an error."""
    options = _parser().parse_args(arguments)
    console = Console()
    rounds = 1 if options.quick else options.rounds
    origin = provenance()
    try:
        recordings = [load_recording(path) for path in options.say or DEFAULT_SAY]
        with nullcontext(RunningServer(options.url)) if options.url else serving(options.backend) as server:
            info = server.info()
            measured = asyncio.run(measure(server.url, recordings, rounds, console))
    except (BenchmarkError, CallError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    turns = [m.turn for m in measured]
    summary = summarise(turns)
    console.print()
    console.print(latency_table(summary))
    speculated = sum(bool(turn.speculated) for turn in turns)
    unanswered = sum(not turn.is_answered for turn in turns)
    console.print(f"{len(turns)} turns, {speculated} answered speculatively, {unanswered} not answered")
    result = {
        "benchmark": "turn_latency",
        **origin,
        "server": info,
        "workload": {
            "recordings": [recording.name for recording in recordings],
            "rounds": rounds,
            "order": "rotated by one each round",
            "seed": None,  # nothing is drawn at random here; the engine's own seeds are in its settings
        },
        "summary_ms": summary,
        "turns": [{"round": m.round, **m.turn.to_json()} for m in measured],
    }
    _save(options.json, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if any(turn.is_answered for turn in turns):
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot_latency(turns, options.plot, title=f"{info.get('model')}, commit {str(origin['commit'])[:7]}")
    console.print(f"wrote {options.json} and {options.plot}", highlight=False)
    return 1 if unanswered else 0


def _save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turn_latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="measure this server; without it, one is started for the measurement")
    parser.add_argument("--backend", default="cascade", help="backend of the started server (default: cascade)")
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="calls to make (default: %(default)s)")
    parser.add_argument("--say", type=Path, action="append", metavar="WAV", help="recording to say; repeatable")
    parser.add_argument("--json", type=Path, default=ROOT / "out/turn_latency.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=ROOT / "out/turn_latency.png", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one round only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
