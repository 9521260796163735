"""A person talks with the server through the page: the real page, browser, server and embedded models."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.caller import REPLY_MS, Caller
from tests.support.server_process import ServerProcess

BACKEND = "cascade"

LONG_QUESTION = "Tell me a long story about a cat, a dog and a house by the sea."


def test_a_spoken_question_is_captioned_answered_aloud_and_measured(caller: Caller, server: ServerProcess) -> None:
    caller.calls()
    assert server.num_calls == 1
    expect(caller.said()).to_have_text(re.compile("capital of france", re.IGNORECASE), timeout=REPLY_MS)
    caller.sees_turn("speaking")
    caller.hears_sound()
    expect(caller.replies().locator(".caption__text")).to_have_text(re.compile(r"[A-Za-z]{3}"), timeout=REPLY_MS)
    expect(caller.page.get_by_role("table")).to_contain_text("Recognition")
    expect(caller.page.locator("#latency dd").first).to_have_text(re.compile(r"\d+ ?ms|\d\.\d\d ?s"))
    caller.hangs_up()
    server.wait_for_calls(0)


def test_the_microphone_is_opened_for_speech_and_closed_after_the_call(caller: Caller) -> None:
    caller.calls()
    audio = caller.page.evaluate("() => window.micConstraints.audio")
    assert audio | {"echoCancellation": True, "noiseSuppression": True, "autoGainControl": True} == audio
    caller.hangs_up()
    assert [track["readyState"] for track in caller.tracks()] == ["ended"]


def test_interrupting_silences_the_reply_and_marks_its_caption(typist: Caller) -> None:
    typist.calls()
    typist.types(LONG_QUESTION)
    typist.hears_sound()
    typist.page.get_by_role("button", name="Interrupt").click()
    expect(typist.page.locator(".caption__cut").last).to_contain_text("Interrupted", timeout=REPLY_MS)
    typist.hears_silence()
    assert typist.phase == "live"
    typist.hangs_up()


def test_a_typed_message_is_answered_aloud(typist: Caller) -> None:
    typist.calls()
    typist.types("How are you today?")
    expect(typist.said().first).to_have_text("How are you today?")
    expect(typist.page.locator(".caption__how").first).to_have_text("typed")
    typist.hears_sound()
    typist.hangs_up()


def test_a_typed_message_during_a_reply_interrupts_it(typist: Caller) -> None:
    typist.calls()
    typist.types(LONG_QUESTION)
    typist.hears_sound()
    typist.types("How are you today?")
    expect(typist.page.locator(".caption__cut")).to_have_count(1, timeout=REPLY_MS)
    expect(typist.replies()).to_have_count(2, timeout=REPLY_MS)
    typist.hangs_up()


def test_a_muted_microphone_sends_nothing_and_says_so(caller: Caller) -> None:
    caller.calls()
    mute = caller.page.get_by_role("button", name="Mute")
    caller.page.keyboard.press("m")
    expect(mute).to_have_attribute("aria-pressed", "true")
    expect(caller.page.locator("#headline")).to_have_text("Muted")
    assert [track["enabled"] for track in caller.tracks()] == [False]
    mute.click()
    expect(mute).to_have_attribute("aria-pressed", "false")
    assert [track["enabled"] for track in caller.tracks()] == [True]
    caller.hangs_up()


def test_escape_interrupts_even_from_the_text_field(typist: Caller) -> None:
    typist.calls()
    typist.types(LONG_QUESTION)
    typist.hears_sound()
    typist.page.keyboard.press("Escape")
    expect(typist.page.locator(".caption__cut").last).to_be_visible(timeout=REPLY_MS)
    typist.hangs_up()


def test_closing_the_page_ends_the_call_at_once(caller: Caller, server: ServerProcess) -> None:
    caller.calls()
    caller.page.goto("about:blank")
    server.wait_for_calls(0, timeout_seconds=5.0)
    caller.problems.clear()  # the blank page counts as a request to another address


def test_a_second_call_works_and_keeps_the_captions_of_the_first(typist: Caller, server: ServerProcess) -> None:
    typist.calls()
    typist.types("How are you today?")
    typist.hears_sound()
    typist.page.keyboard.press("Escape")
    typist.hangs_up()
    server.wait_for_calls(0)
    typist.page.get_by_role("button", name="Call again").click()
    typist.is_live()
    expect(typist.said().first).to_have_text("How are you today?")
    typist.hangs_up()
