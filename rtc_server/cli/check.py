"""`rtc-server check`: a synthetic call, for people and for probes."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import ApiKeyOption, CaOption, InsecureOption, JsonOption, UrlOption

EPILOG = """
Examples:

  rtc-server check                              this machine's server: ready, and does it answer a question?

  rtc-server check --url https://talk.example   from elsewhere, with RTC_SERVER_API_KEY in the environment

  rtc-server check --shallow                    only /readyz, for probes that ask often

The exit code is 0 when the server is well (or full, which it may be) and 1 when it is not.
"""


def check(
    url: UrlOption = "http://127.0.0.1:8000",
    shallow: Annotated[bool, typer.Option("--shallow", help="Ask /readyz and make no call.")] = False,
    json_output: JsonOption = False,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=1.0, help="Seconds to wait for each step.")] = 20.0,
    ca: CaOption = None,
    api_key: ApiKeyOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Ask whether a server is ready, call it, say a question, and hear the answer."""
    from rtc_server.client.check import run_check

    raise typer.Exit(
        run_check(
            url,
            shallow=shallow,
            json_output=json_output,
            timeout_s=timeout_s,
            insecure=insecure,
            ca=ca,
            api_key=api_key,
        )
    )
