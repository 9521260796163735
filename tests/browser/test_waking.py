"""A page that slept, on a phone: its call goes on, or is found dead at once and resumed; relays get new credentials."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser.caller import Caller
from tests.browser.conftest import OpenPage
from tests.browser.test_page_modules import loaded_page
from tests.support.server_process import ServerProcess

Run = Callable[..., Any]

# A peer connection without network: `packets` come in while `isAlive`; every request is kept in `asked`.
PEER = """
    const peer = { packets: 10, isAlive: true, configurations: [], restarts: 0 };
    window.RTCPeerConnection = class extends EventTarget {
      iceGatheringState = "complete";
      connectionState = "connected";
      localDescription = { type: "offer", sdp: "v=0 offer" };
      constructor(configuration) { super(); peer.configurations.push(configuration); peer.pc = this; }
      addTrack() { return { replaceTrack: async () => undefined }; }
      createDataChannel() {
        peer.channel = Object.assign(new EventTarget(), { readyState: "open", send: () => undefined });
        return peer.channel;
      }
      async setLocalDescription() {}
      async setRemoteDescription() {}
      async getStats() {
        if (peer.isAlive) peer.packets += 1;
        return new Map([["in", { type: "inbound-rtp", packetsReceived: peer.packets }]]);
      }
      setConfiguration(configuration) { peer.configurations.push(configuration); }
      restartIce() { peer.restarts += 1; }
      close() { this.connectionState = "closed"; }
    };
    const asked = [];
    const reply = { PATCH: () => new Response("v=0 again"), ice: () => new Response("{}") };
    window.fetch = async (url, { method = "GET" } = {}) => {
      const { pathname } = new URL(url);
      asked.push(`${method} ${pathname}`);
      if (pathname.endsWith("ice-servers")) return reply.ice();
      if (method === "PATCH") return reply.PATCH();
      return new Response("v=0 answer", { status: 201, headers: { Location: "/v1/realtime/calls/rtc_1" } });
    };
    const patches = () => asked.filter((line) => line.startsWith("PATCH")).length;
    const { Call } = await import("/static/js/call.js");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const make = async (options = {}) => {
      const call = new Call({ stream, endpoint: "https://page.test/v1/realtime/calls", ...options });
      await call.connect(AbortSignal.timeout(5_000));
      return call;
    };
