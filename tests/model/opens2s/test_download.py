"""Fetching the weights with the real hub client, from a hub on this machine: what arrives, and what goes wrong."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from model.opens2s import download
from model.opens2s.download import Fetched, accept, fetch, incomplete, is_accepted
from model.opens2s.fetch_errors import (
    AccessError,
    ChecksumError,
    DiskFullError,
    FetchError,
    LicenceError,
    NetworkError,
    OfflineError,
    RepositoryError,
)
from model.opens2s.repositories import CHECKPOINT, DECODER, terms
from tests.support.fake_hub import FakeHub, FakeRepository, running_hub
from tests.support.opens2s_fixtures import BUNDLED

OPENS2S = "CASIA-LM/OpenS2S"
GLM = "THUDM/glm-4-voice-decoder"
WEIGHTS = "model.safetensors"
SIZE = (BUNDLED / "checkpoint" / WEIGHTS).stat().st_size


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Both repositories, as on the hub: with a licence, and files that nobody needs."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.0)
    huggingface_hub.close_session()
    extra = {"README.md": b"# card\n", ".gitattributes": b"*.pt lfs\n", "training.bin": b"x"}
    repositories = {
        OPENS2S: FakeRepository.of_folder(BUNDLED / "checkpoint", **extra),
        GLM: FakeRepository.of_folder(BUNDLED / "decoder", LICENSE=b"The glm-4-voice License\n", **extra),
    }
    with running_hub(repositories) as hub:
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder whose user has accepted the licences."""
    folder = tmp_path / "models"
    accept(folder)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything but our own record."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != download.RECORD_FILE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def wanted_of(repository: FakeRepository) -> dict[str, bytes]:
    return {path: data for path, data in repository.files.items() if path not in (".gitattributes", "training.bin")}


def assert_whole(hub: FakeHub, models: Path) -> None:
    assert files_in(models / "OpenS2S") == wanted_of(hub.repositories[OPENS2S])
    assert files_in(models / "glm-4-voice-decoder") == wanted_of(hub.repositories[GLM])
    assert incomplete(models) == ()


# --- what arrives


