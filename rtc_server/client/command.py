"""`rtc-server call`: reads the recordings, makes the call, shows it, and says what went wrong in one sentence."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from .errors import CallError, RecordingError
from .hearing import HEARD_RATE
from .recording import load_recording, save_replies
from .report import CallReport, TurnReport, summary, turns_table
from .session import CallPlan, hold_call

EXIT_OK = 0
EXIT_UNANSWERED = 1  # the call went through, but a recording got no reply
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # the shell's code for Ctrl-C
REFRESH_PER_SECOND = 8


def run_call(
    url: str,
    say: list[Path],
    interrupt_after_ms: int | None,
    out: Path | None,
    json_output: bool,
    timeout_s: float,
    insecure: bool,
    ca: Path | None = None,
    api_key: str | None = None,
    relay: str | None = None,
) -> int:
    """Make one call and print what came of it. Returns the exit code: 0 when every recording was answered,
    1 when one was not, 2 after an error (one sentence on standard error), 130 after Ctrl-C, which hangs up.

    `ca` is a PEM file of the authority that signed the server's certificate; `insecure` accepts any. `relay`:
    see `CallPlan`."""
    try:
        plan = CallPlan(
            url=url,
            recordings=[load_recording(path) for path in say],
            interrupt_after_ms=interrupt_after_ms,
            timeout_s=timeout_s,
            keep_audio=out is not None,
            tls=tls_of(insecure, ca),
            api_key=api_key,
            relay=relay,
        )
        if not plan.recordings:
            raise RecordingError("There is nothing to say: give at least one recording.")
        if out is not None and not out.parent.is_dir():
            raise RecordingError(f"{out} cannot be written: there is no folder {out.parent}.")
        report = asyncio.run(_call(plan, show=not json_output))
        if out is not None:
            save_replies(out, report.replies, HEARD_RATE)
    except CallError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("Hung up.", file=sys.stderr)
        return EXIT_INTERRUPTED
    if json_output:
        print(report.to_line(), flush=True)
    else:
        print(summary(report))
        for warning in report.warnings:
            print(f"The server reported: {warning}", file=sys.stderr)
    return EXIT_OK if all(turn.is_answered for turn in report.turns) else EXIT_UNANSWERED


async def _call(plan: CallPlan, *, show: bool) -> CallReport:
    """Make the call; a terminal sees the table grow, anything else gets it once it is complete."""
    console = Console(file=sys.stdout, highlight=False)
    if not show:
        return await hold_call(plan)
    if not console.is_terminal:
        report = await hold_call(plan)
        console.print(turns_table(report.turns))
        return report
    with Live(console=console, refresh_per_second=REFRESH_PER_SECOND) as live:

        def on_progress(turns: Sequence[TurnReport]) -> None:
            live.update(turns_table(turns))

        report = await hold_call(plan, on_progress)
        live.update(turns_table(report.turns), refresh=True)
        return report


def tls_of(insecure: bool, ca: Path | None) -> ssl.SSLContext | bool:
    """How aiohttp is to check the server's certificate. Raises CallError when `ca` is not a PEM file."""
    if insecure:
        return False
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise CallError(f"{ca} is not a certificate authority's PEM file: {error.strerror or error}.") from error
