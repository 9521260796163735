"""The page and what belongs to it: its files, and the service worker that opens it when the server cannot be reached.

Nothing of it is built. The service worker gets one line from here that names its files and a version made from their
content, so that browsers take another page as soon as there is one, and keep no file of the one before.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path, PurePosixPath

from aiohttp import web

from rtc_server.paths import web_dir

PAGES = {"index.html": "./", "status.html": "status"}
"""Files with an address of their own, relative to the page; the others are under `static/`."""

WORKER = "service-worker.js"
VERSION_DIGITS = 16  # of a SHA-256: to tell one release from another

routes = web.RouteTableDef()


@routes.get("/")
async def index(request: web.Request) -> web.FileResponse:
    """The page."""
    return web.FileResponse(web_dir() / "index.html", headers={"Cache-Control": "no-cache"})


@routes.get(f"/{WORKER}")
async def service_worker(request: web.Request) -> web.Response:
    """The service worker. At the root, because its folder is how far it reaches, also under a path of a proxy."""
    text = await asyncio.to_thread(request.app[SHELL].worker)
    return web.Response(text=text, content_type="text/javascript", headers={"Cache-Control": "no-cache"})


def add_static(app: web.Application) -> None:
    """Serve the folder of the page."""
    app[SHELL] = Shell(web_dir())
    app.router.add_static("/static/", web_dir(), append_version=False)


class Shell:
    """What a browser keeps of the page. Reads the files again when one of them has changed: a checkout is edited while
    the server runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: list[tuple[str, int, int]] = []
        self._worker = ""

    def worker(self) -> str:
        """The service worker's source: `const SHELL = {"version": ..., "files": [...]};`, then the file itself."""
        found = sorted(path for path in self._folder.rglob("*") if path.is_file())
        seen = [(str(path), (stat := path.stat()).st_mtime_ns, stat.st_size) for path in found]
        if seen != self._seen:
            self._worker = _worker(self._folder, found)
            self._seen = seen
        return self._worker


SHELL: web.AppKey[Shell] = web.AppKey("shell", Shell)


def _worker(folder: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    files: list[str] = []
    for path in paths:
        name = PurePosixPath(path.relative_to(folder)).as_posix()
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
        if name != WORKER:
            files.append(PAGES.get(name, f"static/{name}"))
    shell = {"version": digest.hexdigest()[:VERSION_DIGITS], "files": files}
    return f"const SHELL = {json.dumps(shell)};\n{(folder / WORKER).read_text(encoding='utf-8')}"
