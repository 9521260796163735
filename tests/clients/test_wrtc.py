"""libwebrtc outside a browser (@roamhq/wrtc): what it negotiates, hears, and keeps over an ICE restart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.npm_clients import NpmClients
from tests.support.server_process import ServerProcess, server_process


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings = {"server.echo_test": True, "turns.vad": "webrtcvad"}
    with server_process("echo", settings=settings) as running:
        yield running


def test_libwebrtc_hears_itself_and_survives_an_ice_restart(npm: NpmClients, server: ServerProcess) -> None:
    seen = npm.run_json("wrtc_echo.mjs", server.url)
    (line,) = {line for line in seen["lines"] if "usedtx" in line}
    assert "useinbandfec=1" in line
    assert seen["state"] == "connected"
    assert "failed" not in seen["states"]
    assert seen["newCredentials"]
    assert seen["ports"][0] == seen["ports"][1], "one port, before and after"
    assert seen["sameSource"]
    assert seen["received"] > 100
    server.wait_for_calls(0, 20.0)
    assert "Traceback" not in server.log
