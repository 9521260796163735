"""Sound on a phone: the screen stays on, headsets come and go, a telephone call borrows the microphone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.caller import Caller
from tests.browser.conftest import OpenPage
from tests.browser.test_page_modules import loaded_page

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def shared(browser: Browser) -> Iterator[Page]:
    with loaded_page(browser) as page:
        yield page


@pytest.fixture
def run(shared: Page) -> Run:
    """Run the body of an async function in a page without a server; `value` is the argument."""
    return lambda body, value=None: shared.evaluate(f"async (value) => {{ {body} }}", value)


# --- the screen

SCREEN = """
    const { ScreenLock } = await import("/static/js/wake-lock.js");
    const locks = [];
    let isHidden = false, refusal = null, wait = Promise.resolve();
    Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
    const wakeLock = { request: async (kind) => {
      await wait;
      if (refusal) throw refusal;
      const lock = { kind, released: false, release: async () => { lock.released = true; } };
      locks.push(lock);
      return lock;
    } };
    const given = value === "none" ? undefined : wakeLock;
    Object.defineProperty(navigator, "wakeLock", { configurable: true, value: given });
    const hide = (yes) => {
      isHidden = yes;
      if (yes) for (const lock of locks) lock.released = true;  // as the system does
      document.dispatchEvent(new Event("visibilitychange"));
    };
    const settle = () => new Promise((resolve) => setTimeout(resolve));
    const held = () => locks.map((lock) => !lock.released);
    const screen = new ScreenLock();
