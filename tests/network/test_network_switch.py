"""A caller whose network changes in mid-call hears the rest of the reply, within seconds.

client (10.99.0.2 "wifi", 10.97.0.2 "lte") ==== server (10.96.0.1, reached over both)
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.caller import REPLY_MS, Caller
from tests.browser.chromium import FLAGS, LEAD_SECONDS, SPEECH, allow_microphone, chromium, write_microphone
from tests.support.forwarding import forwarded
from tests.support.namespaces import Namespace, network, require_namespaces
from tests.support.server_process import ServerProcess, server_process

SERVER, PAGE_PORT = "10.96.0.1", 8000
LIMIT_SECONDS = 5.0
LONG_QUESTION = "Tell me a long story about a cat, a dog and a house by the sea."


@dataclass(frozen=True, slots=True)
class Stand:
    """See the module's docstring."""

    server: ServerProcess
    client: Namespace
    wifi: str
    """The client's interface that goes."""
    browser: Browser
    page: str

    def leave_the_wifi(self) -> None:
        self.client.ip("link", "set", self.wifi, "down")

    def come_back(self) -> None:
        self.client.ip("link", "set", self.wifi, "up")
        self.client.ip("route", "replace", SERVER, "via", "10.99.0.1", "metric", "10")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    require_namespaces()
    if not shutil.which("chromium"):
        pytest.skip("not installed: chromium")
    microphone = tmp_path_factory.mktemp("switch") / "question.wav"
    write_microphone(microphone, [SPEECH / "f0_rms.wav"], LEAD_SECONDS, 60.0)
    page = f"http://{SERVER}:{PAGE_PORT}"
    flags = [flag for flag in FLAGS if not flag.startswith("--host-resolver-rules")]
    flags.append(f"--unsafely-treat-insecure-origin-as-secure={page}")
    with network() as net:
        at_server, client = net.machine("server"), net.machine("client")
        wifi, _ = net.link(client, "10.99.0.2/24", at_server, "10.99.0.1/24")
        net.link(client, "10.97.0.2/24", at_server, "10.97.0.1/24")
        at_server.ip("addr", "add", f"{SERVER}/32", "dev", "lo")
        client.ip("route", "add", SERVER, "via", "10.99.0.1", "metric", "10")
        client.ip("route", "add", SERVER, "via", "10.97.0.1", "metric", "20")
        with at_server.entered(), server_process("cascade", {"webrtc.host_addresses": [SERVER]}) as server:
            port = int(server.url.rpartition(":")[2])
            with (
                forwarded((SERVER, PAGE_PORT), ("127.0.0.1", port)),
                client.entered(),
                chromium(microphone, flags=flags) as browser,
            ):
                yield Stand(server, client, wifi, browser, page)


@pytest.fixture(autouse=True)
def no_leaked_threads(no_leaked_processes_and_sockets: None, stand: Stand, no_leaked_threads: None) -> None:
    """The check of every test, begun after the stand, whose threads live as long as it does."""


def test_the_rest_of_the_reply_is_heard_over_the_other_network(stand: Stand) -> None:
    context = stand.browser.new_context()
    try:
        page = context.new_page()
        allow_microphone(page, stand.page)
        caller = Caller(page, stand.page)
        caller.opens_the_page()
        caller.says_nothing()
        caller.calls()
        caller.types(LONG_QUESTION)
        caller.hears_sound()
        stand.leave_the_wifi()
        left = time.monotonic()
        caller.hears_silence()
        caller.hears_sound()
        seconds = time.monotonic() - left
        print(f"the reply went on {seconds:.1f} s after the network was gone")
        assert seconds < LIMIT_SECONDS
        expect(caller.said()).to_have_text([LONG_QUESTION], timeout=REPLY_MS)
        expect(caller.replies()).to_have_count(1)
        stand.come_back()
        caller.hangs_up()
    finally:
        context.close()
