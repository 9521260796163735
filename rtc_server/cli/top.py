"""`rtc-server top`: what a server does at this moment, in a terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import ApiKeyOption, CaOption, InsecureOption, UrlOption

EPILOG = """
Examples:

  rtc-server top

  rtc-server top --url https://voice.example.com:8443 --once

  rtc-server top --json | jq .latency.response

Exit code 0: the server takes calls; 1: it does not; 2: it does not answer, or refuses.
"""


def top(
    url: UrlOption = "http://127.0.0.1:8000",
    once: Annotated[bool, typer.Option("--once", help="Print one picture instead of staying.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the document of /v1/status, once.")] = False,
    ca: CaOption = None,
    api_key: ApiKeyOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Show the live calls, the latency by stage, and how the engine and the processes are, until Ctrl-C."""
    from rtc_server.client.top import run_top

    raise typer.Exit(run_top(url, once, json_output, insecure, ca, api_key))
