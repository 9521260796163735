"""Gets the weights of OpenS2S and of its speech decoder from the Hugging Face hub, after their licences were accepted.

Two repositories come into two folders below the models folder. Listing, address, token and proxy are huggingface_hub's;
the transfer is written here, because the library (2.4) throws a partial file away when its process ends, and these
files have gigabytes. Every file is checked against its size and the hub's hash before it appears under its name. A
record beside the files says which revision they are, and that the licence was accepted. Weights are never converted or
passed on. Libraries are imported when they are needed, so that naming the folders costs nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from .errors import FETCH_COMMAND
from .fetch_errors import (
    ChecksumError,
    DiskFullError,
    LicenceError,
    NetworkError,
    NotInstalledError,
    OfflineError,
    RepositoryError,
    disk_errors,
    hub_errors,
)
from .repositories import REPOSITORIES, Repository

INSTALL_COMMAND = "pip install 'rtc-server[opens2s]'"
RECORD_FILE = ".rtc-server-fetch.json"
PARTS_FOLDER = ".download"
DISK_MARGIN_BYTES = 1_000_000_000  # a file system that is filled to its end harms others
TIMEOUT_SECONDS = 30.0  # without any byte; a line that is slow but alive never meets it
MAX_FAILURES = 6  # breaks of the line in a row without a new byte
RETRY_SECONDS = 1.0  # times the number of failures so far: about 15 s in all
# The hub's listing is hostile until it was checked: both become parts of paths here.
_PATH = re.compile(r"(?!\.)[\w. +-]+(/(?!\.)[\w. +-]+)*")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # of git, or SHA-256
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with a repository's folder, the bytes of it that are here and its size in bytes."""


class Fetched(NamedTuple):
    """A folder that was completed now."""

    path: Path
    repository: str
    commit: str


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    path: str
    """Relative, with slashes."""
    size: int
    digest: str
    """SHA-256 of a large file; of a small one the SHA-1 that git gives it."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What a repository holds at one revision."""

    repository: Repository
    name: str
    revision: str
    commit: str
    files: tuple[_RemoteFile, ...]


