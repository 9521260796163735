"""The status page in a browser: it shows what `/v1/status` says about real calls, and rests while nobody looks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.caller import REPLY_MS, Caller
from tests.browser.conftest import OpenPage
from tests.support.running_server import free_port
from tests.support.server_process import ServerProcess, Value, server_process

KEY = "sk_0123456789abcdefghijklmnop"
ELSEWHERE = {"X-Forwarded-For": "203.0.113.9"}
CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
NARROW_PX = 320  # WCAG 1.4.10
AGREES_WITHIN_MS = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Two media workers and telephones; whoever comes through a proxy needs a key."""
    settings: dict[str, Value] = {
        "server.media_workers": 2,
        "auth.api_keys": [KEY],
        "auth.trusted_proxies": ["127.0.0.1"],
        "sip.enabled": True,
        "sip.port": free_port(socket.SOCK_DGRAM),
    }
    with server_process("echo", settings) as running:
        yield running
        assert KEY not in running.log


def status_of(server: ServerProcess) -> dict[str, Any]:
    code, document = server.get_json("/v1/status")
    assert code == 200
    return document


def watch(caller: Caller) -> Page:
    """The status page, showing something."""
    caller.page.goto(f"{caller.url}/status")
    expect(caller.page.locator("#status")).to_be_visible()
    return caller.page


def talks(caller: Caller) -> None:
    """A call with one spoken turn behind it; the microphone says nothing more."""
    caller.page.set_extra_http_headers({"Authorization": f"Bearer {KEY}"})
    caller.opens_the_page()
    caller.page.evaluate("key => localStorage.setItem('rtc-server.api-key', key)", KEY)
    caller.opens_the_page()
    caller.calls()
    expect(caller.page.locator("#latency-count")).to_have_text("1 turn", timeout=REPLY_MS)
    caller.sees_turn("listening")


def milliseconds(text: str) -> float:
    """ "612 ms" or "1.25 s", as the page writes them."""
    number, unit = text.split()[:2]
    return float(number) * {"ms": 1.0, "s": 1_000.0}[unit]


def test_the_page_shows_the_calls_and_turns_that_the_status_lists(open_page: OpenPage, server: ServerProcess) -> None:
    talks(talker := open_page())
    page = watch(open_page())
    document = status_of(server)
    (call,), turn = document["live_calls"], document["turns"][0]
    row = page.locator(f'[data-call="{call["call_id"]}"]')
    expect(row.get_by_role("cell").first).to_have_text("Listening")
    shown = {cell.get_attribute("data-label"): cell.inner_text() for cell in row.locator("[data-label]").all()}
    assert shown["Over"] == "WebRTC"
    assert shown["Turns"] == "1"
    assert shown["Process"] == str(call["node"])
    assert milliseconds(shown["Last response"] or "") == pytest.approx(call["latency_ms"], abs=AGREES_WITHIN_MS)
    for name, numbers in document["latency"].items():
        texts = page.locator(f'#stages-table [data-stage="{name}"] td').all_inner_texts()
        assert milliseconds(texts[0]) == pytest.approx(numbers["p50_ms"], abs=AGREES_WITHIN_MS), name
    assert page.locator("#plot .plot__turn").count() == len(document["turns"])
    assert page.locator("#plot .plot__turn").last.locator("rect").count() == len(turn["stages"])
    assert page.locator(f'#turns-table [data-response="{turn["response_id"]}"]').count() == 1
    expect(page.locator("#calls")).to_have_text("1")
    expect(page.locator("#max-calls")).to_have_text(f"of {document['max_calls']}")
    processes = [text.split()[0] for text in page.locator("#nodes-table tbody tr").all_inner_texts()]
    assert processes == ["Media", "Media", "Telephone"]
    talker.hangs_up()
    expect(page.locator("#live-empty")).to_be_visible()
    expect(page.locator("#calls")).to_have_text("0")
    expect(page.locator(f'#turns-table [data-response="{turn["response_id"]}"]')).to_have_count(1)


