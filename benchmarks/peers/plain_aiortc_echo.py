"""The echo server that people write with stock aiortc: decode, resample to 16 kHz, webrtcvad, and send the frame back.

python benchmarks/peers/plain_aiortc_echo.py --port 9000        POST /offer {"sdp", "type"}
"""

from __future__ import annotations

import argparse

import aioice.ice
import webrtcvad
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame, AudioResampler

FRAME_SAMPLES = 320  # 20 ms at 16 kHz

# aioice leaves loopback out, and a benchmark sends to nowhere else.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


class EchoTrack(MediaStreamTrack):
    """What the caller said, as 16 kHz mono frames."""

    kind = "audio"

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self._source = source
        self._resampler = AudioResampler(format="s16", layout="mono", rate=16_000)
        self._vad = webrtcvad.Vad(2)
        self.voiced_frames = 0

    async def recv(self) -> AudioFrame:
        """The next frame, voice detection done."""
        frame = await self._source.recv()
        assert isinstance(frame, AudioFrame)
        converted = self._resampler.resample(frame)
        for piece in converted:
            if piece.samples == FRAME_SAMPLES:
                self.voiced_frames += self._vad.is_speech(bytes(piece.planes[0])[: 2 * piece.samples], 16_000)
        return converted[0] if converted else frame


async def healthz(request: web.Request) -> web.Response:
    """It listens."""
    return web.Response(text="ok")


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9000)
    port = parser.parse_args().port
    peers: set[RTCPeerConnection] = set()

    async def offer(request: web.Request) -> web.Response:
        body = await request.json()
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peers.add(pc)

        @pc.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            pc.addTrack(EchoTrack(track))

        @pc.on("connectionstatechange")
        async def on_state() -> None:
            if pc.connectionState in ("failed", "closed"):
                peers.discard(pc)
                await pc.close()

        await pc.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
        await pc.setLocalDescription(await pc.createAnswer())
        return web.json_response({"sdp": pc.localDescription.sdp, "type": "answer"})

    app = web.Application()
    app.router.add_post("/offer", offer)
    app.router.add_get("/healthz", healthz)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
