"""Web pages from elsewhere: refused at once, unless the operator named their origin."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from rtc_server.app.principal import PRINCIPAL
from rtc_server.app.server import create_app
from tests.app.test_auth import KEY, KEYED, SECRETS, UPGRADE, Web
from tests.support.running_server import running_server

PAGE, FOREIGN = "https://app.example", "https://evil.example"


@pytest.fixture
async def server() -> AsyncIterator[Web]:
    """It wants a key, and allows one page from elsewhere."""
    async with (
        aiohttp.ClientSession() as http,
        running_server(**KEYED, **{"auth.allowed_origins": [PAGE]}) as url,
    ):
        yield Web(http, url)


@pytest.mark.parametrize("key", [None, KEY, "sk_wrong"])
async def test_a_foreign_page_is_refused_before_anything_else(server: Web, key: str | None) -> None:
    """POST, GET and WebSocket alike, with or without a good key, on public and on unknown routes."""
    for method, path, headers in (
        ("POST", "/v1/realtime/calls", {}),
        ("POST", SECRETS, {}),
        ("GET", "/v1/models", {}),
        ("GET", "/v1/info", {}),
        ("GET", "/", {}),
        ("GET", "/no/such/route", {}),
        ("GET", "/v1/realtime", UPGRADE),
        ("OPTIONS", "/v1/realtime/calls", {"Access-Control-Request-Method": "POST"}),
    ):
        for origin in (FOREIGN, "null"):
            status, body, reply = await server.ask(method, path, key, headers={**headers, "Origin": origin})
            assert (status, body["error"]["code"]) == (403, "origin_not_allowed"), (method, path)
            assert "Access-Control-Allow-Origin" not in reply.headers


async def test_an_open_server_refuses_foreign_pages_too() -> None:
    async with aiohttp.ClientSession() as http, running_server() as url:
        refused = (403, "origin_not_allowed")
        assert await Web(http, url).code("POST", "/v1/realtime/calls", headers={"Origin": FOREIGN}) == refused
        assert (await Web(http, url).code("GET", "/v1/models", headers={"Origin": url}))[0] == 200


async def test_an_allowed_page_may_ask_and_read_the_answer(server: Web) -> None:
    status, _, reply = await server.ask("GET", "/v1/models", KEY, headers={"Origin": PAGE})
    assert status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    exposed = reply.headers["Access-Control-Expose-Headers"]
    assert {"Location", "ETag", "Link", "Accept-Patch", "Retry-After"} <= set(exposed.split(", "))
    assert reply.headers["Vary"] == "Origin"
    status, _, reply = await server.ask("GET", "/v1/models", "sk_wrong", headers={"Origin": PAGE})
    assert status == 401
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE, "a page can show why it was refused"
    _, _, reply = await server.ask("GET", "/v1/models", KEY)
    assert reply.headers["Vary"] == "Origin"


async def test_every_page_may_ask_when_the_operator_says_so() -> None:
    async with aiohttp.ClientSession() as http, running_server(**KEYED, **{"auth.allowed_origins": ["*"]}) as url:
        for origin in (FOREIGN, "null"):
            _, _, reply = await Web(http, url).ask("GET", "/v1/models", KEY, headers={"Origin": origin})
            assert reply.headers["Access-Control-Allow-Origin"] == origin


async def test_a_preflight_needs_no_key_and_names_the_methods(server: Web) -> None:
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
    }
    status, _, reply = await server.ask("OPTIONS", "/v1/realtime/calls/rtc_1", headers=asked)
    assert status == 204
    assert reply.headers["Access-Control-Allow-Methods"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    allowed = reply.headers["Access-Control-Allow-Headers"].lower()
    for name in ("authorization", "content-type", "if-match", "openai-beta", "x-stainless-os"):
        assert name in allowed
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    assert (await server.ask("OPTIONS", "/no/such/route", headers=asked))[0] == 404


async def test_options_without_preflight_headers_names_the_methods_too(server: Web) -> None:
    for key in (KEY, None):
        status, _, reply = await server.ask("OPTIONS", "/v1/realtime/calls/rtc_1", key)
        assert status == 204
        assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
        assert "PATCH" in reply.headers["Allow"]
    assert (await server.ask("OPTIONS", "/v1/realtime/calls/rtc_1", "sk_wrong"))[0] == 401


async def test_a_routes_own_options_handler_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a WHIP endpoint has one: it knows who asks, if they say so, and its own headers stay."""

    async def options(request: web.Request) -> web.Response:
        principal = request.get(PRINCIPAL)
        headers = {"Accept-Post": "application/sdp", "X-Who": "nobody" if principal is None else principal.kind}
        return web.Response(status=200, headers=headers)

    async def patch(request: web.Request) -> web.Response:
        return web.Response(status=204)

    def with_whip(context: object) -> web.Application:
        app = create_app(context)  # type: ignore[arg-type]
        app.router.add_options("/like-whip", options)
        app.router.add_post("/like-whip", patch)
        app.router.add_patch("/like-whip/{id}", patch)
        return app

    monkeypatch.setattr("rtc_server.app.server.create_app", with_whip)
    async with (
        aiohttp.ClientSession() as http,
        running_server(**KEYED, **{"auth.allowed_origins": [PAGE]}) as url,
    ):
        server = Web(http, url)
        for key, who in ((None, "nobody"), (KEY, "key")):
            _, _, reply = await server.ask("OPTIONS", "/like-whip", key, headers={"Origin": PAGE})
            assert (reply.status, reply.headers["X-Who"]) == (200, who)
            assert reply.headers["Accept-Post"] == "application/sdp"
            assert reply.headers["Access-Control-Allow-Methods"] == "OPTIONS, POST"
            assert reply.headers["Access-Control-Allow-Origin"] == PAGE
        preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        assert (await server.ask("OPTIONS", "/like-whip", headers=preflight))[0] == 200
        assert (await server.code("PATCH", "/like-whip/1")) == (401, "invalid_api_key"), "new routes are protected"
        assert (await server.code("PATCH", "/like-whip/1", KEY))[0] == 204
