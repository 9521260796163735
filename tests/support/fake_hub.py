"""A Hugging Face hub on this machine: enough of it for the real client to list and fetch models.

Small files have git's hash and large ones a SHA-256, as on the real one; large ones are redirected to another host
name, as to its storage. Faults are set per file, and every request is kept for the tests to look at.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

LFS_BYTES = 100_000  # files of at least this size lie in the "large file storage"


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    host: str
    headers: Message

    @property
    def range(self) -> str:
        return self.headers.get("Range", "")


@dataclass
class FakeRepository:
    files: dict[str, bytes]
    commit: str = "c0ffee0000000000000000000000000000000001"
    revisions: tuple[str, ...] = ("main",)

    @classmethod
    def of_folder(cls, folder: Path, **extra: bytes) -> FakeRepository:
        """Everything in the folder, and more small files (`LICENSE=b"..."`)."""
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return cls({**found, **extra})


@dataclass
class FakeHub:
    """The hub's content and its faults; change them while it runs."""

    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    endpoint: str = ""
    token: str = ""
    """Without it, everything is 401. "" = nothing is asked for."""
    gated: set[str] = field(default_factory=set)
    """Repositories whose files are for the admitted."""
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """File -> after how many bytes the line breaks, one number per connection."""
    damaged: set[str] = field(default_factory=set)
    """Files that are sent with their last byte wrong."""
    ignores_ranges: bool = False
    """Send whole files always."""
    failures: list[int] = field(default_factory=list)
    """Statuses of the next transfers of files."""
    held: threading.Event | None = None
    """Transfers stop half way until it is set."""
    half_way: threading.Event = field(default_factory=threading.Event)
    """Set when a held transfer has sent its half."""
    asked: list[Asked] = field(default_factory=list)

    def transfers(self, name: str = "") -> list[Asked]:
        """Requests for the content of `name`, or of any file; without those that were only sent elsewhere."""
        return [one for one in self.asked if "/blob/" in one.path and one.path.endswith(name)]


@contextmanager
def running_hub(repositories: dict[str, FakeRepository]) -> Iterator[FakeHub]:
    """Serve them, by owner and name, until the block is left."""
    hub = FakeHub(repositories)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False  # closing waits for them: no test leaves one behind
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="fake-hub")
    thread.start()
    try:
        yield hub
    finally:
        if hub.held is not None:
            hub.held.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[FakeHub]
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(Asked("GET", path, self.headers.get("Host", ""), self.headers))
        self.close_connection = True  # its thread ends with it
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._list(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/(resolve|blob)/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], match[4])
        else:
            self._refuse(404, "no such page")

    def _repository(self, name: str, revision: str) -> FakeRepository | None:
        """None after having answered with the reason."""
        found = self.hub.repositories.get(name)
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            message = "Invalid credentials in Authorization header" if "Authorization" in self.headers else "No."
            self._refuse(401, message)
        elif found is None:
            self._refuse(404, "Repository not found", "RepoNotFound")
        elif revision not in (*found.revisions, found.commit):
            self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        else:
            return found
        return None

    def _list(self, name: str, revision: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        siblings = []
        for path, data in repository.files.items():
            entry: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git_hash(data)}
            if len(data) >= LFS_BYTES:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        self._send(200, json.dumps({"id": name, "sha": repository.commit, "siblings": siblings}).encode())

    def _file(self, name: str, kind: str, revision: str, path: str) -> None:
        hub, is_storage = self.hub, kind == "blob"
        repository = hub.repositories[name] if is_storage else self._repository(name, revision)
        if repository is None:
            return None
        if name in hub.gated:
            return self._refuse(403, "Access is restricted", "GatedRepo")
        if path not in repository.files:
            return self._refuse(404, "Entry not found", "EntryNotFound")
        if not is_storage:
            host = "localhost" if len(repository.files[path]) >= LFS_BYTES else "127.0.0.1"
            where = f"http://{host}:{self.server.server_address[1]}/{name}/blob/{revision}/{path}"
            return self._send(302, b"", Location=where)
        if hub.failures:
            return self._refuse(hub.failures.pop(0), "Try later")
        return self._transfer(path, repository.files[path])

    def _transfer(self, path: str, data: bytes) -> None:
        hub, start = self.hub, 0
        if path in hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and not hub.ignores_ranges:
            start = int(match[1])
        if start and start >= len(data):
            return self._refuse(416, "No such range")
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Connection", "close")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cuts = hub.cut_after.get(path, [])
        end = start + cuts.pop(0) if cuts else len(data)
        if hub.held is not None:
            half = (start + end) // 2
            self._write(data[start:half])
            hub.half_way.set()
            hub.held.wait(30)
            start = half
        self._write(data[start:end])  # too little of it breaks the line
        return None

    def _refuse(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), **headers)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        self._write(body)

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was interrupted


def git_hash(data: bytes) -> str:
    """The SHA-1 that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
