"""`rtc-server top` on real servers: what it shows is what happened, and its exit code says whether calls are taken."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from rich.console import Console

from rtc_server.client.errors import CallError
from rtc_server.client.peer import base_url
from rtc_server.client.status_view import status_view
from rtc_server.client.top import fetch, run_top, watch
from tests.support.live_call import live_call
from tests.support.running_server import free_port, running_server

KEY = "sk_0123456789abcdefghijklmnop"


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """A web server whose `/v1/status` is `handler`; its address."""
    app = web.Application()
    app.router.add_get("/v1/status", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def proxy_from_elsewhere(url: str) -> AsyncIterator[str]:
    """A proxy in front of the server, through which everybody comes from another machine."""

    async def forward(request: web.Request) -> web.Response:
        headers = {"X-Forwarded-For": "203.0.113.9"}
        if "Authorization" in request.headers:
            headers["Authorization"] = request.headers["Authorization"]
        async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/status", headers=headers) as reply:
            return web.Response(status=reply.status, text=await reply.text())

    async with answering(forward) as outside:
        yield outside


async def test_a_call_and_its_turn_are_shown_and_told_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_server() as url, live_call(url) as call:
        call.say("f0_rms.wav")
        told = await call.event("rtc_server.turn.metrics")
        assert await asyncio.to_thread(run_top, url, json_output=True) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["turns"][0]["response_latency_ms"] == told["response_latency_ms"]
        assert await asyncio.to_thread(run_top, url, once=True) == 0
        shown = capsys.readouterr().out
    assert call.peer.call_id in shown
    assert "1 of " in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("Whole response")]
    assert f"{told['response_latency_ms']:.0f} ms" in line


async def test_a_full_server_ends_it_with_1_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_server(**{"server.max_calls": 1}) as url, live_call(url):
        assert await asyncio.to_thread(run_top, url) == 1, "no terminal here: once"
    assert "server_full" in capsys.readouterr().out


async def test_a_server_elsewhere_wants_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"auth.api_keys": [KEY], "auth.trusted_proxies": ["127.0.0.1"]}
    async with running_server(**settings) as url, proxy_from_elsewhere(url) as outside:
        assert await asyncio.to_thread(run_top, outside, once=True) == 2
        assert "RTC_SERVER_API_KEY" in capsys.readouterr().err
        assert await asyncio.to_thread(run_top, outside, once=True, api_key=KEY) == 0


def test_a_server_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_top(f"http://127.0.0.1:{free_port()}", once=True) == 2
    assert run_top("not an address", once=True) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "cannot be reached" in errors[0]


@pytest.mark.parametrize("body", ["nonsense", "[]", "{}", '{"engine": 3}'])
async def test_something_else_than_a_status_is_refused(body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    async with answering(answer) as url:
        with pytest.raises(CallError, match="cannot read"):
            await fetch(base_url(url), True, None)


async def test_a_call_fits_into_80_columns_uncut() -> None:
    async with running_server() as url, live_call(url) as call:
        document = await fetch(base_url(url), True, None)
        (live,) = document["live_calls"]
        live |= {"state": "connecting", "latency_ms": 4321.0, "loss": 0.123, "remote_loss": 0.456, "age_seconds": 754.0}
        screen = io.StringIO()
        Console(file=screen, width=80).print(status_view(document))
        assert call.peer.call_id in screen.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in screen.getvalue()


async def test_it_stays_when_the_server_goes_away_and_shows_it_again_when_it_is_back() -> None:
    screen = io.StringIO()
    async with running_server() as url:
        document = await fetch(base_url(url), True, None)
    answers: list[Any] = [
        document,
        CallError("The server went away."),
        document | {"version": "9.9.9"},
        asyncio.CancelledError(),
    ]

    async def source() -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return dict(answer)

    console = Console(highlight=False, file=screen, force_terminal=True, width=100, height=40)
    with pytest.raises(asyncio.CancelledError):
        await watch(source, console, pause=0.0)
    shown = screen.getvalue()
    assert document["version"] in shown.split("The server went away.")[0]
    assert "9.9.9" in shown.split("The server went away.")[-1]