"""


def test_the_screen_is_held_during_a_call_taken_again_and_let_go(run: Run) -> None:
    states = run(
        SCREEN
        + """
        const states = [];
        const note = async () => { await settle(); states.push(held()); };
        await note();
        screen.hold(true); await note();
        screen.hold(true); await note();
        hide(true); await note();
        hide(false); await note();
        screen.hold(false); await note();
        hide(true); hide(false); await note();
        return states"""
    )
    assert states == [[], [True], [True], [False], [False, True], [False, False], [False, False]]


def test_a_lock_that_comes_after_the_hang_up_is_let_go(run: Run) -> None:
    states = run(
        SCREEN
        + """
        let give;
        wait = new Promise((resolve) => (give = resolve));
        screen.hold(true);
        screen.hold(false);
        give();
        await settle();
        return held()"""
    )
    assert states == [False]


def test_a_screen_that_may_not_be_held_is_asked_for_again_when_the_page_is_looked_at(run: Run) -> None:
    states = run(
        SCREEN
        + """
        refusal = new DOMException("Little battery.", "NotAllowedError");
        screen.hold(true);
        await settle();
        const before = held();
        refusal = null;
        hide(true); hide(false);
        await settle();
        return [before, held()]"""
    )
    assert states == [[], [True]]


def test_without_the_api_nothing_happens(run: Run) -> None:
    assert run(SCREEN + "screen.hold(true); hide(true); hide(false); screen.hold(false); return held()", "none") == []


def test_the_page_holds_the_screen_as_long_as_its_call(open_page: OpenPage) -> None:
    caller = open_page()
    caller.page.context.grant_permissions(["microphone", "screen-wake-lock"], origin=caller.url)
    caller.page.add_init_script("""
        window.locks = [];
        const request = WakeLock.prototype.request;
        WakeLock.prototype.request = async function (kind) {
          const lock = await request.call(this, kind);
          window.locks.push(lock);
          return lock;
        };""")
    caller.opens_the_page()
    held = "() => window.locks.map((lock) => !lock.released)"
    assert caller.page.evaluate(held) == []
    caller.calls()
    caller.page.wait_for_function("() => window.locks.length === 1")
    assert caller.page.evaluate(held) == [True]
    caller.hangs_up()
    caller.page.wait_for_function("() => window.locks[0].released")


# --- which microphone

SPEAKER, HEADSET = "built-in", "headset"


def inputs(ids: list[str], default_group: str | None) -> dict[str, Any]:
    return {"ids": ids, "defaultGroup": default_group}


@pytest.mark.parametrize(
    ("before", "after", "wanted", "used", "expected"),
    [
        # Chromium says which device is the default: the call follows it, and nothing else.
        (inputs([SPEAKER], "g1"), inputs([SPEAKER, HEADSET], "g2"), "", "", ""),
        (inputs([SPEAKER, HEADSET], "g2"), inputs([SPEAKER], "g1"), "", "", ""),
        (inputs([SPEAKER], "g1"), inputs([SPEAKER, HEADSET], "g1"), "", "", None),
        # Safari and Firefox do not: something new is a reason to ask for the default again.
        (inputs([SPEAKER], None), inputs([SPEAKER, HEADSET], None), "", "", ""),
        (inputs([SPEAKER, HEADSET], None), inputs([SPEAKER], None), "", "", None),
        (inputs([SPEAKER], None), inputs([SPEAKER], None), "", "", None),
        # A choice stays a choice, and is taken again when it comes back.
        (inputs([SPEAKER], "g1"), inputs([SPEAKER, HEADSET], "g2"), SPEAKER, SPEAKER, None),
        (inputs([SPEAKER], "g1"), inputs([SPEAKER, HEADSET], "g1"), HEADSET, "", HEADSET),
        (inputs([SPEAKER], "g1"), inputs([SPEAKER], "g1"), HEADSET, "", None),
        (inputs([SPEAKER, HEADSET], "g1"), inputs([SPEAKER], "g1"), HEADSET, HEADSET, None),
    ],
)
def test_the_microphone_that_a_call_goes_on_with(
    run: Run, before: dict[str, Any], after: dict[str, Any], wanted: str, used: str, expected: str | None
) -> None:
    found = run(
        """const { nextMicrophone } = await import("/static/js/audio-route.js");
        return nextMicrophone(...value)""",
        [before, after, wanted, used],
    )
    assert found == expected


def test_what_the_browser_lists_is_read(run: Run) -> None:
    devices = [
        {"kind": "audioinput", "deviceId": "default", "groupId": "g2"},
        {"kind": "audioinput", "deviceId": "communications", "groupId": "g1"},
        {"kind": "audioinput", "deviceId": "a", "groupId": "g1"},
        {"kind": "audiooutput", "deviceId": "b", "groupId": "g2"},
        {"kind": "audioinput", "deviceId": "", "groupId": ""},
    ]
    found = run('return (await import("/static/js/audio-route.js")).inputsOf(value)', devices)
    assert found == {"ids": ["a"], "defaultGroup": "g2"}


@pytest.mark.parametrize(
    ("label", "settings", "needed"),
    [
        ("iPhone Microphone", {"echoCancellation": True}, False),
        ("Built-in", {"echoCancellation": "browser"}, False),
        ("Built-in", {"echoCancellation": False}, True),
        ("Built-in", {}, True),
        ("AirPods Pro", {}, False),
        ("Headset (Jabra)", {"echoCancellation": False}, False),
        ("Bluetooth Hands-Free", {}, False),
    ],
)
def test_a_headset_is_asked_for_where_the_browser_cancels_no_echo(
    run: Run, label: str, settings: dict[str, Any], needed: bool
) -> None:
    found = run(
        """const { needsHeadset } = await import("/static/js/audio-route.js");
        return needsHeadset({ label: value[0], getSettings: () => value[1] })""",
        [label, settings],
    )
    assert found is needed


def test_ios_is_told_what_the_sound_is_for_and_others_nothing(run: Run) -> None:
    types = run("""
        const { setAudioSession } = await import("/static/js/audio-route.js");
        setAudioSession(true);
        const types = ["audioSession" in navigator];
        Object.defineProperty(navigator, "audioSession", { configurable: true, value: { type: "auto" } });
        for (const isInCall of [true, false]) {
          setAudioSession(isInCall);
          types.push(navigator.audioSession.type);
        }
        delete navigator.audioSession;
        return types""")
    assert types == [False, "play-and-record", "auto"]


# --- in a call

# Lets a test plug headsets in: `plug.after` is what the browser lists from then on, `plug.id` the microphone it gives.
PLUG = """
    window.plug = { id: null, missing: [], group: null };
    const devices = navigator.mediaDevices;
    const list = devices.enumerateDevices.bind(devices), open = devices.getUserMedia.bind(devices);
    devices.enumerateDevices = async () => (await list())
      .filter((device) => !plug.missing.includes(device.label))
      .map(({ kind, deviceId, groupId, label }) =>
        ({ kind, deviceId, label, groupId: deviceId === "default" && plug.group ? plug.group : groupId }));
    devices.getUserMedia = ({ audio }) =>
      open({ audio: plug.id && !audio.deviceId ? { ...audio, deviceId: { exact: plug.id } } : audio });
    const Peer = RTCPeerConnection;
    window.RTCPeerConnection = class extends Peer { constructor(...all) { super(...all); window.peer = this; } };
