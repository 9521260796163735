"""When a call cannot be made, the page says what happened and what to do, and recovers where it can."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Request, Route, expect

from tests.browser.caller import Caller
from tests.browser.chromium import INSECURE_HOST
from tests.browser.conftest import OpenPage
from tests.support.server_process import ServerProcess, server_process

CALLS = "**/v1/realtime/calls"


def start(caller: Caller) -> None:
    caller.page.get_by_role("button", name="Start call").click()


def is_idle(caller: Caller) -> None:
    expect(caller.page.locator("body")).to_have_attribute("data-phase", "idle")
    assert all(track["readyState"] == "ended" for track in caller.tracks())


def failing_microphone(name: str, message: str) -> str:
    return f"""navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException("{message}", "{name}"); }}"""


def refuse(route: Route, code: str, message: str, retry_after: int) -> None:
    """Answer as the server does when it takes no call now."""
    error = {"message": message, "type": "server_error", "code": code, "param": None}
    route.fulfill(status=503, json={"error": error}, headers={"Retry-After": str(retry_after)})


def test_a_refused_microphone_names_the_way_to_allow_it(open_page: OpenPage) -> None:
    caller = open_page(allows_microphone=False)
    caller.page.add_init_script(failing_microphone("NotAllowedError", "Permission denied"))
    caller.opens_the_page()
    start(caller)
    expect(caller.sees_failure("The microphone is blocked for this page")).to_contain_text("allow the microphone")
    is_idle(caller)


def test_the_browsers_own_refusal_is_understood(open_page: OpenPage) -> None:
    caller = open_page(allows_microphone=False)
    caller.opens_the_page()
    start(caller)
    notice = caller.page.locator("#notice")
    expect(notice).to_contain_text(re.compile("microphone (is blocked|was closed)"))
    is_idle(caller)


@pytest.mark.parametrize(
    ("name", "message", "title"),
    [
        ("NotFoundError", "Requested device not found", "No microphone found"),
        ("NotReadableError", "Could not start audio source", "The microphone does not start"),
        ("NotAllowedError", "Permission denied by system", "The system keeps the microphone from the browser"),
    ],
)
def test_a_microphone_that_fails_is_explained(open_page: OpenPage, name: str, message: str, title: str) -> None:
    caller = open_page()
    caller.page.add_init_script(failing_microphone(name, message))
    caller.opens_the_page()
    start(caller)
    caller.sees_failure(title)
    is_idle(caller)


def test_an_insecure_address_leads_to_the_secure_one(open_page: OpenPage, server: ServerProcess) -> None:
    caller = open_page(server.url.replace("127.0.0.1", INSECURE_HOST), allows_microphone=False)

    info = {**server.get_json("/v1/info")[1], "https_port": 8443}
    caller.page.route("**/v1/info", lambda route: route.fulfill(json=info))
    caller.opens_the_page()
    notice = caller.sees_failure("This address cannot use the microphone")
    link = notice.get_by_role("link", name=f"Open https://{INSECURE_HOST}:8443")
    expect(link).to_have_attribute("href", f"https://{INSECURE_HOST}:8443/")


def test_an_insecure_address_without_https_names_the_other_way(open_page: OpenPage, server: ServerProcess) -> None:
    caller = open_page(server.url.replace("127.0.0.1", INSECURE_HOST), allows_microphone=False)
    caller.opens_the_page()
    notice = caller.sees_failure("This address cannot use the microphone")
    expect(notice).to_contain_text("http://localhost")


def test_a_browser_without_webrtc_is_told_at_once(open_page: OpenPage) -> None:
    caller = open_page()
    caller.page.add_init_script("delete window.RTCPeerConnection")
    caller.opens_the_page()
    caller.sees_failure("This browser cannot make calls")


def test_a_full_server_is_waited_for_and_taken_when_a_line_is_free(open_page: OpenPage) -> None:
    with server_process("echo", {"server.max_calls": 1}) as small:
        first, second = open_page(small.url), open_page(small.url)
        first.opens_the_page()
        second.opens_the_page()
        first.calls()
        start(second)
        notice = second.sees_failure("All lines are busy")
        expect(notice).to_contain_text(re.compile(r"Trying again in \d+\ss\."))
        first.hangs_up()
        small.wait_for_calls(0)
        notice.get_by_role("button", name="Try now").click()
        second.is_live()
        expect(second.page.locator("#notice")).to_be_hidden()
        second.hangs_up()
        small.wait_for_calls(0)
        first.page.close()
        second.page.close()


def test_waiting_for_a_full_server_can_be_stopped(caller: Caller) -> None:
    caller.page.route(CALLS, lambda route: refuse(route, "server_full", "All 10 lines are busy.", 30))
    start(caller)
    expect(caller.sees_failure("All lines are busy")).to_contain_text("Trying again in")
    caller.page.get_by_role("button", name="Stop waiting").click()
    is_idle(caller)


def test_a_loading_server_is_waited_for_and_the_call_begins_by_itself(caller: Caller) -> None:
    offers: list[Route] = []

    def busy_once(route: Route) -> None:
        offers.append(route)
        if len(offers) == 1:
            refuse(route, "not_ready", "The models are still loading.", 5)
        else:
            route.fallback()

    caller.page.route(CALLS, busy_once)
    start(caller)
    caller.sees_failure("The models are loading")
    caller.is_live()
    caller.hangs_up()


def test_a_server_that_is_gone_is_reported(open_page: OpenPage) -> None:
    with server_process("echo") as short_lived:
        caller = open_page(short_lived.url)
        caller.opens_the_page()
    start(caller)
    caller.sees_failure("The server does not answer")
    is_idle(caller)


@pytest.mark.parametrize("body", ["<html>a proxy's page</html>", "v=0\r\nnonsense\r\n"])
def test_an_answer_that_makes_no_sense_is_reported(caller: Caller, body: str) -> None:
    caller.page.route(CALLS, lambda route: route.fulfill(status=201, content_type="application/sdp", body=body))
    start(caller)
    caller.sees_failure("The server's answer makes no sense")
    is_idle(caller)


def test_a_refusal_is_shown_in_the_servers_words(caller: Caller) -> None:
    error = {"message": "The offer has no audio.", "type": "invalid_request_error", "code": "invalid_sdp"}
    caller.page.route(CALLS, lambda route: route.fulfill(status=400, json={"error": error}))
    start(caller)
    expect(caller.sees_failure("The server refused the call")).to_contain_text("The offer has no audio.")
    is_idle(caller)


def test_sound_that_cannot_get_through_is_reported_and_the_line_given_back(
    caller: Caller, server: ServerProcess
) -> None:
    ended: list[str] = []

    def on_request(request: Request) -> None:
        if request.method == "DELETE":
            ended.append(request.url)

    def spoil(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, body=reply.text().replace("a=ice-pwd:", "a=ice-pwd:spoiled"))

    caller.page.on("request", on_request)
    caller.page.route(CALLS, spoil)
    start(caller)
    caller.page.wait_for_selector("#notice:not([hidden])", timeout=30_000)
    expect(caller.sees_failure("No sound gets through to the server")).to_contain_text("UDP")
    assert ended
    server.wait_for_calls(0)
    is_idle(caller)


def test_a_call_that_the_server_ends_is_explained(caller: Caller, server: ServerProcess) -> None:
    with caller.page.expect_response(CALLS) as answer:
        start(caller)
    caller.is_live()
    hangup = f"{server.url}{answer.value.headers['location']}/hangup"
    caller.page.context.request.post(hangup)
    caller.sees_failure("The server ended the call")
    is_idle(caller)


def test_an_unplugged_microphone_is_replaced_by_another(caller: Caller) -> None:
    caller.calls()
    caller.page.evaluate("() => { const [track] = micTracks; track.stop(); track.dispatchEvent(new Event('ended')); }")
    caller.page.wait_for_function("() => window.micTracks.length === 2")
    assert caller.phase == "live"
    assert [track["readyState"] for track in caller.tracks()] == ["ended", "live"]
    expect(caller.page.locator("#mic-hint")).to_contain_text("The call goes on with")
    expect(caller.page.locator("#notice")).to_be_hidden()
    caller.hangs_up()