"""
RELAY = """({ ttl, name }) => new Response(JSON.stringify({
    ttl, iceServers: [{ urls: ["turn:relay.test"], username: name, credential: "secret" }] }))"""


@pytest.fixture
def alone(browser: Browser) -> Iterator[Run]:
    """As `run` of the module tests, with the vocabulary of `PEER`."""
    with loaded_page(browser) as page:
        yield lambda body: page.evaluate(f"async () => {{ {PEER} {body} }}")


def test_a_connection_that_lives_is_left_alone(alone: Run) -> None:
    assert alone("const call = await make(); await call.check(0); return [patches(), peer.restarts]") == [0, 0]


def test_a_silent_connection_is_restarted_at_once_and_only_once(alone: Run) -> None:
    found = alone("""
        const call = await make();
        peer.isAlive = false;
        const lost = [];
        call.addEventListener("lost", () => lost.push(1));
        await Promise.all([call.check(0), call.check(0)]);
        const atOnce = [patches(), lost.length];  // before the browser, or the watch over silence, has noticed anything
        await new Promise((resolve) => setTimeout(resolve, 2_000));
        return [...atOnce, patches()]""")
    assert found == [1, 0, 1]


def test_after_a_long_sleep_what_still_comes_in_is_not_believed(alone: Run) -> None:
    assert alone("const call = await make(); await call.check(60_000); return patches()") == 1


@pytest.mark.parametrize("status", [404, 410])
def test_a_call_that_the_server_has_given_up_is_over_at_once_and_not_hung_up(alone: Run, status: int) -> None:
    ended, requests = alone(f"""
        const call = await make();
        const token = {{ type: "rtc_server.session.resumable", resume_token: "rsm_1" }};
        peer.channel.dispatchEvent(new MessageEvent("message", {{ data: JSON.stringify(token) }}));
        reply.PATCH = () => new Response("", {{ status: {status} }});
        const ended = [];
        call.addEventListener("ended", (event) => ended.push(event.detail.kind));
        await call.check(60_000);
        return [ended, asked.filter((line) => line.startsWith("DELETE"))]""")
    assert ended == ["connection-lost"]
    assert requests == []


def test_a_restart_takes_fresh_credentials_once_the_old_ones_are_half_over(alone: Run) -> None:
    names = alone(f"""
        const {{ IceServers }} = await import("/static/js/ice-servers.js");
        const relay = {RELAY};
        const servers = new IceServers();
        reply.ice = () => relay({{ ttl: 0.4, name: "first" }});
        const iceServers = await servers.forCall();
        const call = await make({{ iceServers, renewIceServers: () => servers.renewed(), relayOnly: true }});
        await new Promise((resolve) => setTimeout(resolve, 250));
        reply.ice = () => relay({{ ttl: 600, name: "second" }});
        await call.check(60_000);
        reply.ice = () => relay({{ ttl: 600, name: "third" }});
        await call.check(60_000);
        return peer.configurations.map((one) => [one.iceServers[0].username, one.iceTransportPolicy, peer.restarts])""")
    assert names == [["first", "relay", 2], ["second", "relay", 2]]


@pytest.mark.parametrize(
    "answer", ["new Response('{}', { status: 503 })", "Promise.reject(new TypeError('no network'))"]
)
def test_a_restart_goes_on_with_the_old_credentials_when_there_are_no_others(alone: Run, answer: str) -> None:
    found = alone(f"""
        const {{ IceServers }} = await import("/static/js/ice-servers.js");
        const servers = new IceServers();
        reply.ice = () => ({RELAY})({{ ttl: 0, name: "first" }});
        const iceServers = await servers.forCall();
        const call = await make({{ iceServers, renewIceServers: () => servers.renewed() }});
        reply.ice = () => {answer};
        await call.check(60_000);
        return [peer.configurations.length, patches()]""")
    assert found == [1, 1]


def test_a_sleep_is_measured_when_the_page_wakes_and_by_whatever_wakes_it(alone: Run) -> None:
    slept = alone("""
        const { watchWaking } = await import("/static/js/waking.js");
        const real = Date.now, slept = [];
        let shift = 0;
        Date.now = () => real() + shift;
        watchWaking((ms) => slept.push(Math.round(ms / 10_000)));
        const wakers = [
          () => document.dispatchEvent(new Event("visibilitychange")),
          () => document.dispatchEvent(new Event("resume")),
          () => dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true })),
          () => dispatchEvent(new Event("online")),
        ];
        for (const wake of wakers) {
          shift += 20_000;
          wake();
          wake();
        }
        dispatchEvent(new PageTransitionEvent("pageshow", { persisted: false }));
        shift += 30_000;  // a laptop that was shut: the page was shown all the time
        await new Promise((resolve) => setTimeout(resolve, 1_200));
        return slept""")
    assert slept == [*[2, 0] * 4, 3]


# --- the real page


@contextmanager
def asleep() -> Iterator[None]:
    """The system stops every page of the browser, as a phone does with what is not looked at: no script runs, no packet
    leaves. (Chromium's own `Page.setWebLifecycleState` does nothing to a page that is shown, and headless all are.)"""
    children = psutil.Process().children(recursive=True)
    pages = [child for child in children if "--type=renderer" in " ".join(child.cmdline())]
    assert pages
    for page in pages:
        page.suspend()
    try:
        yield
    finally:
        for page in pages:
            page.resume()


def test_a_page_that_is_put_away_keeps_its_call_and_goes_on_with_it(caller: Caller, server: ServerProcess) -> None:
    caller.says_nothing()
    caller.calls()
    caller.types("Before.")
    expect(caller.replies()).to_contain_text(["Before."])
    caller.page.evaluate("() => dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    with asleep():
        time.sleep(2.0)
    assert server.num_calls == 1
    caller.types("After.")
    expect(caller.replies()).to_contain_text(["Before.", "After."])
    assert caller.phase == "live"
    caller.hangs_up()


def test_chromium_restarts_ice_with_the_fresh_credentials_and_the_call_goes_on(open_page: OpenPage) -> None:
    caller = open_page()
    page = caller.page
    page.add_init_script("""
        const Peer = RTCPeerConnection, now = Date.now;
        window.RTCPeerConnection = class extends Peer { constructor(...all) { super(...all); window.peer = this; } };
        window.slept = 0;
        Date.now = () => now() + window.slept;""")
    given: list[str] = []

    def relays(route: Route) -> None:
        given.append(f"credential {len(given) + 1}")
        server = {"urls": ["turn:127.0.0.1:9?transport=tcp"], "username": given[-1], "credential": "secret"}
        route.fulfill(json={"iceServers": [server], "ttl": 600})

    page.route("**/v1/realtime/ice-servers", relays)
    caller.opens_the_page()
    caller.says_nothing()
    caller.calls()
    ice = """() => [peer.getConfiguration().iceServers[0].username,
        /a=ice-ufrag:(\\S+)/.exec(peer.currentLocalDescription.sdp)[1]]"""
    first, ufrag = page.evaluate(ice)
    with page.expect_response(lambda reply: reply.request.method == "PATCH") as patched:
        page.evaluate("() => { window.slept = 400_000; dispatchEvent(new Event('online')); }")
    assert patched.value.ok
    page.wait_for_function(f"ufrag => ({ice})()[1] !== ufrag", arg=ufrag)
    assert [first, page.evaluate(ice)[0]] == given == ["credential 1", "credential 2"]
    caller.types("Still there?")
    expect(caller.replies()).to_contain_text(["Still there?"])
    assert caller.phase == "live"
    caller.hangs_up()


def test_a_call_that_died_while_its_page_slept_is_resumed_with_everything_that_was_said(
    caller: Caller, server: ServerProcess
) -> None:
    caller.says_nothing()
    caller.calls()
    caller.types("Remember 42.")
    expect(caller.replies()).to_contain_text(["Remember 42."])
    with asleep():
        server.wait_for_calls(0, timeout_seconds=60.0)  # nothing was heard of it for long enough
    with caller.page.expect_request(lambda request: "resume=" in request.url, timeout=30_000):
        caller.page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    caller.page.wait_for_selector("body[data-phase=live]", timeout=30_000)
    assert server.num_calls == 1
    expect(caller.said()).to_have_text(["Remember 42."])
    caller.types("And now?")
    expect(caller.replies()).to_contain_text(["Remember 42.", "And now?"])
    caller.hangs_up()