"""
OTHER = "Fake Audio Input 2"


@pytest.fixture
def plugger(open_page: OpenPage) -> Caller:
    """Someone in a call who has headsets."""
    caller = open_page(width=390, height=844)
    caller.page.add_init_script(PLUG)
    caller.opens_the_page()
    caller.calls()
    return caller


def plugs(page: Page, steps: str) -> None:
    page.evaluate(f"""async () => {{
        const id = async (label) =>
          (await navigator.mediaDevices.enumerateDevices()).find((device) => device.label === label).deviceId;
        {steps}
        navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
    }}""")


def test_a_call_moves_to_a_headset_that_becomes_the_default(plugger: Caller) -> None:
    page = plugger.page
    plugs(page, f'plug.id = await id("{OTHER}"); plug.group = "headset";')
    expect(page.locator("#mic-hint")).to_have_text(f"The call goes on with {OTHER}.")
    expect(page.locator("#announce-state")).to_have_text(f"The call goes on with {OTHER}.")
    page.wait_for_function("() => peer.getSenders()[0].track === micTracks.at(-1)")
    assert [track["readyState"] for track in plugger.tracks()] == ["ended", "live"]
    assert plugger.phase == "live"
    expect(page.get_by_role("combobox", name="Microphone")).to_have_value("")
    plugger.hangs_up()
    expect(page.locator("#mic-hint")).to_be_empty()


def test_a_muted_caller_stays_muted_with_the_next_microphone(plugger: Caller) -> None:
    plugger.page.get_by_role("button", name="Mute").click()
    plugs(plugger.page, f'plug.id = await id("{OTHER}"); plug.group = "headset";')
    expect(plugger.page.locator("#mic-hint")).to_contain_text(OTHER)
    assert [track["enabled"] for track in plugger.tracks()][-1] is False
    plugger.hangs_up()


def test_devices_that_come_and_go_beside_the_call_change_nothing(plugger: Caller) -> None:
    plugs(plugger.page, f'plug.missing = ["{OTHER}"];')
    plugs(plugger.page, "plug.missing = [];")
    plugger.page.wait_for_timeout(300)
    assert len(plugger.tracks()) == 1
    plugger.hangs_up()


def test_a_telephone_call_that_takes_the_microphone_is_said_and_gone_on_from(plugger: Caller) -> None:
    page = plugger.page
    mute = """(isMuted) => {
        const track = micTracks.at(-1);
        Object.defineProperty(track, "muted", { configurable: true, get: () => isMuted });
        track.dispatchEvent(new Event(isMuted ? "mute" : "unmute"));
    }"""
    page.evaluate(mute, True)
    notice = plugger.sees_failure("Something else has the microphone")
    assert plugger.phase == "live"
    page.evaluate(mute, False)
    expect(notice).to_be_hidden()
    assert len(plugger.tracks()) == 1
    page.evaluate(mute, True)  # and now it is not given back, as on some iPhones
    expect(notice).to_be_visible()
    page.evaluate("""() => {
        document.getElementById("remote").pause();
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    expect(notice).to_be_hidden()
    page.wait_for_function("() => peer.getSenders()[0].track === micTracks.at(-1) && micTracks.length === 2")
    page.wait_for_function("() => !document.getElementById('remote').paused")
    plugger.hangs_up()


def test_the_loudspeaker_can_be_chosen_and_gives_way_to_the_default_while_it_is_gone(plugger: Caller) -> None:
    page = plugger.page
    select = page.get_by_role("combobox", name="Loudspeaker")
    select.select_option(label="Fake Audio Output 2")
    sink = "() => document.getElementById('remote').sinkId"
    chosen = select.input_value()
    page.wait_for_function(f"chosen => ({sink})() === chosen", arg=chosen)
    plugs(page, 'plug.missing = ["Fake Audio Output 2"];')
    page.wait_for_function(f"() => ({sink})() === ''")
    plugs(page, "plug.missing = [];")
    page.wait_for_function(f"chosen => ({sink})() === chosen", arg=chosen)
    expect(select).to_have_value(chosen)
    plugger.hangs_up()
    page.reload()
    plugger.calls()
    page.wait_for_function(f"chosen => ({sink})() === chosen", arg=chosen)
    plugger.hangs_up()
