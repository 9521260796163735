"""Stock clients in headless Chromium, in pages that come from another origin than the server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import allow_microphone, chromium, write_microphone
from tests.clients.dialogue import Report
from tests.support.npm_clients import NpmClients
from tests.support.pages import Pages
from tests.support.recordings import SPEECH_DIR
from tests.support.server_process import ServerProcess

RUN_MS = 180_000

RunClient: TypeAlias = Callable[..., Report]
"""run_client("browser_agents.mjs", url=...) -> what the script reports; a page of its own."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its own microphone is not used: the pages have one that speaks when it is told to."""
    if os.environ.get("RTC_SERVER_SKIP_BROWSER") == "1":
        pytest.skip("RTC_SERVER_SKIP_BROWSER is 1")
    microphone = tmp_path_factory.mktemp("microphone") / "unused.wav"
    write_microphone(microphone, [SPEECH_DIR / "f0_rms.wav"], 0.0, 0.0)
    with chromium(microphone) as running:
        yield running


@pytest.fixture(autouse=True)
def no_leaked_threads(
    shared_server: ServerProcess, no_leaked_processes_and_sockets: None, browser: Browser, no_leaked_threads: None
) -> None:
    """The checks of every test, each begun after what lives longer: the server of all modules, the module's browser."""


@pytest.fixture
def run_client(
    browser: Browser, npm: NpmClients, stock_server: ServerProcess, pages: Pages, recordings: dict[str, str]
) -> Iterator[RunClient]:
    """Bundles a script, loads it into an empty page of another origin, and runs it there."""
    contexts = []

    def run_client(script: str, **given: Any) -> Report:
        context = browser.new_context()
        contexts.append(context)
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
        page.on("console", lambda message: print(f"console {message.type}: {message.text}"))
        page.on("requestfailed", lambda request: print(f"failed: {request.method} {request.url} {request.failure}"))
        allow_microphone(page, pages.origin)
        write_page(pages, npm.bundle(script), recordings)
        page.set_default_timeout(RUN_MS)
        page.goto(f"{pages.origin}/client.html")
        page.wait_for_function("() => window.run !== undefined")
        report: Report = page.evaluate("given => window.run(given)", given)
        assert problems == []
        return report

    yield run_client
    for context in contexts:
        context.close()


def write_page(pages: Pages, module: str, recordings: dict[str, str]) -> None:
    """An empty page with the client, and what it says."""
    html = '<!doctype html><title>client</title><script type="module" src="client.mjs"></script>'
    (pages.folder / "client.html").write_text(html, encoding="utf-8")
    (pages.folder / "client.mjs").write_text(module, encoding="utf-8")
    for name, path in recordings.items():
        shutil.copy(path, pages.folder / f"{name}.wav")
