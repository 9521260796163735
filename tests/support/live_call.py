"""A caller for tests: a real aiortc peer with a recording to say, its events at hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiortc import RTCConfiguration

from model.interface import Pcm16
from rtc_server.client.peer import RealtimePeer
from rtc_server.client.recording import load_recording
from rtc_server.client.track import SpeakingTrack

SPEECH = Path(__file__).resolve().parents[1] / "data" / "speech"


class LiveCall:
    """See the module's docstring; made by `live_call`."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        resume: str | None = None,
        configuration: RTCConfiguration | None = None,
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.num_frames = 0
        self.heard_at: list[float] = []
        self.ended: str | None = None
        self.track = SpeakingTrack()
        self._news = asyncio.Event()
        self.peer = RealtimePeer(
            url,
            self.track,
            on_event=self._on_event,
            on_audio=self._on_audio,
            on_end=self._on_end,
            api_key=api_key,
            resume=resume,
            configuration=configuration,
        )

    def say(self, name: str) -> None:
        """Say a recording of tests/data/speech."""
        self.track.say(load_recording(SPEECH / name))

    async def event(self, kind: str, count: int = 1, timeout_s: float = 20.0) -> dict[str, Any]:
        """The `count`-th event of a kind, waited for."""
        async with asyncio.timeout(timeout_s):
            while len(found := [event for event in self.events if event["type"] == kind]) < count:
                assert self.ended is None, self.ended
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    async def answered(self, name: str = "f0_rms.wav", timeout_s: float = 30.0) -> dict[str, Any]:
        """Say a recording and hear the reply to its end; its `response.done`, whatever became of it."""
        done = sum(event["type"] == "response.done" for event in self.events)
        stopped = sum(event["type"] == "output_audio_buffer.stopped" for event in self.events)
        self.say(name)
        event = await self.event("response.done", done + 1, timeout_s)
        if event["response"]["status"] == "completed":
            await self.event("output_audio_buffer.stopped", stopped + 1, timeout_s)
        return event

    async def is_alive(self) -> bool:
        """The call still carries sound and answers events."""
        frames, updates = self.num_frames, sum(e["type"] == "session.updated" for e in self.events)
        self.peer.send({"type": "session.update", "session": {"type": "realtime"}})
        await self.event("session.updated", updates + 1)
        await asyncio.sleep(0.1)
        return self.num_frames > frames and self.ended is None

    async def close(self) -> None:
        await self.peer.close()

    def _on_event(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._news.set()

    def _on_audio(self, pcm: Pcm16, position: int, at: float) -> None:
        self.num_frames += 1
        self.heard_at.append(at)

    def _on_end(self, message: str) -> None:
        self.ended = message
        self._news.set()


@asynccontextmanager
async def live_call(
    url: str, api_key: str | None = None, resume: str | None = None, configuration: RTCConfiguration | None = None
) -> AsyncIterator[LiveCall]:
    """A connected call that has got its `session.created`; hung up at the end."""
    call = LiveCall(url, api_key, resume, configuration)
    try:
        await call.peer.connect(15)
        await call.event("session.created")
        yield call
    finally:
        await call.close()
