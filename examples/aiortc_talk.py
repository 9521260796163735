"""Call the server over WebRTC without any client of ours or OpenAI's: plain aiortc and aiohttp.

    pip install aiortc aiohttp
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=your-key
    python examples/aiortc_talk.py examples/question.wav reply.wav

One POST with an SDP offer makes the call; sound goes over RTP, everything else over the data channel "oai-events".
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import aiohttp
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer, MediaRecorder


async def main(question: str, reply: str) -> None:
    peer = RTCPeerConnection()
    channel = peer.createDataChannel("oai-events")
    recorder = MediaRecorder(reply)
    is_over = asyncio.Event()

    @channel.on("message")
    def on_message(message: str) -> None:
        event = json.loads(message)
        match event["type"]:
            case "session.created":
                session = {"type": "realtime", "instructions": "Answer in one sentence."}
                channel.send(json.dumps({"type": "session.update", "session": session}))
            case "conversation.item.input_audio_transcription.completed":
                print("you:   ", event["transcript"])
            case "response.output_audio_transcript.done":
                print("server:", event["transcript"])
            case "output_audio_buffer.stopped":  # the last of the reply has been sent
                is_over.set()
            case "error":
                print(event["error"]["message"])

    @peer.on("track")
    def on_track(track: object) -> None:
        recorder.addTrack(track)

    player = MediaPlayer(question)
    peer.addTrack(player.audio)
    await peer.setLocalDescription(await peer.createOffer())
    base = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}/realtime/calls", data=peer.localDescription.sdp, headers=headers) as answer,
    ):
        if answer.status != 201:
            sys.exit(await answer.text())
        await peer.setRemoteDescription(RTCSessionDescription(await answer.text(), "answer"))
    await recorder.start()
    try:
        await asyncio.wait_for(is_over.wait(), 60)
    finally:
        await recorder.stop()
        await peer.close()
    print(f"saved as {reply}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: aiortc_talk.py QUESTION.wav REPLY.wav")
    asyncio.run(main(*sys.argv[1:]))
