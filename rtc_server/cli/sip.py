"""`rtc-server sip`: telephone calls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .console import err

EPILOG = """
Examples:

  rtc-server sip secret config/webhook-secret     for sip.webhook_secret_file

docs/sip.md says how calls come in and who answers them.
"""

app = typer.Typer(help="Telephone calls.", epilog=EPILOG, rich_markup_mode="markdown")


@app.callback()
def sip() -> None:
    """Telephone calls."""


@app.command("secret")
def secret(file: Annotated[Path, typer.Argument(metavar="FILE", help="Made by this; must not be there yet.")]) -> None:
    """Make a secret that signs webhooks, in a file that only you can read. The program that receives webhooks gets its
    content as OPENAI_WEBHOOK_SECRET."""
    from rtc_server.app.webhook_signature import make_secret
    from rtc_server.errors import ConfigError

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            out.write(f"{make_secret()}\n")
    except FileExistsError:
        raise ConfigError(
            f"{file} is there already; a secret that is in use is not replaced. To change it, add the line of a new "
            "file to it, give that to the receiver, and remove the old line."
        ) from None
    except OSError as error:
        raise ConfigError(f"Cannot write {file}: {error.strerror or error}.") from error
    err().print(f"The secret is in {file}; name it in sip.webhook_secret_file.", markup=False)
