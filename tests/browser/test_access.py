"""The page of a server that wants a key: it asks once, keeps it, and asks again when the key is not good any more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.caller import Caller
from tests.support.server_process import ServerProcess, server_process

KEY = "sk_0123456789abcdefghijklmnop"
TITLE = "This server wants a key"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("echo", {"auth.api_keys": [KEY]}) as running:
        yield running
        assert KEY not in running.log


def dialog_of(caller: Caller) -> Locator:
    return caller.page.get_by_role("dialog", name=TITLE)


def starts(caller: Caller) -> Locator:
    caller.page.get_by_role("button", name="Start call").click()
    dialog = dialog_of(caller)
    expect(dialog).to_be_visible()
    return dialog


def enters(dialog: Locator, key: str) -> None:
    dialog.get_by_label("Key", exact=True).fill(key)
    dialog.get_by_role("button", name="Start call").click()


def test_a_key_is_asked_for_once_and_kept(caller: Caller, server: ServerProcess) -> None:
    enters(starts(caller), KEY)
    caller.is_live()
    assert server.num_calls == 1
    caller.hangs_up()
    server.wait_for_calls(0)
    caller.opens_the_page()
    caller.calls()
    expect(dialog_of(caller)).to_be_hidden()
    assert caller.page.locator("#access-key").input_value() == "", "the key is not left in the page"
    caller.page.goto("about:blank")  # leaving hangs up, with the key
    server.wait_for_calls(0)


def test_a_wrong_key_is_explained_forgotten_and_asked_for_again(caller: Caller) -> None:
    enters(starts(caller), "sk_wrong")
    notice = caller.sees_failure("The server wants a key")
    expect(notice).to_contain_text("not known here")
    assert caller.page.evaluate("() => localStorage.getItem('rtc-server.api-key')") is None
    notice.get_by_role("button", name="Enter a key").click()
    dialog = dialog_of(caller)
    enters(dialog, "two words")
    expect(dialog.get_by_role("alert")).to_have_text("This does not look like a key.")
    enters(dialog, KEY)
    caller.is_live()
    caller.hangs_up()


def test_the_dialog_can_be_left_and_used_by_keyboard(caller: Caller) -> None:
    dialog = starts(caller)
    expect(dialog.get_by_label("Key", exact=True)).to_be_focused()
    caller.page.keyboard.type("chm")  # letters, not shortcuts
    caller.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert caller.phase == "idle"
    assert caller.tracks() == [], "no microphone is opened for a call that is not made"
    dialog = starts(caller)
    expect(dialog.get_by_label("Key", exact=True)).to_have_value("")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
