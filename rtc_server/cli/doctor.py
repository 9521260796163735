"""`rtc-server doctor`: is this machine ready, and if not, what to do."""

from __future__ import annotations

from dataclasses import asdict

import typer

from .console import ConfigOption, JsonOption, ModelsDirOption, out, print_json, spinner

EPILOG = """
Each line is ok, warn (works, but read it) or fail (the server will not work); exit code 1 if one fails.
Nothing is changed, and nothing is sent beyond this machine.
"""

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(config: ConfigOption = None, models_dir: ModelsDirOption = None, json_output: JsonOption = False) -> None:
    """Check ports, certificate, models, audio libraries, GPU, network and limits; say what to do."""
    from rtc_server.config import load_settings
    from rtc_server.doctor import run_checks
    from rtc_server.paths import models_dir as models_folder

    from .models import needed_weights

    settings = load_settings(config, {} if models_dir is None else {"models.cache_dir": str(models_dir)})
    findings = []
    console = out()
    with spinner() as progress:
        task = progress.add_task("Checking…", total=None)
        for finding in run_checks(settings, models_folder(settings), needed_weights(settings)):
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
