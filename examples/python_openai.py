"""Say a WAV file to the server and save what it answers, with OpenAI's Python client.

    pip install "openai[realtime]"
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=your-key
    python examples/python_openai.py examples/question.wav reply.wav

The two variables are the client's own: the same program talks to OpenAI without the first of them. A server without
keys takes any. Recordings are 24 kHz, mono, 16-bit: ffmpeg -i any.mp3 -ar 24000 -ac 1 -c:a pcm_s16le question.wav
"""

from __future__ import annotations

import asyncio
import base64
import sys
import wave

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

RATE = 24_000
CHUNK_SECONDS = 0.1


async def main(question: str, reply: str) -> None:
    with wave.open(question) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            sys.exit(f"{question} is not 24 kHz, mono, 16-bit; see the top of this file")
        voice = file.readframes(file.getnframes())

    async with AsyncOpenAI() as client, client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", "instructions": "Answer in one sentence."})
        speaking = asyncio.create_task(speak(connection, voice))
        sound = bytearray()
        async for event in connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                print("you:   ", event.transcript)
            elif event.type == "response.output_audio.delta":
                sound += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.done":
                print("server:", event.transcript)
            elif event.type == "error":
                sys.exit(event.error.message)
            elif event.type == "response.done":
                break
        speaking.cancel()

    with wave.open(reply, "wb") as file:
        file.setframerate(RATE)
        file.setnchannels(1)
        file.setsampwidth(2)
        file.writeframes(sound)
    print(f"saved {len(sound) / 2 / RATE:.1f} s as {reply}")


async def speak(connection: AsyncRealtimeConnection, voice: bytes) -> None:
    """At the pace of a microphone, and then silence: from that the server knows that the question is over."""
    size = int(RATE * CHUNK_SECONDS) * 2
    position = 0
    while True:
        chunk = voice[position : position + size].ljust(size, b"\0")
        position += size
        await connection.input_audio_buffer.append(audio=base64.b64encode(chunk).decode())
        await asyncio.sleep(CHUNK_SECONDS)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python_openai.py QUESTION.wav REPLY.wav")
    asyncio.run(main(*sys.argv[1:]))
