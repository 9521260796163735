"""Answer telephone calls with OpenAI's Python client: take the webhook, accept, greet, write down what is said.

    pip install "openai[realtime]" aiohttp
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=your-key
    export OPENAI_WEBHOOK_SECRET=$(cat config/webhook-secret)
    python examples/answer_calls.py 5080

The server is started with sip.enabled = true, sip.webhook_url = "http://127.0.0.1:5080/" and the same secret in
sip.webhook_secret_file (`rtc-server sip secret config/webhook-secret` makes one). See docs/sip.md.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web
from openai import APIStatusError, AsyncOpenAI, InvalidWebhookSignatureError
from openai.types.webhooks.realtime_call_incoming_webhook_event import Data

client = AsyncOpenAI()
answering: set[asyncio.Task[None]] = set()


async def webhook(request: web.Request) -> web.Response:
    try:
        event = client.webhooks.unwrap(await request.read(), request.headers)
    except (InvalidWebhookSignatureError, ValueError):  # not from our server
        return web.Response(status=400)
    if event.type == "realtime.call.incoming":
        task = asyncio.create_task(answer(event.data))
        answering.add(task)
        task.add_done_callback(answering.discard)
    return web.Response()  # at once: somebody waits with a telephone at the ear


async def answer(call: Data) -> None:
    caller = next((header.value for header in call.sip_headers if header.name == "From"), "somebody")
    print(f"a call from {caller}", flush=True)
    try:
        await client.realtime.calls.accept(
            call.call_id, type="realtime", instructions="You answer the telephone. Be brief."
        )
    except APIStatusError as error:
        print(f"not answered: {error.message}", flush=True)  # such as 404: the caller gave up
        return
    async with client.realtime.connect(model="gpt-realtime", extra_query={"call_id": call.call_id}) as connection:
        await connection.response.create(response={"instructions": "Greet the caller and ask how you can help."})
        async for event in connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                print("caller:", event.transcript, flush=True)
            elif event.type == "response.output_audio_transcript.done":
                print("server:", event.transcript, flush=True)
            elif event.type == "input_audio_buffer.dtmf_event_received":
                print("key:   ", event.event, flush=True)
    print("the call is over", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: answer_calls.py PORT")
    app = web.Application()
    app.router.add_post("/", webhook)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
