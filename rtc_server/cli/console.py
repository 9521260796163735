"""What all commands share: where they print, the options they have in common, and progress bars.

Results go to standard output; everything else (progress, hints, errors) to standard error, so that `--json`
output can be piped.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Settings file; default: config/server.toml here, else the one that ships with the server.",
    ),
]
ModelsDirOption = Annotated[
    Path | None,
    typer.Option("--models-dir", metavar="FOLDER", help="Where the embedded models' files are kept."),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="RTC_SERVER_API_KEY", metavar="KEY", help="Key of the server; better in the environment."
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", exists=True, dir_okay=False, metavar="PEM", help="Authority that signed the certificate."),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Accept an HTTPS certificate that this machine does not trust.")
]
UrlOption = Annotated[str, typer.Option("--url", help="Address of the server.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


PIPE_WIDTH = 200
"""Columns assumed where there is no terminal, so that tables in logs and files are not cut."""


def out() -> Console:
    """Standard output, looked up now so that redirection works."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """Standard error."""
    return Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def is_interactive() -> bool:
    """Somebody sits at a terminal who can be asked."""
    return sys.stdin.isatty()


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(message: str) -> None:
    """A sentence that says what went wrong, on standard error."""
    console = err()
    console.print("[bold red]Error:[/] ", end="")
    console.print(message, markup=False, soft_wrap=True)


def download_progress() -> Progress:
    """Bars for downloads, in bytes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err(),
    )


def spinner() -> Progress:
    """A line that moves while something of unknown length runs; nothing is left of it afterwards."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=err(),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,  # Rich would break log lines at the terminal's width; see LinesAbove
    )


class LinesAbove(io.TextIOBase):
    """A stream for log lines that appear above a spinner, whole, instead of in the middle of it."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        self._console.print(text, end="", markup=False, emoji=False, soft_wrap=True)
        return len(text)
