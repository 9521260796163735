"""Chromium and the media path: what is negotiated, what a bad network does to it, and what moving networks does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from tests.browser.chromium import SPEECH, chromium, write_microphone
from tests.support.server_process import ServerProcess, server_process
from tests.support.udp_relay import udp_relay

SCRIPT = Path(__file__).with_name("echo_call.js")
RATE = 16_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its microphone talks without end."""
    if os.environ.get("RTC_SERVER_SKIP_BROWSER") == "1":
        pytest.skip("RTC_SERVER_SKIP_BROWSER is 1")
    microphone = tmp_path_factory.mktemp("microphone") / "talk.wav"
    names = ["librivox_0880.wav", "f0_rms.wav", "f1_rms.wav", "f2_rms.wav", "f3_rms.wav", "librivox_0880.wav"]
    write_microphone(microphone, [SPEECH / name for name in names], 0.2, 0.3)
    with chromium(microphone, repeats=True) as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings = {"server.echo_test": True, "turns.vad": "webrtcvad"}
    with server_process("echo", settings=settings) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    context = browser.new_context(permissions=["microphone"], base_url=server.url, bypass_csp=True)
    page = context.new_page()
    page.goto(server.url)
    page.add_script_tag(content=SCRIPT.read_text(encoding="utf-8"))
    yield page
    context.close()
    server.wait_for_calls(0, 20.0)
    assert "Traceback" not in server.log


def start(page: Page, **options: Any) -> int:
    port: int = page.evaluate("options => echoCall.start(options)", options)
    return port


