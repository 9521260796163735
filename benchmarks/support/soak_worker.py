"""One client process of the soak: a few calls at once, each saying recordings until the time is over.

    python -m benchmarks.support.soak_worker URL CALLS SECONDS OFFSET WAV...

Ends with one line of JSON on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.light_peer import EncodedTrack, PacketCounter, encode_opus
from rtc_server.client.errors import CallError
from rtc_server.client.peer import Event, RealtimePeer
from rtc_server.client.recording import SAMPLE_RATE, Recording, load_recording
from rtc_server.client.transcript import TranscriptLog

CONNECT_TIMEOUT_SECONDS = 20.0
REPLY_TIMEOUT_SECONDS = 15.0
PAUSE_SECONDS = 0.3  # between the end of a reply and the next question
RAMP_SECONDS = 0.15  # between the set-ups of two calls
MIN_VOICED_SHARE = 0.5  # of the packets said, as voiced packets heard: a reply of silence is no reply


@dataclass(slots=True)
class CallResult:
    """What one call saw."""

    turns: int = 0
    lost_turns: int = 0
    errors: list[str] = field(default_factory=list)
    reply_ms: list[float] = field(default_factory=list)
    """End of the question sent -> the server's word that the reply begins, per turn."""
    gaps_ms: list[float] = field(default_factory=list)
    lateness_ms: list[float] = field(default_factory=list)
    own_lateness_ms: list[float] = field(default_factory=list)
    packets: int = 0
    packets_lost: int = 0


class SoakCall:
    """One call that talks until `until` (event loop time)."""

    def __init__(self, url: str, questions: Sequence[list[bytes]], silence: bytes, first: int) -> None:
        self.result = CallResult()
        self._questions = questions
        self._next = first
        self._loop = asyncio.get_running_loop()
        self._log = TranscriptLog()
        self._changed = asyncio.Event()
        self._ended: str | None = None
        self._track = EncodedTrack(silence)
        self._peer = RealtimePeer(
            url, self._track, on_event=self._on_event, on_audio=lambda pcm, position, at: None, on_end=self._on_end
        )
        self._counter: PacketCounter | None = None

    async def run(self, delay: float, seconds: float) -> CallResult:
        """Talk for `seconds`, `delay` seconds from now on; never raises for what goes wrong in the call itself."""
        try:
            await asyncio.sleep(delay)
            self._counter = PacketCounter(self._peer.pc.getReceivers()[0])
            await self._peer.connect(CONNECT_TIMEOUT_SECONDS)
            until = self._loop.time() + seconds
            while self._loop.time() < until:
                await self._turn()
        except CallError as error:
            self.result.errors.append(error.message)
        finally:
            await self._peer.close()
        self._collect()
        return self.result

    async def _turn(self) -> None:
        assert self._counter is not None
        question = self._questions[self._next % len(self._questions)]
        self._next += 1
        turn = self._log.open_turn(self._loop.time())
        voiced_before = self._counter.voiced
        self.result.turns += 1
        try:
            async with asyncio.timeout(len(question) * 0.02 + REPLY_TIMEOUT_SECONDS):
                said_at = await self._track.say(question)
                while turn.reply is None or not turn.reply.is_over or self._log.is_user_speaking:
                    if self._ended is not None:
                        raise CallError(self._ended)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self.result.lost_turns += 1
            return
        await asyncio.sleep(PAUSE_SECONDS)
        heard = self._counter.voiced - voiced_before
        reply = turn.reply
        assert reply is not None
        if reply.status != "completed" or reply.started_at is None or heard < len(question) * MIN_VOICED_SHARE:
            self.result.lost_turns += 1
        else:
            self.result.reply_ms.append((reply.started_at - said_at) * 1e3)

    def _on_event(self, event: Event) -> None:
        self._log.receive(event, self._loop.time())
        self._changed.set()

    def _on_end(self, message: str) -> None:
        self._ended = message
        self._changed.set()

    def _collect(self) -> None:
        counter = self._counter
        self.result.own_lateness_ms = self._track.lateness_ms
        if counter is not None:
            self.result.gaps_ms = counter.gaps_ms
            self.result.lateness_ms = counter.lateness_ms
            self.result.packets = counter.received
            self.result.packets_lost = counter.lost


async def soak(url: str, calls: int, seconds: float, offset: int, recordings: Sequence[Recording]) -> dict[str, Any]:
    """Hold the calls and pool what they saw."""
    questions = [encode_opus(recording) for recording in recordings]
    silence = encode_opus(Recording("silence", np.zeros(SAMPLE_RATE, np.int16), 0, 0))[-5]
    peers = [SoakCall(url, questions, silence, offset + number) for number in range(calls)]
    results = await asyncio.gather(*(peer.run(number * RAMP_SECONDS, seconds) for number, peer in enumerate(peers)))
    pooled: dict[str, Any] = {"calls": calls}
    for name in ("turns", "lost_turns", "packets", "packets_lost"):
        pooled[name] = sum(getattr(result, name) for result in results)
    for name in ("errors", "reply_ms", "gaps_ms", "lateness_ms", "own_lateness_ms"):
        pooled[name] = [value for result in results for value in getattr(result, name)]
    return pooled


def main() -> int:
    url, calls, seconds, offset, *files = sys.argv[1:]
    recordings = [load_recording(Path(file)) for file in files]
    print(json.dumps(asyncio.run(soak(url, int(calls), float(seconds), int(offset), recordings))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
