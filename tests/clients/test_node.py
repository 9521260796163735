"""Clients from npm in Node: `openai` over a WebSocket, the Agents SDK over a WebSocket and over WebRTC."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.dialogue import (
    INSTRUCTIONS,
    KEY,
    MODEL,
    assert_conversation,
    assert_stopped_by_server,
    assert_tool_was_called,
    events_of,
)
from tests.support.npm_clients import NpmClients
from tests.support.server_process import ServerProcess


def settings(server: ServerProcess, recordings: dict[str, str], **more: Any) -> str:
    given = {"url": server.url, "key": KEY, "model": MODEL, "instructions": INSTRUCTIONS, **recordings, **more}
    return json.dumps(given)


def test_openai_over_a_websocket(npm: NpmClients, stock_server: ServerProcess, recordings: dict[str, str]) -> None:
    """It insists on wss, so it also shows that a client can be told about our certificate authority."""
    given = settings(stock_server, recordings, url=stock_server.https_url)
    report = npm.run_json("openai_ws.mjs", given, env={"NODE_EXTRA_CA_CERTS": str(stock_server.ca_path)})
    assert_conversation(report)
    assert report["secret"] == "ek_"
    for cut in report["interruptions"]:
        (confirmed,) = events_of(report, "conversation.item.truncated", item_id=cut["item_id"])
        assert confirmed["audio_end_ms"] == cut["played_ms"]


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
def test_the_agents_sdk(
    transport: str, npm: NpmClients, stock_server: ServerProcess, recordings: dict[str, str]
) -> None:
    report = npm.run_json("agents.mjs", settings(stock_server, recordings, transport=transport))
    assert_conversation(report)
    assert_tool_was_called(report)
    if transport == "webrtc":
        assert_stopped_by_server(report)
    else:
        assert report["interrupted"] >= 1
    roles = [item["role"] for item in report["history"] if item["type"] == "message"]
    assert roles.count("user") >= 3, "two spoken turns and the typed one"
