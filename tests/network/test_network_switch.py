"""A caller whose network changes in mid-call hears the rest of the reply, within seconds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.caller import REPLY_MS, in_a_call
from tests.browser.chromium import LEAD_SECONDS, SPEECH, chromium, write_microphone
from tests.support.namespaces import require_namespaces
from tests.support.npm_clients import NpmClients
from tests.support.phone import phone, phone_files
from tests.support.two_networks import PAGE, PAGE_FLAGS, TwoNetworks, two_networks

LIMIT_SECONDS = 5.0
LONG_QUESTION = "Tell me a long story about a cat, a dog and a house by the sea."


@dataclass(frozen=True, slots=True)
class Stand:
    """Two networks, and a browser on the client's machine."""

    networks: TwoNetworks
    browser: Browser


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    require_namespaces()
    if not shutil.which("chromium"):
        pytest.skip("not installed: chromium")
    microphone = tmp_path_factory.mktemp("switch") / "question.wav"
    write_microphone(microphone, [SPEECH / "f0_rms.wav"], LEAD_SECONDS, 60.0)
    with (
        two_networks("cascade") as networks,
        networks.client.entered(),
        chromium(microphone, flags=PAGE_FLAGS) as browser,
    ):
        yield Stand(networks, browser)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> NpmClients:
    return phone_files(tmp_path_factory.mktemp("phone"))


@pytest.fixture(autouse=True)
def no_leaked_threads(no_leaked_processes_and_sockets: None, stand: Stand, no_leaked_threads: None) -> None:
    """The check of every test, begun after the stand, whose threads live as long as it does."""


def test_the_rest_of_the_reply_is_heard_over_the_other_network(stand: Stand) -> None:
    with in_a_call(stand.browser, PAGE) as caller:
        caller.types(LONG_QUESTION)
        caller.hears_sound()
        stand.networks.leave_the_wifi()
        left = time.monotonic()
        caller.hears_silence()
        caller.hears_sound()
        seconds = time.monotonic() - left
        print(f"the reply went on {seconds:.1f} s after the network was gone")
        assert seconds < LIMIT_SECONDS
        expect(caller.said()).to_have_text([LONG_QUESTION], timeout=REPLY_MS)
        expect(caller.replies()).to_have_count(1)
        stand.networks.come_back()
        caller.hangs_up()


def test_a_phone_hears_the_rest_of_the_reply_over_the_other_network(stand: Stand, files: NpmClients) -> None:
    """libwebrtc, which is told nothing: it goes by the silence."""
    with stand.networks.client.entered(), phone(files, PAGE) as caller:
        caller.do("start")
        caller.write(LONG_QUESTION)
        caller.do("sound")
        before = caller.do("report")
        stand.networks.leave_the_wifi()
        left = time.monotonic()
        caller.do("soundAgain", drained_ms=1_000)  # a busy machine delivers late; nothing is found sooner
        seconds = time.monotonic() - left
        print(f"the reply went on {seconds:.1f} s after the network was gone")
        assert seconds < LIMIT_SECONDS
        caller.do("until", state="live")
        after = caller.do("report")
        assert (after["url"], after["states"]) == (before["url"], ["connecting", "live", "lost", "live"])
        stand.networks.come_back()
