"""`rtc-server certs`: make and show the certificate for HTTPS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import ConfigOption, err, out

if TYPE_CHECKING:
    from rtc_server.certs import CertificatePaths

EPILOG = """
Browsers give a page the microphone only over HTTPS (or on the server's own machine). To call from a phone,
make the certificate, copy ca.pem to the phone and install it as a trusted authority; certs/README.md says how.

To use a certificate of your own, put it into the folder as server.pem and server.key; it is never overwritten.
"""

app = typer.Typer(help="Make and show the certificate for HTTPS.", epilog=EPILOG, rich_markup_mode="markdown")

DirOption = Annotated[
    Path | None, typer.Option("--dir", metavar="FOLDER", help="Certificate folder; default: server.certs_dir.")
]
NameOption = Annotated[
    list[str] | None,
    typer.Option("--name", help="A further DNS name or address that it should cover; repeatable."),
]


@app.callback(invoke_without_command=True)
def certs(context: typer.Context) -> None:
    """Make and show the certificate for HTTPS. Without a subcommand: make."""
    if context.invoked_subcommand is None:
        make()


@app.command("make")
def make(config: ConfigOption = None, folder: DirOption = None, name: NameOption = None) -> None:
    """Make a local authority and a certificate for this machine's names and addresses, or renew it.

    Nothing is changed when the certificate is good already; the authority stays the same for years.
    """
    from rtc_server.certs import ensure_certificates, machine_names

    names = list(dict.fromkeys([*machine_names(), *(name or [])]))
    paths = ensure_certificates(_folder(config, folder), names)
    _print(paths)


@app.command("show")
def show(config: ConfigOption = None, folder: DirOption = None) -> None:
    """Show the certificate that HTTPS presents; exit code 1 if there is none yet."""
    from rtc_server.certs import find_certificates

    path = _folder(config, folder)
    paths = find_certificates(path)
    if paths is None:
        err().print(f"There is no certificate in {path} yet; run `rtc-server certs make`.", markup=False)
        raise typer.Exit(1)
    _print(paths)


def _folder(config: Path | None, folder: Path | None) -> Path:
    from rtc_server.config import load_settings

    return folder if folder is not None else Path(load_settings(config).server.certs_dir)


def _print(paths: CertificatePaths) -> None:
    from rtc_server.certs import describe

    details = describe(paths)
    console = out()

    def line(label: str, text: object) -> None:
        console.print(f"[bold]{label:12}[/] ", end="")
        console.print(str(text), markup=False, soft_wrap=True)

    line("certificate", paths.certificate)
    line("key", paths.private_key)
    line("valid for", ", ".join(details.names))
    line("valid until", f"{details.not_after:%Y-%m-%d}")
    if paths.ca is None:
        line("made by", "you; it is used as it is and never overwritten")
    else:
        line("authority", f"{paths.ca} (install this on phones)")
        line("fingerprint", f"SHA-256 {details.ca_fingerprint}")
