"""The controller: the cluster's address. Takes every request and passes it on to the media node that it is for.

It decides nothing about a call and keeps nothing that cannot be asked for again, so it may die at any time: calls go on
between their peers and their media nodes, and the next controller asks the nodes what they have. WebSockets go through
it, so these end with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp
from multidict import CIMultiDict
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from rtc_server import logs, metrics
from rtc_server.config import Settings
from rtc_server.media.merge import Merged, merge

from .media import ask, node_actor
from .messages import NodeState
from .routing import QUERY_KEYS, Places, choose, forwarded, names_in, names_made

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 256 * 1024  # as the nodes' own
MAX_ANSWER_BYTES = 8 * 1024 * 1024  # the page's largest file is far smaller
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of a WebSocket; the node has its own, smaller bound
STATE_SECONDS = 0.25  # what the nodes said is believed for so long
CONNECT_SECONDS = 2.0
BODY_SECONDS = 15.0
ANSWER_SECONDS = 30.0  # longer than the slowest set-up of a call
MAX_SEARCHES = 16  # requests about something unknown that ask all nodes at once
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MAKING = ("/v1/realtime/calls", "/v1/realtime", "/v1/echo", "/whip", "/api/offer", "/api/echo")
WEBSOCKET_AWAY = 1013  # try again later


class Controller:
    """A Serve ingress (see `applications.controller`); makes the media nodes that are not there yet."""

    def __init__(self, settings: Settings, num_nodes: int, max_workers: int) -> None:
        logs.configure(settings.logging)
        self._nodes = {f"media-{i}": node_actor(i, settings, num_nodes, max_workers) for i in range(num_nodes)}
        self._places = Places()
        self._states: list[NodeState] = []
        self._placed: Counter[str] = Counter()
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._searches = asyncio.Semaphore(MAX_SEARCHES)
        self._http: aiohttp.ClientSession | None = None

    async def __del__(self) -> None:
        """Serve awaits it."""
        if self._http is not None:
            await self._http.close()

    def session(self) -> aiohttp.ClientSession:
        """The HTTP client, made on the loop that uses it."""
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS)
            self._http = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        return self._http

    async def states(self) -> Sequence[NodeState]:
        """The nodes that answer, as they are or were a moment ago."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= STATE_SECONDS:
                answers = await asyncio.gather(*(ask(node.state) for node in self._nodes.values()))
                self._states = [state for state in answers if isinstance(state, NodeState) and state.url]
                self._placed.clear()
                self._asked_at = time.monotonic()
        return self._states

    async def node_for(self, names: Sequence[str]) -> NodeState | None:
        """Where the request goes: to what it names if some node has it, else to the least loaded; None when no node
        takes it."""
        states = await self.states()
        by_name = {state.name: state for state in states}
        if names:
            place = self._places.find(names)
            if place is None:
                place = await self._search(names)
            if place in by_name:
                return by_name[place]
        return choose(states, self._placed) or next(iter(states), None)

    async def _search(self, names: Sequence[str]) -> str | None:
        async with self._searches:
            answers = await asyncio.gather(*(ask(node.knows, names) for node in self._nodes.values()))
        place = next((name for name, knows in zip(self._nodes, answers, strict=True) if knows is True), None)
        if place is not None:
            for name in names:
                self._places.learn(name, place)
        return place

    # --- HTTP

    async def answer(self, request: Request) -> Response:
        """Pass one request on, and its answer back."""
        body = await _read(request)
        if body is None:
            return _error(413, "request_too_large", f"The body is larger than {MAX_REQUEST_BYTES} bytes.")
        path = request.url.path
        names = names_in(path, _queried(request), request.headers, body)
        node = await self.node_for(names)
        if node is None:
            return _unavailable("No media node is ready; try again in a moment.")
        is_new = request.method == "POST" and path in MAKING
        self._placed[node.name] += is_new
        try:
            reply = await self._forward(request, body, node)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("a media node did not answer", extra={"node": node.name, "reason": type(error).__name__})
            self._asked_at = float("-inf")
            self._places.forget(names)
            return _unavailable("A media node did not answer; try again in a moment.")
        if isinstance(reply.body, bytes):
            for name in names_made(reply.headers, reply.body):
                self._places.learn(name, node.name)
        return reply

    async def _forward(self, request: Request, body: bytes, node: NodeState) -> Response:
        async with self.session().request(
            request.method,
            node.url + _target(request.url.path, request.url.query),
            data=body or None,
            headers=CIMultiDict(forwarded(request.headers.items(), _client(request), request.url.scheme)),
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as upstream:
            content = (
                await upstream.content.read(MAX_ANSWER_BYTES) if request.method == "HEAD" else await upstream.read()
            )
            reply = Response(content, status_code=upstream.status)
            for name, value in forwarded_back(upstream.headers):
                reply.headers.append(name, value)
            return reply

    async def ready(self, request: Request) -> Response:
        """200 while a media node takes calls."""
        states = await self.states()
        is_ready = any(state.is_ready for state in states)
        body = {
            "ready": is_ready,
            "calls": sum(state.calls for state in states),
            "max_calls": sum(state.max_calls for state in states),
            "media_nodes": {state.name: {"ready": state.is_ready, "calls": state.calls} for state in states},
        }
        return JSONResponse(body, status_code=200 if is_ready else 503)

    async def info(self, request: Request) -> Response:
        """What a node says about itself, with the calls of all."""
        reply, states = await self.answer(request), await self.states()
        if reply.status_code != 200:
            return reply
        body = json.loads(bytes(reply.body))
        body |= {"calls": sum(s.calls for s in states), "max_calls": sum(s.max_calls for s in states)}
        return JSONResponse(body, headers={"Vary": "Origin"})

    async def metrics(self, request: Request) -> Response:
        """All media nodes' metrics on one page, for whom each of them would show its own."""
        states = await self.states()
        replies = await asyncio.gather(
            *(self._forward(request, b"", state) for state in states), return_exceptions=True
        )
        pages = []
        for state, reply in zip(states, replies, strict=True):
            if isinstance(reply, Response):
                if reply.status_code != 200:
                    return reply
                pages.append((state.name, bytes(reply.body)))
        registry = CollectorRegistry()
        registry.register(Merged(merge(pages, metrics.OF_PROCESS)))
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # --- WebSockets

    async def connect(self, socket: WebSocket) -> None:
        """Pass a WebSocket on, both ways; refused if the node refuses it."""
        path, query = socket.url.path, socket.url.query
        node = await self.node_for(names_in(path, _queried(socket), socket.headers))
        if node is None:
            await socket.close(WEBSOCKET_AWAY)
            return
        headers = forwarded(socket.headers.items(), _client(socket), socket.url.scheme, is_websocket=True)
        protocols = [
            part.strip() for part in socket.headers.get("sec-websocket-protocol", "").split(",") if part.strip()
        ]
        try:
            async with self.session().ws_connect(
                node.url + _target(path, query),
                protocols=protocols,
                headers=CIMultiDict(headers),
                max_msg_size=MAX_MESSAGE_BYTES,
                autoclose=False,
            ) as upstream:
                await socket.accept(upstream.protocol)
                await _pump(socket, upstream)
        except aiohttp.WSServerHandshakeError as error:
            await socket.send_denial_response(Response(status_code=error.status))
        except (aiohttp.ClientError, TimeoutError):
            await socket.close(WEBSOCKET_AWAY)


def application() -> Starlette:
    """The routes, each answered by the replica's `Controller`. Serve calls this where the replica runs."""

    def controller() -> Controller:
        found: Any = serve.get_replica_context().servable_object
        assert isinstance(found, Controller)
        return found

    async def answer(request: Request) -> Response:
        return await controller().answer(request)

    async def ready(request: Request) -> Response:
        return await controller().ready(request)

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def info(request: Request) -> Response:
        return await controller().info(request)

    async def metrics(request: Request) -> Response:
        return await controller().metrics(request)

    async def connect(socket: WebSocket) -> None:
        await controller().connect(socket)

    return Starlette(
        routes=[
            Route("/readyz", ready, methods=["GET"]),
            Route("/healthz", alive, methods=["GET"]),
            Route("/v1/info", info, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            WebSocketRoute("/{path:path}", connect),
            Route("/{path:path}", answer, methods=METHODS),
        ]
    )


def forwarded_back(headers: Any) -> list[tuple[str, str]]:
    """The headers of a node's answer for the client."""
    dropped = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]


async def _read(request: Request) -> bytes | None:
    """The body; None when it is too large."""
    parts, size = [], 0
    async with asyncio.timeout(BODY_SECONDS):
        async for part in request.stream():
            size += len(part)
            if size > MAX_REQUEST_BYTES:
                return None
            parts.append(part)
    return b"".join(parts)


async def _pump(socket: WebSocket, upstream: aiohttp.ClientWebSocketResponse) -> None:
    async def to_node() -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await upstream.send_str(message["text"])
            elif message.get("bytes") is not None:
                await upstream.send_bytes(message["bytes"])

    async def to_client() -> None:
        async for message in upstream:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_text(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)

    pumps = {asyncio.create_task(to_node(), name="to-node"), asyncio.create_task(to_client(), name="to-client")}
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    if upstream.closed or upstream.close_code is not None:
        try:
            await socket.close(upstream.close_code or 1000)
        except (RuntimeError, WebSocketDisconnect):  # the client has closed as well
            return
    else:
        await upstream.close()


def _target(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _queried(connection: Request | WebSocket) -> list[str]:
    return [value for key in QUERY_KEYS for value in connection.query_params.getlist(key)]


def _client(connection: Request | WebSocket) -> str:
    return connection.client.host if connection.client is not None else "unknown"


def _error(status: int, code: str, message: str) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": code, "param": None}}, status_code=status)


def _unavailable(message: str) -> JSONResponse:
    reply = _error(503, "not_ready", message)
    reply.headers["Retry-After"] = "1"
    return reply
