"""Clients of other people in Chromium, unmodified: the Agents SDK, two WHIP clients, Pipecat's."""

from __future__ import annotations

import pytest
from openai import OpenAI

from tests.clients.browser.conftest import RunClient
from tests.clients.browser.playback import (
    assert_nothing_after_cleared,
    assert_truncated_where_it_stopped,
)
from tests.clients.dialogue import (
    INSTRUCTIONS,
    KEY,
    MODEL,
    Report,
    assert_conversation,
    assert_conversation_by_sound,
    assert_stopped_by_server,
    assert_tool_was_called,
)
from tests.support.server_process import ServerProcess


@pytest.fixture
def secret(stock_server: ServerProcess) -> str:
    """An ephemeral key, as a page gets it from its own back end. It brings the session's instructions along."""
    with OpenAI(base_url=f"{stock_server.url}/v1", api_key=KEY) as client:
        session = {"type": "realtime", "model": MODEL, "instructions": INSTRUCTIONS}
        return client.realtime.client_secrets.create(session=session).value


def test_the_agents_sdk_and_what_it_really_plays(
    run_client: RunClient, stock_server: ServerProcess, secret: str
) -> None:
    """Two turns with an interruption, the client's own "stop", a tool; and events and sound agree about all of it."""
    report = run_client("browser_agents.mjs", url=stock_server.url, key=secret, model=MODEL, instructions=INSTRUCTIONS)
    assert_conversation(report)
    assert_stopped_by_server(report)
    assert_tool_was_called(report)
    assert report["callId"].startswith("rtc_"), "Location is exposed to pages of other origins"
    # The user's voice has paused the reply before it is cleared; the client's "stop" is heard as a short fade.
    assert_nothing_after_cleared(report, report["first"])
    assert_nothing_after_cleared(report, report["stopped"])
    for response_id in (report["first"], report["stopped"]):
        assert_truncated_where_it_stopped(report, response_id)


@pytest.mark.parametrize("hears", ["whip", "whep"])
def test_whip_whep(hears: str, run_client: RunClient, stock_server: ServerProcess, secret: str) -> None:
    """Medooze's client: the offer comes without candidates, they trickle; hears over the same connection or WHEP."""
    report = run_client("browser_whip_whep.mjs", key=secret, restarts=hears == "whip", **endpoints(stock_server, hears))
    assert_conversation_by_sound(report)
    if hears == "whip":
        before, after = report["restart"]["before"], report["restart"]["after"]
        assert before[0] != after[0], "the restart gathered anew"


def test_eyevinn_whip_web_client(run_client: RunClient, stock_server: ServerProcess, secret: str) -> None:
    assert_conversation_by_sound(run_client("browser_eyevinn.mjs", key=secret, **endpoints(stock_server, "whep")))


def endpoints(server: ServerProcess, hears: str) -> dict[str, str]:
    """Where to speak and, if that is somewhere else, where to hear."""
    found = {"whip": f"{server.url}/whip"}
    if hears == "whep":
        found["whep"] = f"{server.url}/whep?call={{call_id}}"
    return found


@pytest.mark.parametrize("start", [False, True], ids=["offer", "start"])
def test_pipecat_small_webrtc_transport(start: bool, run_client: RunClient, stock_server: ServerProcess) -> None:
    """Either it is given the address of the offer, or it asks `/start` for a session first."""
    report = run_client("browser_pipecat.mjs", url=stock_server.url, key=KEY, start=start)
    assert_conversation_by_sound(report)
    told = report["messages"]
    assert told[0] == ["bot-ready", told[0][1]]
    assert int(told[0][1].split(".")[0]) >= 2, "the protocol that the client speaks"
    assert len(texts(report, "user-transcription")) >= 2
    for kind in ("bot-llm-text", "bot-tts-text"):
        assert texts(report, kind), kind
    kinds = {kind for kind, _ in told}
    assert {"user-started-speaking", "user-stopped-speaking", "bot-started-speaking", "bot-stopped-speaking"} <= kinds


def texts(report: Report, kind: str) -> list[str]:
    """What messages of one type said."""
    return [text for told, text in report["messages"] if told == kind and text.strip()]
