"""The echo server that people write with Pipecat: SmallWebRTC transport in, webrtcvad, the frame back, transport out.

Runs with the packages of pipecat.txt:  python benchmarks/peers/pipecat_echo.py --port 9000    POST /offer {sdp, type}
"""
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"
# The packages live in an environment of their own, where mypy does not look.

from __future__ import annotations

import argparse
import asyncio
import sys

import aioice.ice
import uvicorn
import webrtcvad
from fastapi import FastAPI
from loguru import logger
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.workers.runner import WorkerRunner

SAMPLE_RATE = 16_000
FRAME_BYTES = 2 * SAMPLE_RATE // 50

# aioice leaves loopback out, and a benchmark sends to nowhere else.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


class Echo(FrameProcessor):
    """What the caller said, as output frames."""

    def __init__(self) -> None:
        super().__init__()
        self._vad = webrtcvad.Vad(2)
        self.voiced_frames = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Audio comes back, voice detection done; what else passes goes on."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, InputAudioRawFrame):
            await self.push_frame(frame, direction)
            return
        if len(frame.audio) == FRAME_BYTES:
            self.voiced_frames += self._vad.is_speech(frame.audio, SAMPLE_RATE)
        await self.push_frame(OutputAudioRawFrame(audio=frame.audio, sample_rate=SAMPLE_RATE, num_channels=1))


async def run_call(connection: SmallWebRTCConnection) -> None:
    """One pipeline per caller, until the caller is gone."""
    transport = SmallWebRTCTransport(
        webrtc_connection=connection,
        params=TransportParams(
            audio_in_enabled=True,
            audio_in_passthrough=True,
            audio_in_sample_rate=SAMPLE_RATE,
            audio_out_enabled=True,
            audio_out_sample_rate=SAMPLE_RATE,
            audio_out_10ms_chunks=2,  # 20 ms per packet as everywhere; the default is 40
        ),
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE, audio_out_sample_rate=SAMPLE_RATE),
        idle_timeout_secs=None,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    @transport.event_handler("on_client_disconnected")
    async def on_disconnected(transport: object, client: object) -> None:
        await runner.cancel()

    await runner.run()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9000)
    port = parser.parse_args().port
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    app = FastAPI()
    calls: set[asyncio.Task[None]] = set()

    @app.post("/offer")
    async def offer(body: dict[str, str]) -> dict[str, str]:
        connection = SmallWebRTCConnection()  # without ICE servers: asks nobody
        await connection.initialize(body["sdp"], body["type"])
        call = asyncio.create_task(run_call(connection), name="call")
        calls.add(call)
        call.add_done_callback(calls.discard)
        await connection.connect()
        return dict(connection.get_answer())

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    uvicorn.run(app, host="127.0.0.1", port=port, loop="asyncio", log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
