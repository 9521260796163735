"""The echo server that people write with FastRTC: an `AsyncStreamHandler` at 16 kHz mono, webrtcvad, the frame back.

Runs with the packages of fastrtc.txt:  python benchmarks/peers/fastrtc_echo.py --port 9000    POST /offer {sdp, type}
"""
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"
# The packages live in an environment of their own, where mypy does not look.

from __future__ import annotations

import argparse
import asyncio
import os
import secrets

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # FastRTC builds a gradio page, which would report to its makers

import aioice.ice
import numpy as np
import uvicorn
import webrtcvad
from fastapi import FastAPI, HTTPException
from fastrtc import AsyncStreamHandler, Stream
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
FRAME_SAMPLES = SAMPLE_RATE // 50

# aioice leaves loopback out, and a benchmark sends to nowhere else.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]

Audio = tuple[int, NDArray[np.int16]]
"""Sample rate and int16 [1, samples]."""


class Echo(AsyncStreamHandler):
    """What the caller said, as 20 ms frames."""

    def __init__(self) -> None:
        super().__init__(
            "mono", input_sample_rate=SAMPLE_RATE, output_sample_rate=SAMPLE_RATE, output_frame_size=FRAME_SAMPLES
        )
        self._queue: asyncio.Queue[Audio] = asyncio.Queue()
        self._vad = webrtcvad.Vad(2)
        self.voiced_frames = 0

    async def receive(self, frame: Audio) -> None:
        """Voice detection, then into the queue."""
        pcm = np.ravel(frame[1]).astype(np.int16)
        for start in range(0, len(pcm) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
            self.voiced_frames += self._vad.is_speech(pcm[start : start + FRAME_SAMPLES].tobytes(), SAMPLE_RATE)
        self._queue.put_nowait(frame)

    async def emit(self) -> Audio:
        """The next frame to send."""
        return await self._queue.get()

    def copy(self) -> Echo:
        """FastRTC makes one handler per caller."""
        return Echo()

    async def start_up(self) -> None:
        """Nothing to prepare."""

    async def shutdown(self) -> None:
        """Nothing to release."""


class NoChannel:
    """FastRTC holds the audio back until a data channel is open; callers of the load test have none."""

    readyState = "open"

    def send(self, message: str) -> None:
        """Nobody reads it."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9000)
    port = parser.parse_args().port
    stream = Stream(
        Echo(),
        modality="audio",
        mode="send-receive",
        concurrency_limit=1_000,
        server_rtc_configuration={"iceServers": []},  # the default asks a public STUN server
    )
    app = FastAPI()

    @app.post("/offer")
    async def offer(body: dict[str, str]) -> dict[str, str]:
        call_id = secrets.token_hex(8)
        stream.data_channels[call_id] = NoChannel()
        answer = await stream.handle_offer({**body, "webrtc_id": call_id}, lambda outputs: None)
        if not isinstance(answer, dict):  # a JSONResponse with status 200 that says why not
            raise HTTPException(503, answer.body.decode())
        return answer

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    uvicorn.run(app, host="127.0.0.1", port=port, loop="asyncio", log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
