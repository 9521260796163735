"""An engine that serves fewer calls than the operator allows: the next caller is refused, whatever way it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from model.backends import echo
from tests.support.running_server import running_server
from tests.support.socket_call import socket_call
from tests.transports.test_sdp import offer

SDP = {"Content-Type": "application/sdp"}


@pytest.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A server whose operator allows three calls and whose engine serves one."""
    monkeypatch.setattr(echo, "INFO", replace(echo.INFO, max_calls=1))
    async with running_server(**{"server.max_calls": 3}) as address:
        yield address


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def told(http: aiohttp.ClientSession, address: str) -> tuple[int, dict[str, Any]]:
    async with http.get(address) as reply:
        return reply.status, await reply.json()


async def refusal(http: aiohttp.ClientSession, address: str) -> tuple[int, dict[str, Any]]:
    """(status, body) of a call that is refused for a while."""
    async with http.post(address, data=offer(), headers=SDP) as reply:
        assert int(reply.headers["Retry-After"]) > 0
        return reply.status, await reply.json(content_type=None)


async def test_a_full_engine_refuses_every_kind_of_call_and_takes_the_next_when_one_ends(
    url: str, http: aiohttp.ClientSession
) -> None:
    assert (await told(http, f"{url}/readyz"))[0] == 200
    async with socket_call(url) as call:
        status, body = await refusal(http, f"{url}/v1/realtime/calls")
        assert (status, body["error"]["code"]) == (503, "server_full")
        assert "engine" in body["error"]["message"]
        status, body = await refusal(http, f"{url}/whip")
        assert (status, body["code"]) == (503, "server_full")
        assert "engine" in body["detail"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with socket_call(url):
                pass
        assert refused.value.status == 503
        status, body = await told(http, f"{url}/readyz")
        assert (status, body["reason"], body["calls"], body["max_calls"]) == (503, "server_full", 1, 1)
        assert (await told(http, f"{url}/v1/info"))[1]["max_calls"] == 1
        assert await call.is_alive()
    async with asyncio.timeout(10):
        while (await told(http, f"{url}/readyz"))[0] != 200:  # noqa: ASYNC110 - the server is asked
            await asyncio.sleep(0.05)
    async with socket_call(url) as call:
        assert await call.is_alive()
