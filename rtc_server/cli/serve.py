"""`rtc-server serve`: settings from flags, then the server until it is told to stop."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, redirect_stderr
from typing import Annotated

import typer

from .console import ConfigOption, LinesAbove, ModelsDirOption, spinner

EPILOG = """
Examples:

  rtc-server serve     only for this machine

  rtc-server serve --host 0.0.0.0     for your network, once `rtc-server keys add NAME` has made a key

  rtc-server serve --host 0.0.0.0 --insecure-no-auth     the same for everybody, without a key

  rtc-server serve --backend echo     repeats what you say

  rtc-server serve --backend opens2s     the large model, on a GPU, once `rtc-server models fetch opens2s` is done

Every other setting: docs/configuration.md, or `rtc-server config`.
"""


PANEL = "Only with --backend opens2s"


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (server.host).")] = None,
    http_port: Annotated[int | None, typer.Option(min=0, max=65_535, help="HTTP port (server.http_port).")] = None,
    https_port: Annotated[int | None, typer.Option(min=0, max=65_535, help="HTTPS port (server.https_port).")] = None,
    realtime_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="One more HTTP port, 0 = none (server.realtime_port).")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls/--no-tls", help="Listen on the HTTPS port too (server.tls).")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help='What speaks: "cascade", "opens2s" or "echo" (engine.backend).')
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder of the OpenS2S checkpoint (opens2s.checkpoint).", rich_help_panel=PANEL
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of its speech decoder (opens2s.decoder).", rich_help_panel=PANEL),
    ] = None,
    load_format: Annotated[
        str | None,
        typer.Option(help='"auto", or "dummy" for random weights (opens2s.load_format).', rich_help_panel=PANEL),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help='"auto", "cpu", "cuda" or "cuda:1" (opens2s.device).', rich_help_panel=PANEL),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help='"auto", "float32", "bfloat16" or "float16" (opens2s.dtype).', rich_help_panel=PANEL),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help='"none", "int8" or "fp8" (opens2s.quantization).', rich_help_panel=PANEL),
    ] = None,
    media_workers: Annotated[
        int | None, typer.Option(min=0, max=256, help="Processes that carry the calls (server.media_workers).")
    ] = None,
    max_calls: Annotated[int | None, typer.Option(min=1, help="Calls at once (server.max_calls).")] = None,
    insecure_no_auth: Annotated[
        bool | None,
        typer.Option("--insecure-no-auth", help="Without any key, let everybody in (auth.insecure_no_auth)."),
    ] = None,
    models_dir: ModelsDirOption = None,
) -> None:
    """Start the server; prints one line when it is ready, and stops on Ctrl-C."""
    # One thread per job, in the engine too: numpy's would take the core that the media loop needs. Read by
    # OpenBLAS when numpy is imported, so before everything else.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from model.registry import ModelsMissingError, UnknownBackendError, backend_names
    from model.weights import missing
    from rtc_server.config import load_settings
    from rtc_server.errors import ConfigError
    from rtc_server.exposure import exposure
    from rtc_server.paths import models_dir as models_folder

    from .models import check_opens2s, needed_weights

    flags = {
        "server.host": host,
        "server.http_port": http_port,
        "server.https_port": https_port,
        "server.realtime_port": realtime_port,
        "server.tls": tls,
        "auth.insecure_no_auth": insecure_no_auth,
        "engine.backend": backend,
        "server.max_calls": max_calls,
        "server.media_workers": media_workers,
        "models.cache_dir": None if models_dir is None else str(models_dir),
    }
    of_opens2s = {
        "opens2s.checkpoint": checkpoint,
        "opens2s.decoder": decoder,
        "opens2s.load_format": load_format,
        "opens2s.device": device,
        "opens2s.dtype": dtype,
        "opens2s.quantization": quantization,
    }
    given = {key: value for key, value in {**flags, **of_opens2s}.items() if value is not None}
    settings = load_settings(config, given)
    if settings.engine.backend not in backend_names():
        raise UnknownBackendError(settings.engine.backend)
    if settings.engine.backend != "opens2s" and (idle := sorted(given.keys() & of_opens2s.keys())):
        option = "--" + idle[0].split(".")[1].replace("_", "-")
        raise ConfigError(
            f"{option} is for the backend opens2s, and engine.backend is {settings.engine.backend!r}; "
            "add --backend opens2s."
        )
    exposure(settings)
    if settings.engine.backend == "opens2s":
        check_opens2s(settings)
    folder = models_folder(settings)
    absent = missing(folder, needed_weights(settings))
    if absent:
        raise ModelsMissingError(folder, [weight.name for weight in absent])

    from rtc_server.app.server import run  # after the checks: it loads the media libraries
    from rtc_server.transports.aiortc_media import check_upstream

    check_upstream()

    progress = spinner()
    progress.add_task("Loading the models…", total=None)

    def print_ready(line: str) -> None:
        progress.stop()
        print(line, flush=True)

    with ExitStack() as stack:
        if sys.stderr.isatty():
            stack.enter_context(progress)
            stack.enter_context(redirect_stderr(LinesAbove(progress.console)))
        exit_code = run(settings, print_ready, lambda: load_settings(config, given))
    raise typer.Exit(exit_code)