@dataclass(slots=True)
class _Record:
    """What is known of one folder; kept in it."""

    accepted_at: str = ""
    """When the licence was accepted; "" = not yet."""
    repository: str = ""
    revision: str = ""
    """As it was asked for."""
    commit: str = ""
    """Which it was; "" while files are missing."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path -> size, digest and mtime_ns of the file when it was checked. Unchanged since means still good."""

    @classmethod
    def read(cls, folder: Path) -> _Record:
        try:
            return cls(**json.loads((folder / RECORD_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none yet, or a damaged one: everything is looked at anew
            return cls()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{RECORD_FILE}.new"
        fresh.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        fresh.replace(folder / RECORD_FILE)

    def note(self, folder: Path, file: _RemoteFile) -> None:
        stat = (folder / file.path).stat()
        self.files[file.path] = {"size": stat.st_size, "digest": file.digest, "mtime_ns": stat.st_mtime_ns}

    def is_unchanged(self, folder: Path, path: str) -> bool:
        known = self.files.get(path, {})
        try:
            stat = (folder / path).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (known.get("size"), known.get("mtime_ns"))

    def is_complete(self, folder: Path, revision: str | None) -> bool:
        is_wanted = revision is None or revision in (self.revision, self.commit)
        return bool(self.commit) and is_wanted and all(self.is_unchanged(folder, path) for path in self.files)


def is_accepted(models_dir: Path) -> bool:
    """Both licences were accepted here earlier."""
    return all(_Record.read(models_dir / repository.folder).accepted_at for repository in REPOSITORIES)


def accept(models_dir: Path) -> None:
    """Record in both folders that the licences were accepted now. Raises FetchError."""
    with disk_errors(models_dir):
        for repository in REPOSITORIES:
            record = _Record.read(models_dir / repository.folder)
            record.accepted_at = record.accepted_at or datetime.now(UTC).isoformat(timespec="seconds")
            record.write(models_dir / repository.folder)


def incomplete(models_dir: Path, revisions: Mapping[str, str] | None = None) -> tuple[Repository, ...]:
    """Those that `fetch` would work on. Reads no weights and needs no network."""
    return tuple(
        repository
        for repository in REPOSITORIES
        if not _Record.read(models_dir / repository.folder).is_complete(
            models_dir / repository.folder, (revisions or {}).get(repository.folder)
        )
    )


def fetch(
    models_dir: Path,
    on_progress: ProgressCallback | None = None,
    *,
    revisions: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    offline: bool = False,
    on_waiting: Callable[[], None] | None = None,
) -> tuple[Fetched, ...]:
    """Bring both repositories below `models_dir`; returns those that were completed now.

    `revisions` (folder -> branch, tag or commit) pins them; without one, a complete folder is left as it is, and an
    incomplete one gets what was asked for last, at first "main". `endpoint` is the hub's address; None means
    HF_ENDPOINT, or the public one.

    A broken line is continued where it broke, and so is a run that was killed. Two processes may call it at once: the
    second says so through `on_waiting` and waits. On an interruption everything that arrived is kept.

    Raises FetchError; what was good by then stays.
    """
    if not incomplete(models_dir, revisions):
        return ()
    if offline:
        missing = " and ".join(str(models_dir / repository.folder) for repository in incomplete(models_dir, revisions))
        raise OfflineError(
            f"{missing} cannot be fetched: the network is switched off (models.offline). "
            f"Run `{FETCH_COMMAND}` once with a network connection."
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise NotInstalledError(f"huggingface_hub, which fetches the weights, is not installed; `{INSTALL_COMMAND}`.")
    if not is_accepted(models_dir):
        raise LicenceError("The licences of the weights have not been accepted; nothing was fetched.")
    with disk_errors(models_dir), _lock(models_dir / ".opens2s.lock", on_waiting):
        wanted = incomplete(models_dir, revisions)  # another process may have fetched them while we waited
        snapshots = [
            _look_up(
                repository,
                (revisions or {}).get(repository.folder)
                or _Record.read(models_dir / repository.folder).revision
                or "main",
                endpoint,
            )
            for repository in wanted
        ]
        missing_files = {snapshot.name: _missing(snapshot, models_dir) for snapshot in snapshots}
        _check_space(models_dir, snapshots, missing_files)
        return tuple(
            _complete(snapshot, missing_files[snapshot.name], models_dir, endpoint, on_progress)
            for snapshot in snapshots
        )


# --- what is there, and what is here


def _look_up(repository: Repository, revision: str, endpoint: str | None) -> _Snapshot:
    """The files of the first of the repository's names that exists."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    for name in repository.names:
        with hub_errors(name, revision):
            try:
                info = HfApi(endpoint=endpoint).model_info(
                    name, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
                )
            except RepositoryNotFoundError as error:
                if isinstance(error, GatedRepoError) or name == repository.names[-1]:
                    raise
                continue
            break
    files = []
    for sibling in info.siblings or ():
        path, size = sibling.rfilename, sibling.size
        if repository.wants(path):
            digest = (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
            if size is None or not _PATH.fullmatch(path) or not _DIGEST.fullmatch(digest):
                raise RepositoryError(f"{name} lists {path!r} (size {size}), which cannot be a file of a model.")
            files.append(_RemoteFile(path, size, digest))
    if info.sha is None or not any(file.path == repository.last_file for file in files):
        raise RepositoryError(f"{name} at {revision} holds no {repository.last_file}; it is not what was expected.")
    files.sort(key=lambda file: (file.path == repository.last_file, file.path))
    return _Snapshot(repository, name, revision, info.sha, tuple(files))


def _missing(snapshot: _Snapshot, models_dir: Path) -> list[_RemoteFile]:
    """Files of the snapshot to fetch, in its order. Those that are here by other ways are hashed and kept."""
    folder = models_dir / snapshot.repository.folder
    record = _Record.read(folder)
    missing = []
    for file in snapshot.files:
        is_known = record.is_unchanged(folder, file.path) and record.files[file.path]["digest"] == file.digest
        if is_known or _is_good(folder / file.path, file):
            record.note(folder, file)
        else:
            record.files.pop(file.path, None)
            missing.append(file)
    if missing and missing[-1] is not snapshot.files[-1]:
        missing.append(snapshot.files[-1])  # taken away until the others are here
    record.write(folder)
    return missing


def _check_space(models_dir: Path, snapshots: list[_Snapshot], missing_files: Mapping[str, list[_RemoteFile]]) -> None:
    needed = sum(
        file.size - _size_of(_part(models_dir / snapshot.repository.folder, file))
        for snapshot in snapshots
        for file in missing_files[snapshot.name]
    )
    free = shutil.disk_usage(models_dir).free
    if needed and needed + DISK_MARGIN_BYTES > free:
        raise DiskFullError(
            f"{models_dir} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are still to come, and "
            f"{DISK_MARGIN_BYTES / 1e9:.0f} GB should stay free. Make room, or choose another folder with --models-dir."
        )


# --- bringing it here


def _complete(
    snapshot: _Snapshot,
    missing: list[_RemoteFile],
    models_dir: Path,
    endpoint: str | None,
    on_progress: ProgressCallback | None,
) -> Fetched:
    """Fetch what is missing; files of an earlier revision that this one no longer has are removed."""
    folder = models_dir / snapshot.repository.folder
    record = _Record.read(folder)
    record.repository, record.revision, record.commit = snapshot.name, snapshot.revision, ""
    if missing:
        (folder / snapshot.repository.last_file).unlink(missing_ok=True)  # the folder is not whole meanwhile
    record.write(folder)
    total = sum(file.size for file in snapshot.files)
    done = total - sum(file.size for file in missing)

    def show(bytes_of_file: int) -> None:
        if on_progress is not None:
            on_progress(snapshot.repository.folder, done + bytes_of_file, total)

    show(0)
    for file in missing:
        _fetch_file(snapshot, file, folder, endpoint, show)
        done += file.size
        record.note(folder, file)
        record.write(folder)
    for path in set(record.files) - {file.path for file in snapshot.files}:
        (folder / path).unlink(missing_ok=True)
        del record.files[path]
    shutil.rmtree(folder / PARTS_FOLDER, ignore_errors=True)
    record.commit = snapshot.commit
    record.write(folder)
    return Fetched(folder, snapshot.name, snapshot.commit)


def _fetch_file(
    snapshot: _Snapshot, file: _RemoteFile, folder: Path, endpoint: str | None, show: Callable[[int], None]
) -> None:
    """One file under its name, whole and checked; what is left of an earlier attempt is continued."""
    part, target = _part(folder, file), folder / file.path
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    with hub_errors(snapshot.name, snapshot.revision):
        _receive_all(snapshot, file, part, endpoint, show)
    if not _is_good(part, file):
        part.unlink()
        raise ChecksumError(
            f"{file.path} of {snapshot.name} arrived damaged: its size or hash is not what the hub says; it was thrown "
            f"away. Run `{FETCH_COMMAND}` again; if that does not help, check what HF_ENDPOINT and the proxy do."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


def _receive_all(
    snapshot: _Snapshot, file: _RemoteFile, part: Path, endpoint: str | None, show: Callable[[int], None]
) -> None:
    """Fill `part` up to the file's size, over as many connections as it takes."""
    import httpx2
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but loaded lazily

    url = hf_hub_url(snapshot.name, file.path, revision=snapshot.commit, endpoint=endpoint)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # the bytes themselves: they are counted
    failures, furthest = 0, _size_of(part)
    while _size_of(part) < file.size:
        problem: Exception | None = None
        try:
            _receive(url, headers, file, part, show)
        except HfHubHTTPError as error:
            if error.response.status_code not in RETRIED_STATUSES:
                raise
            problem = error
        except httpx2.TransportError as error:
            problem = error
        if _size_of(part) > furthest:
            failures, furthest = 0, _size_of(part)
            continue
        failures += 1
        if failures >= MAX_FAILURES:
            raise problem or NetworkError(f"{url} ends before its {file.size} bytes, again and again.")
        time.sleep(RETRY_SECONDS * failures)


def _receive(url: str, headers: Mapping[str, str], file: _RemoteFile, part: Path, show: Callable[[int], None]) -> None:
    """One connection: append what comes to `part`. A server that cannot continue makes it begin anew."""
    from huggingface_hub import get_session, hf_raise_for_status

    start = _size_of(part)
    asked = {**headers, "Range": f"bytes={start}-"} if start else dict(headers)
    with get_session().stream("GET", url, headers=asked, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416:  # what is here does not fit what is there
            part.write_bytes(b"")
            return
        hf_raise_for_status(response)
        is_continued = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        )
        done = start if is_continued else 0
        with part.open("ab" if is_continued else "wb") as sink:
            for chunk in response.iter_bytes():
                sink.write(chunk)
                done += len(chunk)
                show(min(done, file.size))
                if done > file.size:  # refused by the check of the size
                    return


def _part(folder: Path, file: _RemoteFile) -> Path:
    """Where the file grows. Its hash is in the name, so that bytes of two revisions never mix."""
    return folder / PARTS_FOLDER / f"{file.path.replace('/', '--')}.{file.digest[:16]}.part"


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_good(path: Path, file: _RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as source:
        if len(file.digest) == 64:
            return hashlib.file_digest(source, "sha256").hexdigest() == file.digest
        if len(file.digest) == 40:  # a git blob: its own header comes first
            start = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            return hashlib.file_digest(source, lambda: start).hexdigest() == file.digest
    return True  # the hub gave no hash


@contextmanager
def _lock(path: Path, on_waiting: Callable[[], None] | None) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_waiting is not None:
                on_waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
