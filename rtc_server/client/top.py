"""`rtc-server top`: asks a server for `/v1/status` and shows it, once or every two seconds."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import aiohttp
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from yarl import URL

from .command import EXIT_ERROR, EXIT_OK, tls_of
from .errors import CallError
from .peer import base_url, failures_of, refusal
from .status_view import status_view

EXIT_NOT_READY = 1
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0
WIDTH = 100  # columns where there is no terminal

Document: TypeAlias = dict[str, Any]


def run_top(
    url: str,
    once: bool = False,
    json_output: bool = False,
    insecure: bool = False,
    ca: Path | None = None,
    api_key: str | None = None,
) -> int:
    """Show what the server does: until Ctrl-C on a terminal; once elsewhere, and where `once` or `json_output` ask for
    it. Returns the exit code: 0 when the server takes calls, 1 when it does not, 2 after an error (one sentence on
    standard error). `ca` and `insecure` as in `run_call`."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=WIDTH)
    try:
        base, tls = base_url(url), tls_of(insecure, ca)
        if console.is_terminal and not (once or json_output):
            with suppress(KeyboardInterrupt):  # how one leaves it
                asyncio.run(watch(lambda: fetch(base, tls, api_key), console))
            return EXIT_OK
        document = asyncio.run(fetch(base, tls, api_key))
        if json_output:
            print(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            console.print(status_view(document))
        return EXIT_OK if document["ready"] else EXIT_NOT_READY
    except CallError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        return EXIT_ERROR


async def watch(source: Callable[[], Awaitable[Document]], console: Console, pause: float = PAUSE_SECONDS) -> NoReturn:
    """Show what `source` says every `pause` seconds, until cancelled. A server that goes away leaves the last picture
    under a sentence. Raises CallError when it is not there to begin with."""
    view = status_view(await source())
    with Live(view, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            await asyncio.sleep(pause)
            try:
                view = status_view(await source())
                live.update(view, refresh=True)
            except CallError as error:
                live.update(Group(Text(error.message, "bold red"), "", view), refresh=True)


async def fetch(base: URL, tls: ssl.SSLContext | bool, api_key: str | None) -> Document:
    """The server's status. Raises CallError, also for a document that cannot be shown."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    try:
        with failures_of(base):
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as http,
                http.get(base / "v1/status", ssl=tls) as reply,
            ):
                body = await reply.text(errors="replace")
                if reply.status != 200:
                    raise CallError(refusal(str(base), reply.status, body, what="its status"))
    except TimeoutError as error:
        raise CallError(f"{base} did not answer within {TIMEOUT_SECONDS:.0f} s.") from error
    try:
        document: Document = json.loads(body)
        status_view(document)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CallError(f"{base} sent a status that this version cannot read; is it an rtc-server?") from error
    return document
