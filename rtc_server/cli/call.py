"""`rtc-server call`: a caller without a microphone, for checks and measurements."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .console import ApiKeyOption, CaOption, InsecureOption, UrlOption

EPILOG = """
Examples:

  rtc-server call --say question.wav --out reply.wav

  rtc-server call --say a.wav --say b.wav --json

  rtc-server call --say a.wav --relay tls   over TURN inside TLS, as behind a firewall that lets nothing else through

  rtc-server call --say a.wav --say b.wav --interrupt-after-ms 700   b.wav cuts into the first reply

With --json the last line of the output holds transcripts, latencies and their stages.
"""


class Relay(StrEnum):
    """How the TURN server is talked to."""

    ANY = "any"
    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


def call(
    say: Annotated[
        list[Path],
        typer.Option(
            "--say", exists=True, dir_okay=False, readable=True, metavar="WAV", help="Recording to play; repeatable."
        ),
    ],
    url: UrlOption = "http://127.0.0.1:8000",
    interrupt_after_ms: Annotated[
        int | None,
        typer.Option(min=0, help="Play the next recording this long after a reply begins, cutting into it."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--out", metavar="WAV", help="Save what the server said.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="End with one line of JSON for programs.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=1.0, help="Seconds to wait for each reply.")] = 30.0,
    relay: Annotated[
        Relay | None,
        typer.Option(help="Talk over a TURN server of the server's only: the first over udp, tcp or tls, or any."),
    ] = None,
    ca: CaOption = None,
    api_key: ApiKeyOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Call a server, play recordings, and report what it answered and how fast."""
    from rtc_server.client.command import run_call

    way = None if relay is None else relay.value
    code = run_call(url, say, interrupt_after_ms, output, json_output, timeout_s, insecure, ca, api_key, way)
    raise typer.Exit(code)