def test_both_repositories_arrive_whole_without_what_is_not_needed(hub: FakeHub, models: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    assert incomplete(models) == (CHECKPOINT, DECODER)
    fetched = fetch(
        models, lambda name, done, total: seen.setdefault(name, []).append((done, total)), endpoint=hub.endpoint
    )
    commit = hub.repositories[OPENS2S].commit
    assert fetched == (
        Fetched(models / "OpenS2S", OPENS2S, commit),
        Fetched(models / "glm-4-voice-decoder", GLM, commit),
    )
    assert_whole(hub, models)
    for name, repository in (("OpenS2S", OPENS2S), ("glm-4-voice-decoder", GLM)):
        total = sum(map(len, wanted_of(hub.repositories[repository]).values()))
        assert seen[name][0] == (0, total)
        assert seen[name][-1] == (total, total)
        assert [done for done, _ in seen[name]] == sorted(done for done, _ in seen[name])


def test_a_second_run_asks_the_hub_nothing(hub: FakeHub, models: Path) -> None:
    fetch(models, endpoint=hub.endpoint)
    hub.asked.clear()
    assert fetch(models, endpoint=hub.endpoint) == ()
    assert fetch(models, offline=True) == ()
    assert hub.asked == []


def test_a_line_that_breaks_is_continued_where_it_broke(hub: FakeHub, models: Path) -> None:
    hub.cut_after[WEIGHTS] = [SIZE // 4, SIZE // 4]
    fetch(models, endpoint=hub.endpoint)
    assert_whole(hub, models)
    ranges = [one.range for one in hub.transfers(WEIGHTS)]
    assert ranges[0] == ""
    assert ranges[1:] == [f"bytes={SIZE // 4}-", f"bytes={2 * (SIZE // 4)}-"]


def test_a_run_that_gave_up_is_continued_by_the_next(
    hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_FAILURES", 1)
    hub.cut_after[WEIGHTS] = [SIZE // 2, 0]
    with pytest.raises(NetworkError, match=rf"{OPENS2S} could not be fetched.*models fetch opens2s.*is kept"):
        fetch(models, endpoint=hub.endpoint)
    assert not (models / "OpenS2S" / WEIGHTS).exists()
    assert not (models / "OpenS2S" / "config.json").exists()  # comes last: a folder that has it is whole
    hub.asked.clear()
    fetch(models, endpoint=hub.endpoint)
    assert [one.range for one in hub.transfers(WEIGHTS)] == [f"bytes={SIZE // 2}-"]
    assert not hub.transfers("preprocessor_config.json")  # the first of all: it was here already
    assert_whole(hub, models)


def test_a_server_that_cannot_continue_sends_the_whole_file(hub: FakeHub, models: Path) -> None:
    hub.cut_after[WEIGHTS] = [SIZE // 2]
    hub.ignores_ranges = True
    fetch(models, endpoint=hub.endpoint)
    assert_whole(hub, models)


def test_a_hub_that_is_busy_is_tried_again(hub: FakeHub, models: Path) -> None:
    hub.failures = [503, 429]
    fetch(models, endpoint=hub.endpoint)
    assert_whole(hub, models)


def test_only_what_is_missing_or_changed_is_fetched_again(hub: FakeHub, models: Path) -> None:
    fetch(models, endpoint=hub.endpoint)
    hub.asked.clear()
    (models / "OpenS2S" / "tokenizer.json").write_text("{}")
    (models / "glm-4-voice-decoder" / "hift.pt").unlink()
    assert incomplete(models) == (CHECKPOINT, DECODER)
    fetch(models, endpoint=hub.endpoint)
    names = [one.path.rpartition("/")[2] for one in hub.transfers()]
    assert names == ["tokenizer.json", "config.json", "hift.pt", "config.yaml"]
    assert_whole(hub, models)


def test_a_folder_that_others_filled_is_checked_and_kept(hub: FakeHub, models: Path) -> None:
    shutil.copytree(BUNDLED / "checkpoint", models / "OpenS2S", dirs_exist_ok=True)
    fetch(models, endpoint=hub.endpoint)
    assert not hub.transfers(WEIGHTS)
    assert_whole(hub, models)


def test_a_pinned_revision_replaces_the_one_that_is_here(hub: FakeHub, models: Path) -> None:
    fetch(models, endpoint=hub.endpoint)
    repository = hub.repositories[OPENS2S]
    repository.files["chat_template.jinja"] = b"{{ messages }}"
    del repository.files["special_tokens_map.json"]
    repository.commit, repository.revisions = "beef" * 10, ("main", "v1.5")
    assert fetch(models, endpoint=hub.endpoint) == ()  # a branch that moved changes nothing by itself
    hub.asked.clear()
    (fetched,) = fetch(models, endpoint=hub.endpoint, revisions={CHECKPOINT.folder: "v1.5"})
    assert fetched.commit == "beef" * 10
    assert [one.path.rpartition("/")[2] for one in hub.transfers()] == ["chat_template.jinja", "config.json"]
    assert_whole(hub, models)
    assert fetch(models, revisions={CHECKPOINT.folder: "beef" * 10}, offline=True) == ()
    repository.revisions = ("v1.5",)
    (models / "OpenS2S" / "tokenizer.json").unlink()
    fetch(models, endpoint=hub.endpoint)  # goes on with what was asked for, which is no longer "main"
    assert_whole(hub, models)


def test_a_repository_that_moved_is_found_under_its_new_name(hub: FakeHub, models: Path) -> None:
    hub.repositories["zai-org/glm-4-voice-decoder"] = hub.repositories.pop(GLM)
    assert fetch(models, endpoint=hub.endpoint)[1].repository == "zai-org/glm-4-voice-decoder"


def test_the_token_goes_to_the_hub_and_not_to_its_storage(
    hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_abc"
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    fetch(models, endpoint=hub.endpoint)
    assert_whole(hub, models)
    elsewhere = [one for one in hub.transfers(WEIGHTS) if one.host.startswith("localhost")]
    assert elsewhere
    assert not any("Authorization" in one.headers for one in elsewhere)


def test_two_at_once_fetch_everything_once(hub: FakeHub, models: Path) -> None:
    hub.held = threading.Event()
    waiting = threading.Event()
    results: list[tuple[Fetched, ...]] = []

    def second() -> None:
        results.append(fetch(models, endpoint=hub.endpoint, on_waiting=waiting.set))

    first = threading.Thread(target=lambda: results.append(fetch(models, endpoint=hub.endpoint)))
    other = threading.Thread(target=second)
    first.start()
    assert hub.half_way.wait(30)
    other.start()
    assert waiting.wait(30)
    hub.held.set()
    first.join()
    other.join()
    assert sorted(len(result) for result in results) == [0, 2]
    assert len(hub.transfers(WEIGHTS)) == 1
    assert_whole(hub, models)


# --- what goes wrong


def test_bytes_that_are_not_the_hubs_are_thrown_away(hub: FakeHub, models: Path) -> None:
    for name in (WEIGHTS, "tokenizer.json"):  # a SHA-256 for the large, git's hash for the small
        hub.damaged = {name}
        with pytest.raises(ChecksumError, match=rf"{name} of {OPENS2S} arrived damaged.*thrown away"):
            fetch(models, endpoint=hub.endpoint)
        assert not (models / "OpenS2S" / name).exists()
        assert not list((models / "OpenS2S" / download.PARTS_FOLDER).glob("*"))
    hub.damaged = set()
    fetch(models, endpoint=hub.endpoint)
    assert_whole(hub, models)


def refusal(hub: FakeHub, models: Path, kind: type[FetchError], **options: object) -> str:
    with pytest.raises(kind) as caught:
        fetch(models, endpoint=hub.endpoint, **options)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert not files_in(models / "glm-4-voice-decoder")
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_an_unknown_repository_or_revision_is_named(hub: FakeHub, models: Path) -> None:
    revisions = {CHECKPOINT.folder: "v9"}
    assert f"{OPENS2S} has no revision 'v9'" in refusal(hub, models, RepositoryError, revisions=revisions)
    del hub.repositories[OPENS2S]
    assert f"no repository {OPENS2S}" in refusal(hub, models, RepositoryError)


def test_a_listing_without_a_model_or_with_a_path_outside_is_refused(hub: FakeHub, models: Path) -> None:
    hub.repositories[OPENS2S].files["../evil.json"] = b"{}"
    assert "../evil.json" in refusal(hub, models, RepositoryError)
    hub.repositories[OPENS2S] = FakeRepository({"README.md": b"soon"})
    assert "holds no config.json" in refusal(hub, models, RepositoryError)


def test_a_hub_that_wants_a_token_or_another_one_says_so(
    hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_right"
    assert "HF_TOKEN" in refusal(hub, models, AccessError)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "status 401" in refusal(hub, models, AccessError)
    hub.token = ""
    hub.gated = {OPENS2S}
    assert "ask for access" in refusal(hub, models, AccessError)


def test_a_file_that_vanished_and_a_hub_that_fails_are_told_apart(hub: FakeHub, models: Path) -> None:
    hub.failures = [500] * download.MAX_FAILURES
    assert "status 500" in refusal(hub, models, NetworkError)
    hub.failures = [404]
    assert "lists a file that the hub does not have" in refusal(hub, models, RepositoryError)


def test_without_a_network_the_reason_is_said(hub: FakeHub, models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NetworkError, match=r"could not be fetched: .*Check the network"):
        fetch(models, endpoint=f"http://127.0.0.1:{port}")


def test_when_offline_nothing_is_tried(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(hub, models, OfflineError, offline=True)
    assert "models.offline" in message
    assert str(models / "OpenS2S") in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(hub, models, OfflineError)
    assert hub.asked == []


def test_too_little_space_is_found_before_the_first_byte(
    hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = download.DISK_MARGIN_BYTES + 2_000_000  # the checkpoint alone would fit
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, free))
    assert "1.0 GB free" in refusal(hub, models, DiskFullError)
    assert not hub.transfers()


def test_a_disk_that_fills_up_is_said(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_receive", fail)
    assert "is full; what arrived is kept" in refusal(hub, models, DiskFullError)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(FetchError, match="models cannot be written: File exists"):
        accept(tmp_path / "models")


# --- licences


def test_nothing_is_fetched_before_the_licences_are_accepted(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(LicenceError, match="nothing was fetched"):
        fetch(tmp_path, endpoint=hub.endpoint)
    assert hub.asked == []
    assert not is_accepted(tmp_path)
    accept(tmp_path)
    assert is_accepted(tmp_path)
    assert not is_accepted(tmp_path / "elsewhere")


def test_the_terms_say_what_whoever_fetches_has_to_know() -> None:
    for words in ("Apache-2.0", "The glm-4-voice License", "registration", "Built with glm-4", "military", "23 GB"):
        assert words in terms()


def test_a_damaged_record_makes_everything_be_looked_at_again(hub: FakeHub, models: Path) -> None:
    fetch(models, endpoint=hub.endpoint)
    hub.asked.clear()
    for folder in ("OpenS2S", "glm-4-voice-decoder"):
        (models / folder / download.RECORD_FILE).write_text("{")
    accept(models)
    fetch(models, endpoint=hub.endpoint)
    assert not hub.transfers()
    assert_whole(hub, models)


@pytest.mark.parametrize(
    "path", ["../x.json", "/etc/x.json", "a/../x.json", ".download/x.json", "a/.x/y.json", "x\0.json"]
)
def test_names_that_leave_the_folder_are_refused(hub: FakeHub, models: Path, path: str) -> None:
    files = {**hub.repositories[OPENS2S].files, path: b"{}"}
    hub.repositories[OPENS2S] = FakeRepository(files)
    assert "cannot be a file of a model" in refusal(hub, models, RepositoryError)
    assert not (models / "OpenS2S" / "config.json").exists()


def test_a_hash_that_is_none_becomes_no_path(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.fake_hub.git_hash", lambda data: "/../../../../pwn")
    assert "cannot be a file of a model" in refusal(hub, models, RepositoryError)
    assert not list(models.parent.rglob("*pwn*"))


def test_naming_the_folders_loads_no_library() -> None:
    code = (
        "import sys, model.backends.opens2s.options as o; o.OpenS2SOptions().checkpoint_path;"
        "sys.exit(str({'torch', 'transformers', 'huggingface_hub', 'httpx2'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
