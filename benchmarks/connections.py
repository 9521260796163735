"""What a conversation costs over each kind of connection: WebSocket with base64, WebSocket with binary sound, WebRTC.

    python -m benchmarks.connections            ten calls of each kind, 30 s
    python -m benchmarks.connections --quick    two calls, 8 s: does it work?

All three run one after the other against one server that repeats what is said (backend echo), so that the cost is
the server's and not a model's: every call says a question, pauses, and gets it back. CPU time is that of the signaling
and the media process; bytes are what a client sends and receives, without the headers of TCP and UDP.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT, provenance
from benchmarks.support.server import BenchmarkError, RunningServer, serving
from rtc_server.audio.resample import StreamResampler
from rtc_server.client.errors import CallError
from rtc_server.client.peer import RealtimePeer
from rtc_server.client.recording import SAMPLE_RATE, Recording, load_recording
from rtc_server.client.track import SpeakingTrack

KINDS = ("websocket, base64", "websocket, binary", "webrtc")
QUESTION = ROOT / "tests/data/speech/f0_rms.wav"
SOCKET_RATE = 24_000
FRAME_SECONDS = 0.02
PAUSE_SECONDS = 2.5  # the turn ends and its echo plays
SETTLE_SECONDS = 1.0
SETTINGS: dict[str, object] = {
    "server.max_calls": 200,
    "limits.calls_per_address": 200,
    "limits.burst": 1_000,
    "limits.address_burst": 1_000,
}


@dataclass(slots=True)
class Counts:
    """What all clients of one kind saw."""

    bytes_sent: int = 0
    bytes_received: int = 0
    replies: int = 0


async def talk_by_socket(url: str, recording: Recording, is_binary: bool, until: float, counts: Counts) -> None:
    """One call over a WebSocket, 20 ms of sound per message, in real time."""
    loop = asyncio.get_running_loop()
    resampler = StreamResampler(SAMPLE_RATE, SOCKET_RATE)
    said = np.concatenate([resampler.resample(recording.pcm), np.zeros(int(SOCKET_RATE * PAUSE_SECONDS), np.int16)])
    frame = int(SOCKET_RATE * FRAME_SECONDS)
    query = "?audio=binary" if is_binary else ""
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/v1/realtime{query}", max_msg_size=0) as socket:
        reader = asyncio.create_task(_read(socket, counts))
        due, at = loop.time(), 0
        while loop.time() < until:
            piece = said[at : at + frame].astype("<i2").tobytes()
            at = at + frame if at + 2 * frame <= len(said) else 0
            if is_binary:
                await socket.send_bytes(piece)
                counts.bytes_sent += len(piece)
            else:
                text = json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()})
                await socket.send_str(text)
                counts.bytes_sent += len(text)
            due += FRAME_SECONDS
            await asyncio.sleep(max(0.0, due - loop.time()))
        await socket.close()
        await reader


async def _read(socket: aiohttp.ClientWebSocketResponse, counts: Counts) -> None:
    async for message in socket:
        counts.bytes_received += len(message.data)
        if message.type is aiohttp.WSMsgType.TEXT and '"response.done"' in message.data[:60]:
            counts.replies += 1


async def talk_by_webrtc(url: str, recording: Recording, until: float, counts: Counts) -> None:
    """One call over WebRTC."""
    loop = asyncio.get_running_loop()
    track = SpeakingTrack()

    def on_event(event: dict[str, object]) -> None:
        counts.replies += event["type"] == "response.done"

    def ignore(*arguments: object) -> None:
        """Sound and the end of the call: nothing to count."""

    peer = RealtimePeer(url, track, on_event=on_event, on_audio=ignore, on_end=ignore)
    async with peer:
        await peer.connect(20.0)
        while loop.time() < until:
            await track.say(recording).finished
            await asyncio.sleep(PAUSE_SECONDS)
        for entry in (await peer.pc.getStats()).values():
            if entry.type == "outbound-rtp":
                counts.bytes_sent += entry.bytesSent
            elif entry.type == "transport":
                counts.bytes_received += entry.bytesReceived


def cpu_seconds(server: RunningServer) -> float:
    """CPU time that the signaling and the media processes have used so far."""
    assert server.process is not None
    pids = {server.process.pid, *server.media_pids()}
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


async def measure(server: RunningServer, kind: str, calls: int, seconds: float) -> dict[str, object]:
    """`calls` conversations of one kind for `seconds`."""
    recording, counts = load_recording(QUESTION), Counts()
    loop = asyncio.get_running_loop()
    before, started = cpu_seconds(server), loop.time()
    until = started + seconds
    if kind == "webrtc":
        talks = [talk_by_webrtc(server.url, recording, until, counts) for _ in range(calls)]
    else:
        talks = [talk_by_socket(server.url, recording, kind.endswith("binary"), until, counts) for _ in range(calls)]
    await asyncio.gather(*talks)
    elapsed = loop.time() - started
    await asyncio.sleep(SETTLE_SECONDS)
    call_seconds = calls * elapsed
    return {
        "kind": kind,
        "calls": calls,
        "seconds": round(elapsed, 1),
        "replies": counts.replies,
        "cpu_ms_per_call_second": round(1e3 * (cpu_seconds(server) - before) / call_seconds, 2),
        "kbit_per_second_sent": round(8e-3 * counts.bytes_sent / call_seconds, 1),
        "kbit_per_second_received": round(8e-3 * counts.bytes_received / call_seconds, 1),
    }


def results_table(results: Sequence[dict[str, object]]) -> Table:
    """For people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in results[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "kind" else "right")
    for result in results:
        table.add_row(*(f"{value}" for value in result.values()))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report. Returns 0, 1 when a call got no reply, 2 after an error."""
    options = _parser().parse_args(arguments)
    calls, seconds = (2, 8.0) if options.quick else (options.calls, options.seconds)
    console, origin = Console(), provenance()
    try:
        with serving("echo", SETTINGS) as server:
            results = [asyncio.run(measure(server, kind, calls, seconds)) for kind in KINDS]
    except (BenchmarkError, CallError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    console.print(results_table(results))
    if options.json:
        text = json.dumps({"benchmark": "connections", **origin, "results": results}, indent=1)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if all(result["replies"] for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.connections",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--calls", type=int, default=10, help="calls at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long they talk (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
    parser.add_argument("--quick", action="store_true", help="two calls, 8 seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
