"""`rtc-server doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import CaOption, ConfigOption, JsonOption, ModelsDirOption, out, print_json, spinner

if TYPE_CHECKING:
    from rtc_server.config import Settings
    from rtc_server.findings import Finding

EPILOG = """
Each line is ok, warn (works, but read it) or fail (the server will not work); exit code 1 if one fails.
Nothing is changed, and nothing is sent beyond this machine, but with --turn.

Examples:

  rtc-server doctor --turn     do the TURN servers of the settings relay to this machine?

  rtc-server doctor --turn turns:turn.example.org:443?transport=tcp     does this one?
"""

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="URL", help="With --turn: these instead of turn.urls.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    models_dir: ModelsDirOption = None,
    turn: Annotated[
        bool, typer.Option("--turn", help="Try the TURN servers out, and nothing else: sends packets to them.")
    ] = False,
    turn_peer: Annotated[
        list[str] | None,
        typer.Option(
            "--turn-peer",
            metavar="ADDRESS",
            help="With --turn: address of the media server, when it is not this machine.",
        ),
    ] = None,
    ca: CaOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check ports, certificate, models, audio libraries, GPU, network and limits; say what to do."""
    from rtc_server.config import load_settings
    from rtc_server.doctor import run_checks
    from rtc_server.paths import models_dir as models_folder

    from .models import needed_weights

    if not turn and (urls or turn_peer or ca):
        raise typer.BadParameter("URL, --turn-peer and --ca belong to --turn.")
    settings = load_settings(config, {} if models_dir is None else {"models.cache_dir": str(models_dir)})
    if turn:
        checks = _turn_checks(settings, urls or [], turn_peer or [], ca)
    else:
        checks = run_checks(settings, models_folder(settings), needed_weights(settings))
    findings = []
    console = out()
    with spinner() as progress:
        task = progress.add_task("Checking…", total=None)
        for finding in checks:
            progress.update(task, description=f"Checking… ({finding.name} done)")
            findings.append(finding)
    if json_output:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            console.print(f"[{_STYLES[finding.status]}]{finding.status:4}[/]  [bold]{finding.name}[/]: ", end="")
            console.print(finding.detail, markup=False, soft_wrap=True)
            if finding.advice:
                console.print(f"      → {finding.advice}", markup=False, soft_wrap=True)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _turn_checks(settings: Settings, urls: list[str], peers: list[str], ca: Path | None) -> Iterator[Finding]:
    from rtc_server.errors import ConfigError
    from rtc_server.relays.checks import try_turn

    wanted = urls or list(settings.turn.urls)
    if not wanted:
        raise ConfigError("There is no TURN server to try: name one, or set turn.urls.")
    for peer in peers:
        if not _is_address(peer):
            raise ConfigError(f"--turn-peer {peer!r} is not an IP address.")
    return try_turn(settings, wanted, peers, ca)


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
