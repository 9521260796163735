"""A call that is lost with its media worker: the page goes on by itself, with everything that was said."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.support.faults import workers
from tests.support.server_process import server_process


def test_a_page_goes_on_after_its_media_worker_was_killed(open_page: OpenPage) -> None:
    settings = {"server.media_workers": 1, "turns.vad": "webrtcvad"}
    with server_process("echo", settings) as server:
        caller = open_page(server.url)
        caller.opens_the_page()
        caller.says_nothing()
        caller.calls()
        caller.types("Remember 42.")
        expect(caller.replies()).to_contain_text(["Remember 42."])
        caller.page.wait_for_timeout(1_500)  # the snapshot leaves the worker; a killed process cannot be asked
        with caller.page.expect_response(lambda reply: "resume=" in reply.url and reply.ok, timeout=30_000):
            workers(server)[0].kill()
        caller.page.wait_for_selector("body[data-phase=live]", timeout=60_000)
        expect(caller.replies()).to_have_count(1)
        expect(caller.said()).to_have_text(["Remember 42."])
        expect(caller.page.locator("#notice")).to_be_hidden()
        caller.types("And now?")
        expect(caller.replies()).to_contain_text(["Remember 42.", "And now?"])
        caller.hangs_up()
        server.wait_for_calls(0)
        caller.page.close()
