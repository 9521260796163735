"""The page on a phone's home screen: it can be installed, opens without the server, and follows its version."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from rtc_server.app import page as served
from tests.browser.chromium import INSECURE_HOST
from tests.browser.conftest import OpenPage
from tests.support.running_server import free_port, running_server
from tests.support.server_process import ServerProcess

WEB = Path(__file__).resolve().parents[2] / "web"
SETTLE_MS = 30_000

WORKER_IN_CONTROL = """async () => {
  await navigator.serviceWorker.ready;
  while (!navigator.serviceWorker.controller) await new Promise((resolve) => setTimeout(resolve, 20));
}"""
COPY_GONE = """async (name) => {
  while ((await caches.keys()).includes(name)) await new Promise((resolve) => setTimeout(resolve, 20));
}"""
KEPT = """async () => {
  const kept = {};
  for (const name of await caches.keys()) {
    const copy = await caches.open(name);
    kept[name] = (await copy.keys()).map((request) => new URL(request.url).pathname);
  }
  return kept;
}"""


@contextmanager
def served_at(port: int) -> Iterator[None]:
    """The whole server on that port, in a thread of its own, so that it can stop and come back."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        async with running_server(**{"server.http_port": port}):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="served")
    thread.start()
    try:
        assert ready.wait(30.0)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the page that the servers of this test serve, to be changed."""
    folder = tmp_path / "web"
    shutil.copytree(WEB, folder)
    monkeypatch.setattr(served, "web_dir", lambda: folder)
    return folder


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    """A page whose service worker is let in."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, permissions=["microphone"])
    yield context.new_page()
    context.close()


def opens(page: Page, url: str) -> None:
    """The page, under its service worker."""
    page.goto(url)
    page.evaluate(WORKER_IN_CONTROL)


def test_chromium_finds_nothing_that_keeps_the_page_from_being_installed(
    open_page: OpenPage, server: ServerProcess
) -> None:
    caller = open_page(is_installable=True, width=390, height=844)
    caller.opens_the_page()
    session = caller.page.context.new_cdp_session(caller.page)
    manifest = session.send("Page.getAppManifest")
    assert manifest["errors"] == []
    assert manifest["url"] == f"{server.url}/static/manifest.webmanifest"
    errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [error["errorId"] for error in errors if error["errorId"] != "in-incognito"] == []
    session.detach()


