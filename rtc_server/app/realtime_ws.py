"""`GET /v1/realtime`: the Realtime API over a WebSocket, as a call of its own or beside a running one (sideband).

The WebSocket ends here, in signaling; the call lives on a media node. Everything that can be refused is refused with an
HTTP error before the upgrade. One task reads and one writes: a client that sends faster than its call listens is not
read for a while; what a client has read is acknowledged to the call, which ends when too much is not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import WSMsgType, web

from rtc_server.calls.sessions import CallOptions, EventDialect, starting_session
from rtc_server.errors import (
    InvalidParameterError,
    NotReadyError,
    ProtocolError,
    UpgradeRequiredError,
)
from rtc_server.media.node import Channel, ChannelRequest
from rtc_server.scheduling import thread_placement

from .client_messages import BLOCKS_LOOP, MAX_MESSAGE, pieces
from .context import CONTEXT, AppContext
from .offers import resumable
from .principal import PRINCIPAL
from .traces import call_trace

# All it ever says is which subprotocols were offered when none fits, and an API key may be among them.
logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)

routes = web.RouteTableDef()

PROTOCOL = "realtime"
BETA_PROTOCOL = "openai-beta.realtime-v1"
HEARTBEAT_SECONDS = 20.0  # a client that is gone without a word is noticed after 30 s: its pong has 10 more
SEND_BUFFER = 1 << 18  # bytes in the kernel: what waits there counts as read, so it must not grow to megabytes
CLOSE_SECONDS = 2.0  # for the last messages and the client's side of closing; a server that stops waits no longer
PARSER_POOL: web.AppKey[ThreadPoolExecutor] = web.AppKey("parser_pool", ThreadPoolExecutor)


async def parser_pool(app: web.Application) -> AsyncIterator[None]:
    """A cleanup context: the thread that reads messages which would hold up the event loop. One: they are rare."""
    place = thread_placement(app[CONTEXT].settings.system.executor_cpu_affinity)
    with ThreadPoolExecutor(1, thread_name_prefix="client-messages", initializer=place) as pool:
        app[PARSER_POOL] = pool
        yield


@routes.get("/v1/realtime")
async def realtime(request: web.Request) -> web.StreamResponse:
    """Upgrade to a WebSocket. Query: `model`, `intent=transcription`, `call_id` for a sideband, `audio=binary`."""
    websocket = web.WebSocketResponse(
        protocols=(PROTOCOL,),
        heartbeat=HEARTBEAT_SECONDS,
        timeout=CLOSE_SECONDS,
        max_msg_size=MAX_MESSAGE,
        compress=False,  # sound does not get smaller, and inflating costs more than it saves
    )
    if not websocket.can_prepare(request):
        raise UpgradeRequiredError("This address speaks WebSocket: send 'Upgrade: websocket'.")
    channel_request = _channel_request(request)
    client = _Client(request, websocket, is_sideband=channel_request.call_id is not None)
    router, caller = request.app[CONTEXT].router, request[PRINCIPAL].caller
    if channel_request.call_id is not None:
        channel = await router.open_channel(channel_request, client, caller)
    else:
        async with resumable(request, channel_request.options) as starting:
            channel = await router.open_channel(replace(channel_request, options=starting.options), client, caller)
            starting.started(channel.call_id)
        websocket.headers.update(starting.headers)
    # As in the answer to an offer: the call can be hung up, or joined by a sideband.
    websocket.headers["Location"] = f"/v1/realtime/calls/{channel.call_id}"
    try:
        await websocket.prepare(request)
        await client.serve(channel)
    except ConnectionError:
        if not websocket.prepared:  # gone during the upgrade, so nobody reads this
            return web.Response(status=400)
    finally:
        channel.close(is_lost=True)  # whatever happened: the call does not outlive its client
    return websocket


def _channel_request(request: web.Request) -> ChannelRequest:
    query = request.query
    audio = query.get("audio", "base64")
    if audio not in ("base64", "binary"):
        raise InvalidParameterError("'audio' must be 'base64' or 'binary'.", param="audio")
    dialect: EventDialect = "realtime-beta" if _is_beta(request) else "realtime"
    call_id = query.get("call_id")
    if call_id is not None and "resume" in query:
        raise InvalidParameterError("A sideband joins a call and resumes none: send one of both.", param="resume")
    if call_id is not None:
        return ChannelRequest(call_id, CallOptions(dialect=dialect))
    return ChannelRequest(None, _options(request.app[CONTEXT], request, dialect), is_binary=audio == "binary")


def _options(context: AppContext, request: web.Request, dialect: EventDialect) -> CallOptions:
    if not context.engine.is_ready:
        raise NotReadyError("The models are still loading; try again in a moment.", retry_after=3)
    patch: dict[str, Any] = {}
    if "model" in request.query:
        patch["model"] = request.query["model"]
    intent = request.query.get("intent", "conversation")
    if intent not in ("conversation", "transcription"):
        raise InvalidParameterError("'intent' must be 'conversation' or 'transcription'.", param="intent")
    if intent == "transcription":
        patch["type"] = "transcription"
    try:
        session = starting_session(context.settings, context.engine.info, patch) if patch else None
    except ProtocolError as error:
        raise InvalidParameterError.of(error) from error
    # Who minted a secret has the first word.
    return CallOptions(request[PRINCIPAL].session or session, dialect, trace=call_trace(request))


def _offered_protocols(request: web.Request) -> set[str]:
    values = request.headers.getall("Sec-WebSocket-Protocol", [])
    return {name.strip() for value in values for name in value.split(",")}


def _is_beta(request: web.Request) -> bool:
    return BETA_PROTOCOL in _offered_protocols(request) or "realtime=v1" in request.headers.get("OpenAI-Beta", "")


class _Client:
    """A `ChannelPeer`: one WebSocket. What it holds unsent is bounded by the call, which counts acknowledgements."""

    def __init__(self, request: web.Request, websocket: web.WebSocketResponse, *, is_sideband: bool) -> None:
        self._is_sideband = is_sideband
        self._request = request
        self._socket = websocket
        self._pool = request.app[PARSER_POOL]
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[str | bytes] = deque()
        self._news = asyncio.Event()
        self._ending: tuple[int, str] | None = None
        self._is_gone = False
        self._abort_timer: asyncio.TimerHandle | None = None

    # --- ChannelPeer

    def on_data(self, data: str | bytes) -> None:
        self._outbox.append(data)
        self._news.set()

    def on_closed(self, code: int, reason: str) -> None:
        if reason == "media_worker_lost":
            self.on_data(_error(reason, "server_error", "The process that carried the call was lost."))
        self._ending = (code, reason)
        self._abort_soon()
        self._news.set()

    # --- the WebSocket

    async def serve(self, channel: Channel) -> None:
        """Until the client or the call is gone."""
        raw = self._socket.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        try:
            async with asyncio.TaskGroup() as tasks:
                receiving = tasks.create_task(self._receive(channel), name=f"ws-receive-{channel.call_id}")
                await self._send(channel)
                receiving.cancel()
        finally:
            if self._abort_timer is not None:
                self._abort_timer.cancel()

    async def _receive(self, channel: Channel) -> None:
        is_lost = True
        try:
            while True:
                message = await self._socket.receive()
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    is_lost = message.type is not WSMsgType.CLOSE
                    return  # closed, or an error after which aiohttp closes
                await self._forward(channel, message.data)
        except ConnectionError:
            return  # gone while it was told of an error
        finally:
            channel.close(is_lost=is_lost)
            self._is_gone = True
            self._abort_soon()
            self._news.set()

    async def _forward(self, channel: Channel, message: str | bytes) -> None:
        try:
            if isinstance(message, str) and len(message) > BLOCKS_LOOP:
                read = partial(pieces, message, is_sideband=self._is_sideband)
                parts = await self._loop.run_in_executor(self._pool, read)
            else:
                parts = pieces(message, is_sideband=self._is_sideband)
        except ProtocolError as error:
            text = _error(error.code, "invalid_request_error", error.message, error.param, error.event_id)
            await self._socket.send_str(text)  # not through the outbox, which only the call bounds
            return
        del message  # it may be long, and its pieces are waited for
        for part in parts:
            await channel.send(part)

    async def _send(self, channel: Channel) -> None:
        try:
            while True:
                while self._outbox and not self._is_gone:
                    data = self._outbox.popleft()
                    if isinstance(data, str):
                        await self._socket.send_str(data)
                    else:
                        await self._socket.send_bytes(data)
                    channel.acknowledge(len(data))
                if self._is_gone:
                    return
                if self._ending is not None:
                    code, reason = self._ending
                    await self._socket.close(code=code, message=reason.encode())
                    return
                self._news.clear()
                await self._news.wait()
        except ConnectionError:
            return  # the client is gone; the receiving side ends the channel

    def _abort_soon(self) -> None:
        """A client that does not read must not keep its connection open by that."""
        if self._abort_timer is None:
            self._abort_timer = self._loop.call_later(2 * CLOSE_SECONDS, self._abort)

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def _error(code: str, kind: str, message: str, param: str | None = None, event_id: str | None = None) -> str:
    """An `error` event from signaling itself, where no call can write it."""
    error = {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
    return json.dumps({"type": "error", "event_id": f"event_{secrets.token_urlsafe(15)}", "error": error})
