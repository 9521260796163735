"""One client process of the churn: calls arrive, talk, interrupt, hang up or vanish until the time is over.

    python -m benchmarks.support.churn_worker URL SECONDS CALLS_PER_SECOND MOST SEED WAV...

Ends with one line of JSON on standard output.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
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
INTERRUPT_AFTER_PACKETS = 25  # of the reply's voice (20 ms each) are heard before somebody talks over it
LATE_ENDPOINT_SECONDS = 1.5  # after this much silence no other reply to the same words will come
MORE_TURNS = 0.5  # probability of another turn after each: two turns per call on average, five at most
MOST_TURNS = 5
INTERRUPTED = 0.3  # share of turns whose reply is talked over
VANISHED = 0.3  # share of calls that end without a word: a phone without network
MIN_VOICED_PACKETS = 10  # of a reply that counts as heard


@dataclass(slots=True)
class Outcome:
    """What the calls of this process saw, pooled."""

    calls: int = 0
    turns: int = 0
    lost_turns: int = 0
    interruptions: int = 0
    vanished: int = 0
    refused: int = 0
    """Calls that got no line: the server was full, or this process had as many as it may."""
    reply_ms: list[float] = field(default_factory=list)
    """End of the question sent -> the server's word that the reply begins."""
    errors: Counter[str] = field(default_factory=Counter)
    """What ended calls that should have gone on, by message."""
    losses: Counter[str] = field(default_factory=Counter)
    """Why turns count as lost."""


class ChurnCall:
    """One call, from its set-up to its end, of its own choosing."""

    def __init__(
        self, url: str, questions: Sequence[list[bytes]], silence: bytes, choose: random.Random, outcome: Outcome
    ) -> None:
        self._questions, self._choose, self._outcome = questions, choose, outcome
        self._loop = asyncio.get_running_loop()
        self._log = TranscriptLog()
        self._changed = asyncio.Event()
        self._ended: str | None = None
        self._track = EncodedTrack(silence)
        self._peer = RealtimePeer(
            url, self._track, on_event=self._on_event, on_audio=lambda pcm, position, at: None, on_end=self._on_end
        )
        self._counter: PacketCounter | None = None
        self._last = -1

    async def run(self) -> None:
        """Never raises for what goes wrong in the call itself: it is counted."""
        try:
            self._counter = PacketCounter(self._peer.pc.getReceivers()[0])
            await self._peer.connect(CONNECT_TIMEOUT_SECONDS)
            self._outcome.calls += 1
            turns = 1
            while turns < MOST_TURNS and self._choose.random() < MORE_TURNS:
                turns += 1
            for _ in range(turns):
                await self._turn()
        except CallError as error:
            if "takes no call now" in error.message:
                self._outcome.refused += 1
            else:
                self._outcome.errors[error.message] += 1
        finally:
            if self._choose.random() < VANISHED and self._peer.call_id is not None:
                self._outcome.vanished += 1
                await vanish(self._peer)
            else:
                await self._peer.close()

    async def _turn(self) -> None:
        is_cut = self._choose.random() < INTERRUPTED
        if await self._ask(until_heard=is_cut) and is_cut:
            self._outcome.interruptions += 1
            await self._ask(until_heard=False)
        await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, *, until_heard: bool) -> bool:
        """Say something and wait for the reply: until it is over, or until enough of it was heard to talk over it.

        False when it is lost."""
        assert self._counter is not None
        # Never twice the same in a row: a reply of the backend echo under its own words sounds like an echo.
        self._last = self._choose.choice([n for n in range(len(self._questions)) if n != self._last])
        question = self._questions[self._last]
        turn = self._log.open_turn(self._loop.time())
        voiced_before = self._counter.voiced
        self._outcome.turns += 1
        try:
            async with asyncio.timeout(len(question) * 0.02 + REPLY_TIMEOUT_SECONDS):
                said_at = await self._track.say(question)
                while True:
                    if self._ended is not None:
                        raise CallError(self._ended)
                    reply, heard = turn.reply, self._counter.voiced - voiced_before
                    if reply is not None and reply.started_at is not None and not self._log.is_user_speaking:
                        # A reply to the first half of what was said is followed by another one.
                        is_last = reply.created_at >= said_at or self._loop.time() > said_at + LATE_ENDPOINT_SECONDS
                        if is_last and (reply.is_over or (until_heard and heard >= INTERRUPT_AFTER_PACKETS)):
                            break
                    self._changed.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.1):  # the counter tells nobody
                            await self._changed.wait()
        except TimeoutError:
            self._lose("no reply in time")
            return False
        if reply.status == "failed" or heard < MIN_VOICED_PACKETS:
            self._lose(reply.error or reply.status)
            return False
        self._outcome.reply_ms.append((reply.started_at - said_at) * 1e3)
        return True

    def _lose(self, reason: str) -> None:
        self._outcome.lost_turns += 1
        self._outcome.losses[reason] += 1

    def _on_event(self, event: Event) -> None:
        self._log.receive(event, self._loop.time())
        self._changed.set()

    def _on_end(self, message: str) -> None:
        self._ended = message
        self._changed.set()


async def vanish(peer: RealtimePeer) -> None:
    """Leave as a phone does that loses its network: from now on not one packet, and no HTTP request."""
    transport = peer.pc.getTransceivers()[0].sender.transport
    # Names of aiortc's and aioice's own (pinned): nothing public closes the sockets alone.
    with suppress(ConnectionError):
        await transport.transport._connection.close()
    peer.forget()
    await peer.close()


async def churn(
    url: str, seconds: float, rate: float, most: int, seed: int, recordings: Sequence[Recording]
) -> dict[str, Any]:
    """Let calls arrive at `rate` per second (Poisson), at most `most` at once, and wait for the last to end."""
    choose = random.Random(seed)
    questions = [encode_opus(recording) for recording in recordings]
    silence = encode_opus(Recording("silence", np.zeros(SAMPLE_RATE, np.int16), 0, 0))[-5]
    outcome = Outcome()
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    running: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as tasks:
        while True:
            wait = choose.expovariate(rate)
            if loop.time() + wait >= until:
                break
            await asyncio.sleep(wait)
            if len(running) >= most:
                outcome.refused += 1
                continue
            call = ChurnCall(url, questions, silence, random.Random(choose.random()), outcome)
            task = tasks.create_task(call.run(), name="churn-call")
            running.add(task)
            task.add_done_callback(running.discard)
    names = ("calls", "turns", "lost_turns", "interruptions", "vanished", "refused", "reply_ms")
    return {
        **{name: getattr(outcome, name) for name in names},
        "errors": dict(outcome.errors),
        "losses": dict(outcome.losses),
    }


def main() -> int:
    url, seconds, rate, most, seed, *files = sys.argv[1:]
    recordings = [load_recording(Path(file)) for file in files]
    result = asyncio.run(churn(url, float(seconds), float(rate), int(most), int(seed), recordings))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
