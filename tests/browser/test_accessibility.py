"""The page can be used without a mouse, without sight, on a small screen, in the dark, and without motion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.caller import Caller
from tests.browser.chromium import use_scripted_call
from tests.browser.conftest import OpenPage

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
NARROW_PX = 320  # WCAG 1.4.10
MIN_TARGET_PX = 24  # WCAG 2.5.8
FINGER_PX = 44  # WCAG 2.5.5
PHONES = [(360, 640), (390, 844)]

TURN: list[dict[str, Any]] = [
    {"type": "input_audio_buffer.speech_started", "item_id": "item_1", "audio_start_ms": 0},
    {"type": "input_audio_buffer.speech_stopped", "item_id": "item_1", "audio_end_ms": 900},
    {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": "item_1",
        "transcript": "What is the capital of France?",
    },
    {"type": "response.created", "response": {"id": "resp_1"}},
    {"type": "response.output_item.added", "response_id": "resp_1", "item": {"id": "item_2"}},
    {"type": "output_audio_buffer.started", "response_id": "resp_1"},
    {"type": "response.output_audio_transcript.delta", "item_id": "item_2", "delta": "The capital of France is"},
    {
        "type": "rtc_server.turn.metrics",
        "response_latency_ms": 612.3,
        "speculated": True,
        "stages": {
            "jitter_buffer": {"start_ms": -80.0, "end_ms": 0.0},
            "endpoint": {"start_ms": 0.0, "end_ms": 400.0},
            "recognition": {"start_ms": 121.0, "end_ms": 225.0},
            "first_text": {"start_ms": 225.0, "end_ms": 330.0},
            "first_audio": {"start_ms": 330.0, "end_ms": 517.0},
            "playout": {"start_ms": 517.0, "end_ms": 532.0},
        },
    },
]
CUT: list[dict[str, Any]] = [
    {"type": "output_audio_buffer.cleared", "response_id": "resp_1"},
    {"type": "response.done", "response": {"id": "resp_1", "status": "cancelled"}},
    {"type": "conversation.item.truncated", "item_id": "item_2", "content_index": 0, "audio_end_ms": 700},
]


def scripted(caller: Caller) -> Caller:
    """The page with a call that says what the test tells it to."""
    use_scripted_call(caller.page)
    caller.opens_the_page()
    return caller


def speaking(caller: Caller) -> Caller:
    """In a call; the server is in the middle of its first reply."""
    scripted(caller)
    caller.calls()
    say(caller.page, TURN)
    caller.sees_turn("speaking")
    return caller


def say(page: Page, events: list[dict[str, Any]]) -> None:
    page.evaluate("events => window.scripted.call.say(events)", events)


def fail(caller: Caller, kind: str) -> Caller:
    scripted(caller)
    caller.page.evaluate("kind => { window.scripted.failure = kind }", kind)
    caller.page.get_by_role("button", name="Start call").click()
    expect(caller.page.locator("#notice")).to_be_visible()
    return caller


def tab_stops(page: Page, num: int) -> list[str]:
    """Ids (or text) of what gets the focus with the next `num` presses of Tab."""
    stops = []
    for _ in range(num):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()"))
    return stops


def interrupted(caller: Caller) -> Caller:
    """The reply was cut."""
    say(speaking(caller).page, CUT)
    return caller


def muted(caller: Caller) -> Caller:
    """Muted with the mouse, which still lies on the button."""
    speaking(caller).page.locator("#mute").click()
    return caller


def away(caller: Caller) -> Caller:
    """The server is gone while the page is open."""
    scripted(caller)
    caller.page.route("**/v1/info", lambda route: route.abort())
    caller.page.evaluate("() => dispatchEvent(new Event('online'))")
    expect(caller.page.get_by_role("heading", name="Server not reachable")).to_be_visible()
    return caller


STATES: dict[str, Callable[[Caller], Caller]] = {
    "idle": scripted,
    "speaking": speaking,
    "interrupted": interrupted,
    "muted": muted,
    "full": lambda caller: fail(caller, "server-full"),
    "ice failed": lambda caller: fail(caller, "ice-failed"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_text_and_controls_have_enough_contrast(open_page: OpenPage, state: str, scheme: str) -> None:
    caller = open_page(scheme=scheme, reduced_motion="reduce")
    STATES[state](caller)
    caller.page.wait_for_timeout(300)  # the colours of hover and arrival settle
    measured = caller.page.evaluate(CONTRAST)
    assert len(measured) >= 8
    assert [found for found in measured if found["ratio"] < found["needed"]] == []
    if caller.phase != "idle":
        caller.page.locator("#call").click()


@pytest.mark.parametrize("state", ["idle", "speaking", "full"])
def test_every_control_has_a_name_and_a_size_that_can_be_hit(open_page: OpenPage, state: str) -> None:
    caller = open_page(width=390, height=844)
    STATES[state](caller)
    controls = caller.page.locator("button, input, select, a[href], [tabindex='0'], canvas, meter, [role=meter]")
    for control in controls.all():
        if not control.is_visible():
            continue
        html = control.evaluate("node => node.outerHTML")
        name = control.evaluate("""node => node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent
            ?? document.getElementById(node.getAttribute("aria-labelledby"))?.textContent ?? node.textContent""")
        assert name.strip(), html
        box = control.bounding_box()
        is_target = control.evaluate("node => node.matches('button, input, select')")
        if is_target:
            assert box is not None
            assert min(box["width"], box["height"]) >= MIN_TARGET_PX, html
    if caller.phase != "idle":
        caller.page.locator("#call").click()


def test_ids_are_unique_and_references_lead_somewhere(open_page: OpenPage) -> None:
    page = speaking(open_page()).page
    broken = page.evaluate("""() => {
      const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
      const attributes = ["aria-labelledby", "aria-describedby", "for"];
      const wanted = attributes.flatMap((name) =>
        [...document.querySelectorAll(`[${name}]`)].flatMap((node) => node.getAttribute(name).split(" ")));
      const repeated = ids.filter((id, at) => ids.indexOf(id) !== at);
      return { repeated, lost: wanted.filter((id) => !ids.includes(id)) };
    }""")
    assert broken == {"repeated": [], "lost": []}


def test_the_idle_page_is_walked_through_in_reading_order(open_page: OpenPage) -> None:
    page = scripted(open_page()).page
    assert tab_stops(page, 6) == ["Skip to the call button", "keys-open", "theme", "call", "mic-select", "mic-test"]


def test_a_call_is_walked_through_in_reading_order(open_page: OpenPage) -> None:
    page = speaking(open_page()).page
    page.evaluate("() => document.getElementById('theme').focus()")
    first = ["mute", "call", "interrupt", "mic-select", "output-select", "captions", "composer-text", "composer-send"]
    assert tab_stops(page, 9) == [*first, "Receive"]


def test_focus_is_visible(open_page: OpenPage) -> None:
    page = scripted(open_page()).page
    for _ in range(6):
        page.keyboard.press("Tab")
        outlines = page.evaluate("""() => [document.activeElement, ...document.activeElement.querySelectorAll("*")]
            .map((node) => getComputedStyle(node)).filter((style) => style.outlineStyle !== "none")
            .map((style) => parseFloat(style.outlineWidth))""")
        assert max(outlines, default=0.0) >= 2.0, page.evaluate("() => document.activeElement.outerHTML")


def test_a_call_is_made_muted_and_ended_with_the_keyboard_alone(open_page: OpenPage) -> None:
    caller = scripted(open_page())
    caller.page.keyboard.press("c")
    caller.is_live()
    caller.page.keyboard.press("m")
    expect(caller.page.get_by_role("button", name="Mute")).to_have_attribute("aria-pressed", "true")
    caller.page.keyboard.press("t")
    expect(caller.page.get_by_role("textbox")).to_be_focused()
    caller.page.keyboard.type("hum")  # letters in a text field are text, no shortcuts
    assert caller.phase == "live"
    caller.page.get_by_role("textbox").press("Enter")
    sent = caller.page.evaluate("() => window.scripted.sent.map((event) => event.type)")
    assert sent == ["conversation.item.create", "response.create"]
    caller.page.get_by_role("button", name="Hang up").focus()
    caller.page.keyboard.press("h")
    expect(caller.page.locator("body")).to_have_attribute("data-phase", "idle")


def test_the_keys_dialog_takes_the_focus_and_gives_it_back(open_page: OpenPage) -> None:
    page = scripted(open_page()).page
    opener = page.get_by_role("button", name="Keyboard shortcuts")
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    assert page.evaluate("() => document.getElementById('keys').contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(opener).to_be_focused()


def test_single_keys_can_be_switched_off(open_page: OpenPage) -> None:
    page = scripted(open_page()).page
    page.keyboard.press("?")
    page.get_by_role("checkbox").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    assert page.locator("body").get_attribute("data-phase") == "idle"


def test_screen_readers_get_whole_sentences_once(open_page: OpenPage) -> None:
    page = speaking(open_page()).page
    log = page.get_by_role("log", name="Captions")
    expect(log).to_have_attribute("aria-live", "polite")
    expect(log.locator("p")).to_have_count(1)  # what the caller said; the reply is still being spoken
    expect(log).to_have_text("You: What is the capital of France?")
    expect(page.locator("#captions [aria-live], #captions[aria-live]")).to_have_count(0)


def test_the_focus_is_not_lost_when_the_interrupt_button_goes_out(open_page: OpenPage) -> None:
    page = speaking(open_page()).page
    page.get_by_role("button", name="Interrupt").focus()
    page.keyboard.press("Enter")
    say(page, CUT)
    expect(page.get_by_role("button", name="Interrupt")).to_be_disabled()
    assert page.evaluate("() => document.activeElement !== document.body")


@pytest.mark.parametrize("state", ["idle", "speaking", "ice failed"])
def test_nothing_has_to_be_scrolled_sideways_on_the_narrowest_phone(open_page: OpenPage, state: str) -> None:
    caller = open_page(width=NARROW_PX, height=568)
    STATES[state](caller)
    assert caller.page.evaluate("() => document.documentElement.scrollWidth") <= NARROW_PX


@pytest.mark.parametrize("reach", [away, speaking, STATES["ice failed"]], ids=["away", "speaking", "ice failed"])
def test_on_a_phone_fingers_hit_everything_and_nothing_lies_outside(
    open_page: OpenPage, reach: Callable[[Caller], Caller]
) -> None:
    page = reach(open_page(is_phone=True)).page
    for width, height in PHONES:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        targets = page.locator("button, input, select, summary, a.button").evaluate_all(
            """all => all.filter((node) => node.checkVisibility()).map((node) => [node.id || node.textContent,
                Math.min(node.offsetWidth, node.offsetHeight), parseFloat(getComputedStyle(node).fontSize),
                node.matches("input, select")])"""
        )
        assert len(targets) >= 4
        assert [target for target in targets if target[1] < FINGER_PX] == []
        assert [target for target in targets if target[3] and target[2] < 16] == [], "iOS zooms into it"


def test_on_a_phone_the_conversation_lies_above_the_controls_and_clear_of_notches(open_page: OpenPage) -> None:
    page = speaking(open_page(is_phone=True)).page
    session = page.context.new_cdp_session(page)
    for width, height in PHONES:
        page.set_viewport_size({"width": width, "height": height})
        for inset in (0, 30):
            insets = dict.fromkeys(("top", "bottom", "left", "right"), inset)
            session.send("Emulation.setSafeAreaInsetsOverride", {"insets": insets})
            page.wait_for_function(
                "inset => getComputedStyle(document.querySelector('.bar')).paddingTop === `${12 + inset}px`", arg=inset
            )
            controls = edges(page, ".controls")
            assert controls["bottom"] == pytest.approx(height, abs=1.0)
            assert edges(page, "#call")["bottom"] <= height - inset
            if height > 800 or not inset:  # on the smallest there is no room for all of it
                assert edges(page, "#composer")["bottom"] <= controls["top"]
            assert edges(page, "#captions")["height"] >= 90, "two captions"
            for selector in (".stage", ".conversation", ".brand", ".control"):
                assert edges(page, selector)["left"] >= inset, selector
                assert edges(page, selector)["right"] <= width - inset, selector
    session.detach()


def test_a_keyboard_on_the_screen_leaves_the_text_field_in_view(open_page: OpenPage) -> None:
    page = speaking(open_page(width=360, height=640, is_phone=True)).page
    page.set_viewport_size({"width": 360, "height": 340})  # as with interactive-widget=resizes-content
    page.locator("#composer-text").focus()
    field = edges(page, "#composer-text")
    assert field["bottom"] <= edges(page, ".controls")["top"]
    assert field["top"] >= 0


def edges(page: Page, selector: str) -> dict[str, float]:
    """Where the first such element lies, in CSS pixels."""
    found: dict[str, float] = page.evaluate(
        "selector => document.querySelector(selector).getBoundingClientRect().toJSON()", selector
    )
    return found


def test_motion_stops_where_it_is_not_wanted(open_page: OpenPage) -> None:
    page = speaking(open_page(reduced_motion="reduce")).page
    running = page.evaluate("() => document.getAnimations().filter((a) => a.effect.getTiming().duration > 1).length")
    assert running == 0


def test_who_is_recorded_reads_and_hears_it_for_as_long_as_it_is_so(open_page: OpenPage) -> None:
    page = speaking(open_page()).page
    clock, status = page.locator("#call-clock"), page.locator("#announce-state")
    expect(clock).not_to_contain_text("Recorded")
    say(page, [{"type": "rtc_server.recording.started", "audio": True}])
    expect(clock).to_contain_text("Recorded · ")
    expect(status).to_have_text("This call is recorded.")
    say(page, [{"type": "rtc_server.recording.stopped", "reason": "disk_full"}])
    expect(clock).not_to_contain_text("Recorded")
    expect(status).to_have_text("This call is not recorded any more.")


def test_the_theme_follows_the_system_until_it_is_chosen(open_page: OpenPage) -> None:
    caller = scripted(open_page(scheme="dark"))
    background = "() => getComputedStyle(document.documentElement).backgroundColor"
    dark = caller.page.evaluate(background)
    caller.page.get_by_role("button", name="Use the light theme").click()
    light = caller.page.evaluate(background)
    assert light != dark
    caller.page.reload()
    assert caller.page.evaluate(background) == light


def test_the_contrast_measurement_notices_faint_text(open_page: OpenPage) -> None:
    page = scripted(open_page()).page
    page.evaluate("() => { document.getElementById('lede').style.color = '#a0a0a0'; }")
    found = [found["what"] for found in page.evaluate(CONTRAST) if found["ratio"] < found["needed"]]
    assert found == ['text "Press the button, speak, and hear an ans"']
