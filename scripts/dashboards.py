"""Writes the Grafana dashboards in `monitoring/grafana/dashboards/`.

    python -m scripts.dashboards           write them
    python -m scripts.dashboards --check   only say whether they are up to date (exit code 1 if not)

Panels are made from the metric objects of `rtc_server.metrics` (`scripts.promql`), so that none can name a metric or a
label that there is not, and with Grafana's own schema (grafana-foundation-sdk), so that Grafana can read them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from rtc_server import metrics as m
from scripts.panels import (
    THIRD,
    empty,
    figure,
    graph,
    heat,
    percentiles,
    ratio,
    seconds,
)
from scripts.promql import buckets, observations, quantile, rate, share_above, value

FOLDER = Path(__file__).resolve().parent.parent / "monitoring" / "grafana" / "dashboards"


def overview() -> dashboard.Dashboard:
    """What whoever is woken looks at first: do callers suffer, and where does the time go?"""
    refused, started = rate(m.CALLS_REFUSED), rate(m.CALLS_STARTED)
    failed = rate(m.RESPONSES, where={"status": "failed"})
    board = empty("rtc-server-overview", "rtc-server", "Calls, response latency by stage, media, engine and processes.")
    board = (
        board.with_row(dashboard.Row("Do callers suffer?"))
        .with_panel(figure("Calls", "Slots held, connecting calls included.", "none", value(m.CALLS)))
        .with_panel(
            figure(
                "Capacity used",
                "Calls over the calls that are taken at once.",
                "percentunit",
                ratio(value(m.CALLS), value(m.MAX_CALLS)),
                *((None, "green"), (0.8, "orange"), (1.0, "red")),
            )
        )
        .with_panel(
            figure(
                "Response, 95 %",
                "End of the caller's last word to the first sound of the reply, 95th percentile.",
                "s",
                quantile(0.95, m.RESPONSE_LATENCY),
                *((None, "green"), (seconds("response"), "orange"), (1.0, "red")),
            )
        )
        .with_panel(
            figure(
                "Calls refused",
                "Share of the calls that were refused.",
                "percentunit",
                ratio(refused, f"{refused} + {started}"),
                *((None, "green"), (0.01, "orange"), (0.05, "red")),
            )
        )
        .with_panel(
            figure(
                "Responses failed",
                "Share of the responses that ended in an error.",
                "percentunit",
                ratio(failed, rate(m.RESPONSES)),
                *((None, "green"), (0.01, "orange"), (0.05, "red")),
            )
        )
        .with_panel(
            figure(
                "Engines ready",
                "Servers whose engine is warm.",
                "none",
                value(m.ENGINE_READY),
                *((None, "red"), (1.0, "green")),
            )
        )
        .with_row(dashboard.Row("Response latency"))
        .with_panel(
            graph(
                "Whole response",
                "End of the caller's last word to the first sound of the reply. The dashed line is the target.",
                "s",
                percentiles(m.RESPONSE_LATENCY),
                target=seconds("response"),
            )
        )
        .with_panel(
            heat("Whole response, all", "Each response in the bucket of its latency.", buckets(m.RESPONSE_LATENCY))
        )
        .with_panel(
            graph(
                "Stages, median",
                "Stages overlap when a reply is prepared ahead, so they add up to more than the whole.",
                "s",
                {"{{stage}}": quantile(0.5, m.TURN_STAGE, by=("stage",))},
            )
        )
        .with_panel(
            graph(
                "Stages, 95 %",
                "The stage that grew is where to look.",
                "s",
                {"{{stage}}": quantile(0.95, m.TURN_STAGE, by=("stage",))},
            )
        )
    )
    for name, title, about in (
        ("endpoint", "End of turn", "Silence, until it is certain that the caller has finished."),
        ("inference", "Request to first words", "Queue, recognition and the language model's first words together."),
        ("first_audio", "First sound", "From the first words to the first sound of them."),
    ):
        where = {"stage": name}
        board = board.with_panel(
            graph(title, about, "s", percentiles(m.TURN_STAGE, where), target=seconds(name), width=THIRD)
        )
    return (
        board.with_row(dashboard.Row("Calls"))
        .with_panel(
            graph(
                "Calls and room",
                "Calls that hold a slot, and how many there are.",
                "none",
                {"calls": value(m.CALLS), "slots": value(m.MAX_CALLS)},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Ended",
                "Calls per second, by what ended them.",
                "cps",
                {"{{reason}}": rate(m.CALLS_ENDED, by=("reason",))},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Refused",
                "Calls and requests per second that were refused, by code.",
                "cps",
                {
                    "call: {{code}}": rate(m.CALLS_REFUSED, by=("code",)),
                    "request: {{code}}": rate(m.REQUESTS_REFUSED, by=("code",)),
                },
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Responses",
                "Responses per second, by how they ended.",
                "cps",
                {"{{status}}": rate(m.RESPONSES, by=("status",))},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Prepared ahead",
                "Responses per second that were begun before the end of the turn, by what became of them.",
                "cps",
                {"{{outcome}}": rate(m.SPECULATIONS, by=("outcome",))},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Interruptions",
                "Voices during a reply per second, by verdict.",
                "cps",
                {"{{verdict}}": rate(m.INTERRUPTIONS, by=("verdict",))},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Resumed",
                "Calls per second that clients came back to, or that were not there any more.",
                "cps",
                {"{{outcome}}": rate(m.SESSIONS_RESUMED, by=("outcome",))},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Recordings",
                "Calls that are being recorded, and recordings per second that stopped while their call went on.",
                "none",
                {"recorded now": value(m.RECORDINGS), "failed: {{reason}}": rate(m.RECORDING_FAILURES, by=("reason",))},
                width=THIRD,
            )
        )
        .with_panel(graph("Recordings written", "To the disk.", "Bps", {"bytes": rate(m.RECORDING_BYTES)}, width=THIRD))
        .with_row(dashboard.Row("Playout and network"))
        .with_panel(
            graph(
                "Playout lateness",
                "How late 20 ms frames were sent; callers hear it from 40 ms on.",
                "s",
                percentiles(m.PLAYOUT_LATENESS),
                target=0.04,
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Gaps that the server made",
                "Replies that ran dry, and frames skipped after a stall, per second; frames more than 40 ms late.",
                "cps",
                {"underruns": rate(m.PLAYOUT_UNDERRUNS), "skipped frames": rate(m.PLAYOUT_SKIPPED)},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Frames more than 40 ms late",
                "Share of the frames.",
                "percentunit",
                {"late": share_above(0.04, m.PLAYOUT_LATENESS)},
                target=0.01,
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Packets from callers",
                "Packets per second, by what became of them, but for those that were simply received.",
                "pps",
                {
                    kind: rate(m.RTP_PACKETS_IN, where={"kind": kind})
                    for kind in ("lost", "recovered", "late", "reordered", "duplicates", "corrupt", "rejected")
                },
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Loss towards callers",
                "Share of our packets that peers lost, by their reports.",
                "percentunit",
                percentiles(m.RTP_REMOTE_LOSS),
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Callers' audio that was made up",
                "Share that was concealed or filled with silence.",
                "percentunit",
                {
                    kind: ratio(rate(m.INPUT_AUDIO_SECONDS, where={"kind": kind}), rate(m.INPUT_AUDIO_SECONDS))
                    for kind in ("recovered", "concealed", "filled")
                },
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Jitter, 95 %",
                "Of callers' packets here, and of ours at callers.",
                "s",
                {"in": quantile(0.95, m.RTP_JITTER), "out": quantile(0.95, m.RTP_REMOTE_JITTER)},
                width=THIRD,
            )
        )
        .with_panel(
            graph("Round trip", "To callers, by RTCP.", "s", percentiles(m.RTP_ROUND_TRIP), target=0.05, width=THIRD)
        )
        .with_panel(
            graph(
                "Jitter buffer",
                "Longest wait of audio in the receive buffer, in each second of each call.",
                "s",
                percentiles(m.JITTER_BUFFER_DELAY),
                width=THIRD,
            )
        )
        .with_row(dashboard.Row("What waits"))
        .with_panel(
            graph(
                "For the voice detector",
                "Callers' audio that is not judged yet; beyond 0.5 s clients have to wait.",
                "s",
                percentiles(m.VOICE_BACKLOG),
                target=0.5,
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "For the turn model",
                "Pauses per second that it was not asked about because too many were waiting.",
                "cps",
                {"not asked": rate(m.TURN_QUESTIONS_DROPPED)},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "For clients to read",
                "Events that they had not read.",
                "bytes",
                percentiles(m.EVENT_BACKLOG),
                width=THIRD,
            )
        )
        .with_row(dashboard.Row("Processes"))
        .with_panel(
            graph(
                "Event loop lag, 99 %",
                "How late a timer ran, in each process.",
                "s",
                {"{{instance}} {{process}}": quantile(0.99, m.LOOP_LAG, by=("instance", "process"))},
                target=0.02,
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "CPU",
                "Cores in use.",
                "none",
                {"{{instance}} {{process}}": rate(m.CPU_SECONDS, by=("instance", "process"))},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Memory",
                "Resident.",
                "bytes",
                {"{{instance}} {{process}}": value(m.RSS_BYTES, by=("instance", "process"))},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Tasks and threads",
                "Flat, or they leak.",
                "none",
                {"tasks": value(m.ASYNCIO_TASKS), "threads": value(m.THREADS)},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "File descriptors",
                "Open, as a share of what each process may open.",
                "percentunit",
                {
                    "{{instance}} {{process}}": f"{value(m.OPEN_FILES, by=('instance', 'process'))}"
                    f" / {value(m.MAX_FILES, by=('instance', 'process'))}"
                },
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Restarts",
                "Of engines and media workers, per second.",
                "cps",
                {"engine": rate(m.ENGINE_RESTARTS), "media worker": rate(m.MEDIA_WORKER_RESTARTS)},
                width=THIRD,
            )
        )
    )


def engine() -> dashboard.Dashboard:
    """Why the engine is slow: does it wait, is it full, or does it compute too long?"""
    board = empty("rtc-server-engine", "rtc-server: engine", "Queue, batches, steps, caches and the GPU.")
    return (
        board.with_row(dashboard.Row("Is it keeping up?"))
        .with_panel(
            graph(
                "Responses inside",
                "Worked on, waiting for a place, and how many it takes.",
                "none",
                {"{{state}}": value(m.ENGINE_RESPONSES, by=("state",)), "most": value(m.ENGINE_MAX_RESPONSES)},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Wait in the queue",
                "From the request to the engine's start on it.",
                "s",
                percentiles(m.TURN_STAGE, {"stage": "queue"}),
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Compute per second of audio",
                "Below 1 it is faster than the listener.",
                "none",
                {
                    "{{instance}}": value(m.ENGINE_REAL_TIME_FACTOR, by=("instance",)),
                    "over the window": ratio(rate(m.ENGINE_COMPUTE_SECONDS), rate(m.ENGINE_AUDIO_SECONDS)),
                },
                target=1.0,
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Audio made",
                "Seconds of audio per second.",
                "none",
                {"audio": rate(m.ENGINE_AUDIO_SECONDS)},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Not read yet",
                "Requests that wait for the engine, and its events that wait for media workers.",
                "bytes",
                {"requests": value(m.ENGINE_UNSENT), "events": value(m.ENGINE_UNREAD)},
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "Ready and restarts",
                "Warm engines, and engines lost per second.",
                "none",
                {"ready": value(m.ENGINE_READY), "restarts per second": rate(m.ENGINE_RESTARTS)},
                width=THIRD,
            )
        )
        .with_row(dashboard.Row("Steps and batches"))
        .with_panel(graph("Step", "Duration of one step.", "s", percentiles(m.ENGINE_STEP)))
        .with_panel(heat("Step, all", "Each step in the bucket of its duration.", buckets(m.ENGINE_STEP)))
        .with_panel(
            graph(
                "Responses per pass",
                "Worked on together in one pass of the model.",
                "none",
                percentiles(m.ENGINE_BATCH),
            )
        )
        .with_panel(
            graph(
                "Steps",
                "Steps per second, and passes of the model.",
                "cps",
                {"steps": observations(m.ENGINE_STEP), "passes": observations(m.ENGINE_BATCH)},
            )
        )
        .with_row(dashboard.Row("Memory and GPU"))
        .with_panel(
            graph(
                "KV cache used",
                "Share of the blocks that responses hold.",
                "percentunit",
                {
                    "{{cache}}": f"{value(m.ENGINE_CACHE_USED, by=('cache',))}"
                    f" / ({value(m.ENGINE_CACHE_BLOCKS, by=('cache',))} > 0)"
                },
                most=1.0,
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "GPU memory",
                "In use, and all.",
                "bytes",
                {
                    "{{instance}} GPU {{gpu}}": value(m.GPU_MEMORY_USED, by=("instance", "gpu")),
                    "{{instance}} GPU {{gpu}} has": value(m.GPU_MEMORY, by=("instance", "gpu")),
                },
                width=THIRD,
            )
        )
        .with_panel(
            graph(
                "GPU use",
                "Share of the time in which a kernel ran.",
                "percentunit",
                {"{{instance}} GPU {{gpu}}": value(m.GPU_UTILISATION, by=("instance", "gpu"))},
                most=1.0,
                width=THIRD,
            )
        )
    )


DASHBOARDS = {"overview.json": overview, "engine.json": engine}


def texts() -> dict[Path, str]:
    """What belongs into each file."""
    return {FOLDER / name: as_json(make()) for name, make in DASHBOARDS.items()}


def as_json(board: dashboard.Dashboard) -> str:
    """The file's text. Panels are numbered, so that a link to one of them stays good."""
    built = board.build()
    for number, panel in enumerate(built.panels or [], 1):
        panel.id_val = number
    return str(JSONEncoder(sort_keys=True, indent=2).encode(built)) + "\n"


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = 0
    for path, text in texts().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"{path.name}: stale: run python -m scripts.dashboards")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: written")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
