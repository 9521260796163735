"""`rtc-server loadtest`: how many calls does a server carry, and how well?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EPILOG = """
Examples:

  rtc-server loadtest --calls 40 --seconds 20

  rtc-server loadtest --calls 6 --loss 0.05 --burst 3 --jitter-ms 40

The server must be started with server.echo_test = true; a key for it is read from RTC_SERVER_API_KEY. Calls come from a
native client (Node.js, node-datachannel) that is installed on first use. Media goes to the server's own address and
nowhere else.
"""


def loadtest(
    url: Annotated[str, typer.Option(help="Address of the server.")] = "http://127.0.0.1:8000",
    calls: Annotated[int, typer.Option(min=1, max=2_000, help="Calls at once.")] = 10,
    seconds: Annotated[float, typer.Option(min=1.0, max=86_400.0, help="Measured time.")] = 20.0,
    loss: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of packets lost on the way there.")] = 0.0,
    burst: Annotated[float, typer.Option(min=1.0, help="Mean number of packets lost in a row.")] = 1.0,
    jitter_ms: Annotated[float, typer.Option(min=0.0, help="Each packet is late by up to this.")] = 0.0,
    reorder: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share overtaken by the next packet.")] = 0.0,
    duplicate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that arrives twice.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Same seed, same network.")] = 1,
    say: Annotated[
        list[Path] | None,
        typer.Option("--say", exists=True, dir_okay=False, metavar="WAV", help="16 kHz mono speech; repeatable."),
    ] = None,
    bind: Annotated[str, typer.Option(help="Local address of the calls.")] = "127.0.0.1",
    pid: Annotated[list[int] | None, typer.Option(help="Server process to watch; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there.")] = None,
) -> None:
    """Make many calls to a server's echo test, and report delay, loss, gaps and set-up time."""
    from rtc_server.loadtest.impairment import Impairment
    from rtc_server.loadtest.report import as_text
    from rtc_server.loadtest.run import LoadPlan, default_recordings, run

    impairment = Impairment(loss, burst, jitter_ms, reorder, duplicate)
    recordings = tuple(say) if say else default_recordings()
    report = run(
        LoadPlan(url, recordings, calls, seconds, impairment=impairment, seed=seed, pids=tuple(pid or ()), bind=bind)
    )
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    typer.echo(as_text(report))