def test_the_icons_are_what_the_manifest_says_and_phones_may_cut_the_maskable_ones(
    phone: Page, server: ServerProcess
) -> None:
    phone.goto(server.url)
    manifest = json.loads((WEB / "manifest.webmanifest").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for icon in [*manifest["icons"], {"src": "icons/apple-touch-icon.png", "sizes": "180x180", "purpose": "maskable"}]:
        if icon["sizes"] == "any":
            continue
        width, height, corner = phone.evaluate(
            """async (source) => {
              const image = await createImageBitmap(await (await fetch(`static/${source}`)).blob());
              const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
              canvas.drawImage(image, 0, 0);
              return [image.width, image.height, [...canvas.getImageData(0, 0, 1, 1).data]];
            }""",
            icon["src"],
        )
        assert f"{width}x{height}" == icon["sizes"]
        found[icon["src"]] = corner
        assert corner[3] == (255 if icon["purpose"] == "maskable" else 0), icon
    assert len(found) == 5


def test_the_colours_of_the_app_are_those_of_the_page() -> None:
    manifest = json.loads((WEB / "manifest.webmanifest").read_text(encoding="utf-8"))
    tokens = (WEB / "css" / "tokens.css").read_text(encoding="utf-8")
    light, dark = re.findall(r"--bg: light-dark\((#\w+), (#\w+)\)", tokens)[0]
    assert manifest["theme_color"] == manifest["background_color"] == light
    for name in ("index.html", "status.html"):
        html = (WEB / name).read_text(encoding="utf-8")
        assert re.findall(r'name="theme-color" content="(#\w+)"', html) == [light, dark], name


def test_the_copy_holds_the_page_and_nothing_that_was_said_or_asked(open_page: OpenPage) -> None:
    caller = open_page(is_installable=True)
    opens(caller.page, caller.url)
    caller.says_nothing()
    caller.calls()
    caller.types("Remember 42.")
    expect(caller.replies()).to_contain_text(["Remember 42."])
    caller.hangs_up()
    (paths,) = caller.page.evaluate(KEPT).values()
    files = {f"/static/{file.relative_to(WEB).as_posix()}" for file in WEB.rglob("*") if file.is_file()}
    pages = {"/static/index.html", "/static/status.html", "/static/service-worker.js"}
    assert set(paths) == (files - pages) | {"/", "/status"}


def test_an_address_without_https_gets_no_service_worker(open_page: OpenPage, server: ServerProcess) -> None:
    caller = open_page(server.url.replace("127.0.0.1", INSECURE_HOST), allows_microphone=False, is_installable=True)
    asked: list[str] = []
    caller.page.on("request", lambda request: asked.append(request.url))
    caller.opens_the_page()
    assert not any("service-worker" in url for url in asked)


def test_the_page_opens_without_the_server_says_so_and_goes_on_when_it_is_back(phone: Page) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with served_at(port):
        opens(phone, url)
        expect(phone.locator("#server")).to_have_attribute("data-state", "ready")
    phone.goto(f"{url}/?relay=1")
    expect(phone.get_by_role("heading", name="Server not reachable")).to_be_visible()
    expect(phone.locator("#server-text")).to_have_text("Server does not answer")
    expect(phone.get_by_role("button", name="Start call")).to_be_visible()
    phone.goto(f"{url}/status")
    expect(phone.locator("#server-text")).to_have_text("Server does not answer")
    phone.goto(url)
    expect(phone.get_by_role("heading", name="Server not reachable")).to_be_visible()
    with served_at(port):
        expect(phone.get_by_role("heading", name="Just talk.")).to_be_visible(timeout=SETTLE_MS)
        phone.get_by_role("button", name="Start call").click()
        phone.wait_for_selector("body[data-phase=live]", timeout=SETTLE_MS)
        phone.get_by_role("button", name="Hang up").click()


def test_a_phone_without_network_is_told_that_it_has_none(phone: Page, server: ServerProcess) -> None:
    opens(phone, server.url)
    phone.context.set_offline(True)
    phone.reload()
    expect(phone.get_by_role("heading", name="You are offline")).to_be_visible()
    phone.context.set_offline(False)
    expect(phone.get_by_role("heading", name="Just talk.")).to_be_visible(timeout=SETTLE_MS)


def test_an_updated_server_never_meets_the_old_page(phone: Page, web: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with served_at(port):
        opens(phone, url)
        (first,) = phone.evaluate(KEPT)
        change(web, "Just talk.", "Just talk to it.")
        phone.reload()  # the server still runs: the next load has it
        expect(phone.get_by_role("heading", name="Just talk to it.")).to_be_visible()
        phone.evaluate(COPY_GONE, first)
    phone.reload()  # from the copy, which is the new one
    expect(phone.get_by_role("heading", name="Server not reachable")).to_be_visible()
    change(web, "Just talk to it.", "Say hello.")
    with served_at(port):  # a page that lies open takes the new one by itself
        phone.evaluate("() => dispatchEvent(new Event('online'))")
        expect(phone.get_by_role("heading", name="Say hello.")).to_be_visible(timeout=SETTLE_MS)
        assert len(phone.evaluate(KEPT)) == 1


def test_a_page_with_a_conversation_on_it_is_not_taken_away(phone: Page, web: Path) -> None:
    phone.add_init_script("const now = Date.now; window.slept = 0; Date.now = () => now() + window.slept;")
    port = free_port()
    with served_at(port):
        opens(phone, f"http://127.0.0.1:{port}")
        (first,) = phone.evaluate(KEPT)
        phone.get_by_role("button", name="Start call").click()
        phone.wait_for_selector("body[data-phase=live]", timeout=SETTLE_MS)
        change(web, "Just talk.", "Say hello.")
        phone.evaluate("() => { window.slept = 120_000; document.dispatchEvent(new Event('visibilitychange')); }")
        phone.evaluate(COPY_GONE, first)
        expect(phone.locator("body")).to_have_attribute("data-phase", "live")
        phone.get_by_role("button", name="Hang up").click()
        notice = phone.get_by_role("region", name="There is a newer page")
        notice.get_by_role("button", name="Load the new page").click()
        expect(phone.get_by_role("heading", name="Say hello.")).to_be_visible()


def change(web: Path, old: str, new: str) -> None:
    """Another headline, in another release."""
    script = web / "js" / "stage.js"
    text = script.read_text(encoding="utf-8")
    assert old in text
    script.write_text(text.replace(old, new), encoding="utf-8")
