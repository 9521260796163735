"""`rtc-server keys`: make, list and remove API keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import ConfigOption, JsonOption, err, out, print_json

if TYPE_CHECKING:
    from rtc_server.keys import KeysFile

EPILOG = """
Examples:

  rtc-server keys add phone     prints the key, once; only its hash is kept

  rtc-server keys remove phone     a running server notices within a second

As soon as there is a key, every caller needs one. The page asks for it; programs send
`Authorization: Bearer sk_...`.
"""

app = typer.Typer(help="Make, list and remove API keys.", epilog=EPILOG, rich_markup_mode="markdown")

FileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="File of the hashes; default: auth.keys_file.")
]
NameArgument = Annotated[str, typer.Argument(help="What it is called here: letters, digits, '.', '_' and '-'.")]


@app.command("add")
def add(
    name: NameArgument,
    config: ConfigOption = None,
    file: FileOption = None,
    comment: Annotated[str, typer.Option("--comment", help="A note for yourself, kept beside the hash.")] = "",
) -> None:
    """Make a key and print it. It is shown this once: the file holds its hash only."""
    keys = _file(config, file)
    key = keys.add(name, comment)
    err().print(f"Key '{name}', kept as a hash in {keys.path}. This is the only time that you see it:", markup=False)
    print(key)


@app.command("list")
def list_keys(config: ConfigOption = None, file: FileOption = None, json_output: JsonOption = False) -> None:
    """List the names of the keys in the file."""
    keys = _file(config, file)
    known = keys.read()
    if json_output:
        print_json([{"name": key.name, "key_id": key.key_id, "comment": key.comment} for key in known])
        return
    for key in known:
        out().print(f"{key.name:20}  {key.key_id}  {key.comment}".rstrip(), markup=False)
    if not known:
        err().print(f"There is no key in {keys.path} yet; `rtc-server keys add NAME` makes one.", markup=False)


@app.command("remove")
def remove(name: NameArgument, config: ConfigOption = None, file: FileOption = None) -> None:
    """Remove a key: it opens nothing any more, nor do the client secrets made with it. Running calls go on."""
    keys = _file(config, file)
    keys.remove(name)
    err().print(f"Key '{name}' is removed from {keys.path}.", markup=False)


def _file(config: Path | None, file: Path | None) -> KeysFile:
    from rtc_server.config import load_settings
    from rtc_server.errors import ConfigError
    from rtc_server.keys import KeysFile

    if file is not None:
        return KeysFile(file)
    configured = load_settings(config).auth.keys_file
    if not configured:
        raise ConfigError('auth.keys_file is ""; name a file there, or with --file.')
    return KeysFile(Path(configured))
