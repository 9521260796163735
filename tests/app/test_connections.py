"""Clients that open connections and say nothing, or say it slowly."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from rtc_server.app.connections import ConnectionTable
from rtc_server.app.principal import PRINCIPAL
from rtc_server.app.server import create_app
from rtc_server.config import LimitsSection
from tests.app.test_auth import KEY, KEYED, SECRETS
from tests.support.running_server import running_server


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
async def test_a_client_that_does_not_finish_its_headers_is_cut_off(sent: bytes) -> None:
    async with running_server(**{"limits.idle_connection_seconds": 1.0}) as url, asyncio.timeout(20):
        reader, writer = await connect(url)
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_does_not_finish_its_body_gets_408() -> None:
    async with running_server(**KEYED, **{"limits.body_seconds": 0.3}) as url, asyncio.timeout(30):
        reader, writer = await connect(url)
        head = (
            f"POST {SECRETS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n"
        )
        writer.write(head.encode() + b"{")
        assert b"408" in await reader.readline()
        assert b"request_timeout" in await reader.read()
        writer.close()


async def test_long_and_many_headers_are_refused() -> None:
    async with running_server() as url, aiohttp.ClientSession() as http:
        for headers in ({"X": "y" * 9_000}, {f"X-{number}": "y" for number in range(100)}):
            async with http.get(f"{url}/healthz", headers=headers) as reply:
                assert reply.status == 400


async def test_a_large_session_fits_and_a_larger_one_does_not() -> None:
    async with running_server(**KEYED) as url, aiohttp.ClientSession() as http:
        for size, expected in ((200_000, 400), (300_000, 413)):  # 400: read, and found too long for instructions
            body = {"session": {"instructions": "x" * size}}
            headers = {"Authorization": f"Bearer {KEY}"}
            async with http.post(f"{url}{SECRETS}", json=body, headers=headers) as reply:
                assert reply.status == expected


async def test_the_total_of_connections_is_bounded() -> None:
    async with running_server(**{"limits.connections": 3}) as url, asyncio.timeout(20):
        held = [await connect(url) for _ in range(3)]
        for reader, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200" in await reader.readline()
        reader, writer = await connect(url)
        with contextlib.suppress(ConnectionResetError):  # cut off before this side had finished connecting
            assert await reader.read() == b""
        writer.close()
        for _, writer in held:
            writer.close()


async def test_a_websocket_outlives_the_times_for_requests_and_carries_large_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any WebSocket route: the key in the subprotocol, large messages, and silence for longer than a request."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("realtime",))
        await socket.prepare(request)
        await socket.send_str(request[PRINCIPAL].kind)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket

    def with_echo(context: object) -> web.Application:
        app = create_app(context)  # type: ignore[arg-type]
        app.router.add_get("/socket", echo)
        return app

    monkeypatch.setattr("rtc_server.app.server.create_app", with_echo)
    times = {"limits.idle_connection_seconds": 1.0, "limits.body_seconds": 0.2}
    protocols = ("realtime", f"openai-insecure-api-key.{KEY}")
    async with running_server(**KEYED, **times) as url, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/socket", protocols=protocols, origin=url) as socket:
            assert socket.protocol == "realtime"
            assert await socket.receive_str() == "key"
            await asyncio.sleep(1.5)
            for size in (1, 1_000_000):
                await socket.send_bytes(b"x" * size)
                assert await socket.receive_bytes() == b"x" * size
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await http.ws_connect(f"{url}/socket", protocols=protocols, origin="https://evil.example")


def test_an_address_has_so_many_but_loopback_and_proxies_any_number() -> None:
    table = ConnectionTable(LimitsSection(connections_per_address=2, connections=100), ["198.51.100.1"])
    assert [table.open("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [table.open("2001:db8::1"), table.open("2001:db8::2"), table.open("2001:db8::3")] == [True, True, False]
    assert all(table.open("127.0.0.1") for _ in range(10))
    assert all(table.open("198.51.100.1") for _ in range(10))
    table.close("192.0.2.1")
    assert table.open("192.0.2.1")
    assert len(table) == 24