def stats(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("() => echoCall.stats()")
    return found


def lag_ms(page: Page) -> float:
    """How long after the microphone the returned voice is heard, by correlation."""
    said, heard = (np.array(channel, np.float64) for channel in page.evaluate("() => echoCall.recording()"))
    size = min(len(said), len(heard))
    spectrum = np.fft.rfft(said[:size], 2 * size).conj() * np.fft.rfft(heard[:size], 2 * size)
    return float(np.argmax(np.fft.irfft(spectrum)[: RATE * 2]) * 1e3 / RATE)


def test_redundancy_and_discontinuous_transmission_are_negotiated(page: Page) -> None:
    start(page)
    page.wait_for_timeout(1_000)
    found = stats(page)
    (line,) = {codec["sdpFmtpLine"] for codec in found["codecs"] if codec["mimeType"] == "audio/opus"} - {
        "minptime=10;useinbandfec=1"
    }
    assert "useinbandfec=1" in line
    assert "usedtx=1" in line
    before = stats(page)["outbound-rtp"]["packetsSent"]
    page.evaluate("() => { for (const track of echoCall.local.getTracks()) track.enabled = false; }")
    page.wait_for_timeout(3_000)
    silent = stats(page)["outbound-rtp"]["packetsSent"] - before
    assert silent < 100, f"{silent} packets in 3 s of silence: it does not pause"
    page.evaluate("() => echoCall.stop()")


def test_a_browser_whose_certificate_has_an_rsa_key_is_heard(page: Page) -> None:
    """As GStreamer's is by default; a page may ask its browser for one."""
    rsa = {"name": "RSASSA-PKCS1-v1_5", "hash": "SHA-256", "modulusLength": 2048, "publicExponent": [1, 0, 1]}
    start(page, key=rsa)
    page.wait_for_function("async () => (await echoCall.stats())['inbound-rtp']?.packetsReceived > 20", timeout=10_000)
    page.evaluate("() => echoCall.stop()")


def test_transport_wide_feedback_is_answered_and_the_browser_reckons_with_it(page: Page) -> None:
    start(page)
    offer, answer = (page.evaluate(f"() => echoCall.pc.{side}Description.sdp") for side in ("local", "remote"))
    (extension,) = (line for line in offer.splitlines() if "transport-wide-cc-extensions-01" in line)
    assert extension in answer.splitlines()
    assert "a=rtcp-fb:111 transport-cc" in answer.splitlines()
    page.wait_for_timeout(6_500)
    before = stats(page)["pair"]["availableOutgoingBitrate"]
    page.wait_for_timeout(2_000)
    found = stats(page)
    # Chromium probes every 5 s; in between the estimate of a path that is not filled stands still. In 2 s it falls by
    # 36 % when feedback was agreed on and does not come, and rises by 17 % when it was not agreed on (measured).
    assert found["pair"]["availableOutgoingBitrate"] == pytest.approx(before, rel=0.1)
    assert before > found["outbound-rtp"]["targetBitrate"]
    assert found["remote-inbound-rtp"]["packetsLost"] == 0
    page.evaluate("() => echoCall.stop()")


def test_the_echo_comes_back_soon_and_unbroken(page: Page) -> None:
    start(page, record=True)
    page.wait_for_timeout(6_000)
    inbound = stats(page)["inbound-rtp"]
    # Nobody else is measured here: 160 ms and 17 % are what plain aiortc gives, the bounds are for a busy machine.
    assert inbound["concealedSamples"] / inbound["totalSamplesReceived"] < 0.05
    assert lag_ms(page) < 200
    page.evaluate("() => echoCall.stop()")


def test_three_percent_loss_both_ways_is_bridged(page: Page, server: ServerProcess) -> None:
    port = start(page)
    page.evaluate("() => echoCall.stop()")
    with udp_relay(("127.0.0.1", port), loss=0.03) as relay:
        start(page, relayPort=relay.port, record=True)
        page.wait_for_timeout(12_000)
        inbound = stats(page)["inbound-rtp"]
        share = inbound["concealedSamples"] / inbound["totalSamplesReceived"]
        lag = lag_ms(page)
        print(f"3 % loss: concealed {share:.3f}, lag {lag:.0f} ms")
        page.evaluate("() => echoCall.stop()")
    assert share < 0.08, "plain aiortc: 0.17"
    assert lag < 250, "plain aiortc: 682 ms"


def test_an_ice_restart_keeps_the_call(page: Page) -> None:
    start(page)
    page.wait_for_timeout(500)
    before = stats(page)
    page.evaluate("() => echoCall.restartIce()")
    page.evaluate(
        """async id => {
            await echoCall.until(async () => (await echoCall.stats()).transport.selectedCandidatePairId !== id);
        }""",
        before["transport"]["selectedCandidatePairId"],
    )
    page.wait_for_timeout(500)
    middle = stats(page)
    page.wait_for_timeout(1_000)
    after = stats(page)
    received = after["inbound-rtp"]["packetsReceived"] - middle["inbound-rtp"]["packetsReceived"]
    assert received > 40
    assert after["inbound-rtp"]["ssrc"] == before["inbound-rtp"]["ssrc"]
    assert after["transport"]["dtlsState"] == "connected"
    assert after["transport"]["selectedCandidatePairChanges"] > before["transport"]["selectedCandidatePairChanges"]
    page.evaluate("() => echoCall.stop()")


def test_two_calls_share_one_port(page: Page, browser: Browser, server: ServerProcess) -> None:
    first = start(page)
    context = browser.new_context(permissions=["microphone"], bypass_csp=True)
    other = context.new_page()
    other.goto(server.url)
    other.add_script_tag(content=SCRIPT.read_text(encoding="utf-8"))
    assert start(other) == first
    page.wait_for_timeout(500)
    assert stats(page)["pair"]["remotePort"] == stats(other)["pair"]["remotePort"] == first
    for one in (page, other):
        assert stats(one)["inbound-rtp"]["packetsReceived"] > 5
        one.evaluate("() => echoCall.stop()")
    context.close()


def test_twelve_seconds_without_a_microphone_do_not_end_the_call(page: Page, server: ServerProcess) -> None:
    start(page)
    page.evaluate("() => echoCall.sender.replaceTrack(null)")
    page.wait_for_timeout(12_500)
    assert server.num_calls == 1
    page.evaluate("() => echoCall.sender.replaceTrack(echoCall.local.getAudioTracks()[0])")
    page.wait_for_timeout(500)
    assert page.evaluate("() => echoCall.pc.connectionState") == "connected"
    page.evaluate("() => echoCall.stop()")
