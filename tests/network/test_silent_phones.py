"""A phone that sends nothing is not taken for dead, and one whose app stands still comes back: libwebrtc, in real time.

The server is in the test's process, with its limit for ICE consent shortened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rtc_server.client.recording import SAMPLE_RATE, load_recording, save_replies
from rtc_server.network import connection
from tests.support.npm_clients import NpmClients
from tests.support.phone import Phone, phone, phone_files
from tests.support.running_server import running_server

SPEECH = Path(__file__).resolve().parents[1] / "data" / "speech" / "f0_slt.wav"
LOST_SECONDS = 1.2
"""In place of 8.5; an app that stands still for longer loses its call."""

SILENT_SECONDS = 1.8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> NpmClients:
    clients = phone_files(tmp_path_factory.mktemp("silent"))
    pcm = load_recording(SPEECH).pcm
    save_replies(clients.folder / "said.wav", [pcm[: SAMPLE_RATE * 6 // 5]], SAMPLE_RATE)
    return clients


@pytest.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(connection, "CONSENT_INTERVAL_SECONDS", 0.3)
    monkeypatch.setattr(connection, "CONSENT_WORRY_SECONDS", 0.6)
    monkeypatch.setattr(connection, "CONSENT_WORRIED_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(connection, "CONSENT_LOST_SECONDS", LOST_SECONDS)
    async with running_server() as address:
        yield address


async def packets_sent(caller: Phone, seconds: float) -> int:
    """How many it sends in that time."""
    before = (await caller.later("report"))["packets"]["sent"]
    await asyncio.sleep(seconds)
    sent: int = (await caller.later("report"))["packets"]["sent"]
    return sent - before


async def test_mute_discontinuous_sending_and_no_packets_at_all(files: NpmClients, url: str) -> None:
    with phone(files, url) as caller:
        await caller.later("start")
        call = (await caller.later("report"))["url"]
        await caller.later("mute", on=True)
        muted = await packets_sent(caller, SILENT_SECONDS)
        assert 1 <= muted < 15 * SILENT_SECONDS, "a packet in 400 ms, and not in 20"
        await caller.later("detach")
        assert await packets_sent(caller, SILENT_SECONDS) <= 1
        await caller.later("attach")
        await caller.later("mute", on=False)
        # The voice stops in the middle of a word, with all packets: the turn ends all the same.
        await caller.later("say", path=str(files.folder / "said.wav"))
        await caller.later("detach")
        await caller.later("event", type="output_audio_buffer.stopped", count=1)
        report = await caller.later("report")
        assert report["heardMs"] > 300
        assert (report["url"], report["states"]) == (call, ["connecting", "live"])
        await caller.later("hangUp")


async def test_an_app_that_stands_still_keeps_its_call_for_a_while_and_then_its_session(
    files: NpmClients, url: str
) -> None:
    with phone(files, url) as caller:
        await caller.later("start")
        await asyncio.to_thread(caller.write, "Remember 42.")
        await caller.later("event", type="response.done", count=1)
        before = await caller.later("report")
        caller.suspend()
        await asyncio.sleep(LOST_SECONDS / 2)
        caller.wake()
        await asyncio.to_thread(caller.write, "And now?")
        await caller.later("event", type="response.done", count=2)
        assert (await caller.later("report"))["url"] == before["url"]
        await caller.later("forget")
        caller.suspend()
        await asyncio.sleep(LOST_SECONDS + 1.0)
        caller.wake()
        contents = [item["content"][0] for item in (await caller.later("items"))["items"]]
        assert [content.get("text") or content["transcript"] for content in contents] == ["Remember 42."] * 2 + [
            "And now?"
        ] * 2
        await caller.later("until", state="live")
        after = await caller.later("report")
        assert after["url"] != before["url"]
        assert after["token"] == before["token"]
        assert after["states"][-2:] == ["lost", "live"]
        await caller.later("say", path=str(files.folder / "said.wav"))
        await caller.later("sound")
        await caller.later("hangUp")