def test_telephones_are_counted_where_they_can_call(open_page: OpenPage, server: ServerProcess) -> None:
    page = open_page().page
    telephony = {"ringing": 1, "calling": 0, "answered": 3, "answered_in": 2, "answered_out": 1, "restarts": 4}
    shown: list[dict[str, Any] | None] = [{**telephony, "ready": True}, {**telephony, "ready": False}, None]
    document = status_of(server)
    page.route("**/v1/status", lambda route: route.fulfill(json=document))
    for said in shown:
        document["telephony"] = said
        page.goto(f"{server.url}/status")
        expect(page.locator("#status")).to_be_visible()
        row = page.locator('[data-process="telephony"]')
        if said is None:
            expect(row).to_have_count(0)
        else:
            word = "Ready" if said["ready"] else "Not ready"
            cells = ["Telephone adapter", f"{word}, 1 ringing, 2 called in, 1 called out", "3", "4"]
            expect(row.locator("th, td")).to_have_text(cells)


def test_nothing_is_asked_while_nobody_looks(open_page: OpenPage) -> None:
    caller = open_page()
    page = caller.page
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url) if "v1/status" in request.url else None)
    page.clock.install()
    page.goto(f"{caller.url}/status")
    expect(page.locator("#status")).to_be_visible()
    page.evaluate("""() => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    before = len(asked)
    page.clock.run_for(60_000)
    assert len(asked) == before, "a hidden page asks for nothing"
    with page.expect_response("**/v1/status"):
        page.evaluate("""() => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => false });
            document.dispatchEvent(new Event("visibilitychange"));
        }""")
    page.wait_for_function("() => true")
    with page.expect_response("**/v1/status"):
        page.clock.run_for(2_500)


def test_a_server_that_is_gone_is_said_and_found_again(open_page: OpenPage) -> None:
    page = watch(open_page())

    def refuse(route: Route) -> None:
        route.abort()

    page.route("**/v1/status", refuse)
    expect(page.locator("#server-text")).to_have_text("Server does not answer")
    assert page.locator("body").get_attribute("data-stale") is not None, "what is shown is old, and looks it"
    page.unroute("**/v1/status")
    expect(page.locator("#server-text")).to_have_text("Ready")
    assert page.locator("body").get_attribute("data-stale") is None


def test_from_elsewhere_a_key_is_asked_for_kept_and_explained_when_wrong(open_page: OpenPage) -> None:
    caller = open_page()
    page = caller.page
    page.set_extra_http_headers(ELSEWHERE)
    page.goto(f"{caller.url}/status")
    dialog = page.get_by_role("dialog", name="This server wants a key")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    notice = page.get_by_role("alert").filter(has_text="The server wants a key")
    expect(notice).to_be_visible()
    for key, works in (("sk_wrong", False), (KEY, True)):
        page.get_by_role("button", name="Enter a key").click()
        dialog.get_by_label("Key", exact=True).fill(key)
        dialog.get_by_role("button", name="Show the status").click()
        if not works:
            expect(page.locator("#notice-title")).to_have_text("The key is not known here")
    expect(page.locator("#status")).to_be_visible()
    page.reload()
    expect(page.locator("#status")).to_be_visible()
    expect(dialog).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_small_screen_and_in_the_dark(
    open_page: OpenPage, server: ServerProcess, scheme: str
) -> None:
    talks(open_page())
    page = watch(open_page(scheme=scheme, width=NARROW_PX, height=700))
    expect(page.locator("#live-table")).to_be_visible()
    page.locator(".listing summary").click()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW_PX
    assert [found for found in page.evaluate(CONTRAST) if found["ratio"] < found["needed"]] == []
    rows = page.get_by_role("table", name="Calls").get_by_role("row").count()
    assert rows == 1 + len(status_of(server)["live_calls"]), "a table for screen readers, whatever it looks like"


@pytest.mark.parametrize(("width", "height"), [(360, 640), (390, 844)])
def test_a_phone_shows_it_whole_and_fingers_hit_everything(open_page: OpenPage, width: int, height: int) -> None:
    page = watch(open_page(width=width, height=height, is_phone=True))
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    heights = page.locator("button, input, summary").evaluate_all(
        "all => all.filter((node) => node.checkVisibility()).map((node) => [node.id, node.offsetHeight])"
    )
    assert [found for found in heights if found[1] < 44] == []


def test_it_can_be_used_without_a_mouse(open_page: OpenPage) -> None:
    page = watch(open_page())
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.textContent.trim() || document.activeElement.id"))
    assert {"Skip to the calls", "theme"} <= set(reached)
