"""The commands and their order in `rtc-server --help`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from . import call, certs, check, cluster, config, doctor, keys, loadtest, models, recordings, serve, sip, top

EPILOG = """
First steps:

  rtc-server models fetch     get the embedded models (once, about 150 MB)

  rtc-server serve            start; open the printed address and speak

  rtc-server keys add phone   before you open it to your network with --host 0.0.0.0

  rtc-server doctor           when something does not work

`rtc-server COMMAND --help` explains a command.
"""

app = typer.Typer(
    name="rtc-server",
    help="Talk to a speech model in real time, from a browser, over WebRTC.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # a bug prints an ordinary traceback, without the values of variables
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"rtc-server {version('rtc-server')}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Talk to a speech model in real time, from a browser, over WebRTC."""


app.command("serve", epilog=serve.EPILOG)(serve.serve)
app.command("cluster", epilog=cluster.EPILOG)(cluster.cluster)
app.command("call", epilog=call.EPILOG)(call.call)
app.command("check", epilog=check.EPILOG)(check.check)
app.command("top", epilog=top.EPILOG)(top.top)
app.command("loadtest", epilog=loadtest.EPILOG)(loadtest.loadtest)
app.add_typer(models.app, name="models")
app.add_typer(certs.app, name="certs")
app.add_typer(keys.app, name="keys")
app.add_typer(recordings.app, name="recordings")
app.add_typer(sip.app, name="sip")
app.command("config", epilog=config.EPILOG)(config.config)
app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
