"""The examples that are pages, as a person uses them: fill in, press Start, speak, listen, press Stop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import allow_microphone
from tests.clients.dialogue import KEY
from tests.support.npm_clients import NpmClients, npm_clients
from tests.support.pages import Pages
from tests.support.server_process import ServerProcess

EXAMPLES = Path(__file__).resolve().parent.parent.parent.parent / "examples"
CONNECT_MS = 20_000
REPLY_MS = 60_000


@pytest.fixture
def page(browser: Browser, pages: Pages, stock_server: ServerProcess, recordings: dict[str, str]) -> Iterator[Page]:
    """A page of the other origin whose microphone is the room of the tests."""
    context = browser.new_context()
    page = context.new_page()
    page.on("console", lambda message: print(f"console {message.type}: {message.text}"))
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    allow_microphone(page, pages.origin)
    for name, path in recordings.items():
        shutil.copy(path, pages.folder / f"{name}.wav")
    yield page
    context.close()
    assert problems == []


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, npm: NpmClients) -> str:
    """A script that gives the page its microphone, and ears on what it receives: `window.heard` in milliseconds."""
    (npm.folder / "room_in_page.mjs").write_text(
        """
        import { Room } from "./browser_room.mjs";
        import { AUDIBLE, loudness } from "./dialogue.mjs";
        window.heard = 0;
        window.room = Room.open((samples, rate) => {
          if (loudness(samples) > AUDIBLE) window.heard += (1000 * samples.length) / rate;
        });
        """,
        encoding="utf-8",
    )
    return npm.bundle("room_in_page.mjs")


def open_page(page: Page, pages: Pages, path: str, room: str) -> None:
    page.goto(f"{pages.origin}/{path}")
    page.add_script_tag(content=room, type="module")
    page.wait_for_function("async () => Boolean(await window.room)")


def say(page: Page, name: str) -> None:
    page.evaluate("async (name) => (await window.room).say(name)", name)


def hears_a_reply(page: Page) -> None:
    page.wait_for_function("() => window.heard > 300", timeout=REPLY_MS)


def test_the_whip_page(page: Page, pages: Pages, room: str, stock_server: ServerProcess) -> None:
    shutil.copy(EXAMPLES / "whip.html", pages.folder)
    open_page(page, pages, "whip.html", room)
    page.get_by_label("Endpoint").fill(f"{stock_server.url}/whip")
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#state")).to_have_text("connected", timeout=CONNECT_MS)
    say(page, "first")
    hears_a_reply(page)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("idle")
    stock_server.wait_for_calls(0)


def test_the_page_with_the_agents_sdk(
    page: Page, pages: Pages, room: str, stock_server: ServerProcess, tmp_path: Path
) -> None:
    source = EXAMPLES / "browser_agents"
    (pages.folder / "bundle.js").write_text(npm_clients(tmp_path, source).bundle("main.mjs"), encoding="utf-8")
    shutil.copy(source / "index.html", pages.folder)
    with OpenAI(base_url=f"{stock_server.url}/v1", api_key=KEY) as client:
        secret = client.realtime.client_secrets.create().value
    open_page(page, pages, "index.html", room)
    page.get_by_label("Server").fill(stock_server.url)
    page.get_by_label("Ephemeral key").fill(secret)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#state")).to_have_text("connected", timeout=CONNECT_MS)
    say(page, "first")
    hears_a_reply(page)
    expect(page.locator("#history")).to_contain_text("assistant: ", timeout=REPLY_MS)
    expect(page.locator("#history")).to_contain_text("user: ")
    page.get_by_role("button", name="Stop").click()
    stock_server.wait_for_calls(0)
