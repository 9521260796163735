"""How much one caller may ask for, over real HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

from rtc_server import limits
from tests.app.test_auth import KEY, KEYED, OTHER_KEY, Web
from tests.support.live_call import live_call
from tests.support.running_server import running_server

STRANGER = {"X-Forwarded-For": "192.0.2.1"}
SLOW = {"limits.requests_per_minute": 1.0, "limits.address_requests_per_minute": 1.0}
"""Nothing is refilled while a test runs."""


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=20)) as session:
        yield session


async def test_a_thousand_requests_in_a_burst_are_limited_and_others_are_not(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **SLOW, **{"limits.burst": 50}) as url:
        web = Web(http, url)

        async def ask() -> tuple[int, str | None]:
            status, _, reply = await web.ask("GET", "/v1/models", KEY)
            return status, reply.headers.get("Retry-After")

        answers = await asyncio.gather(*(ask() for _ in range(1_000)))
        counts = Counter(status for status, _ in answers)
        assert counts == {200: 50, 429: 950}
        # One request a minute comes back; the 50 were counted within seconds, so about a minute is left.
        waits = [int(wait) for status, wait in answers if status == 429 and wait is not None]
        assert len(waits) == 950
        assert all(1 <= wait <= 60 for wait in waits)
        assert (await web.code("GET", "/v1/models", KEY)) == (429, "rate_limit_exceeded")
        assert (await web.code("GET", "/v1/models", OTHER_KEY))[0] == 200
        for path in ("/healthz", "/readyz", "/", "/static/js/main.js"):
            assert (await web.code("GET", path, KEY))[0] == 200


async def test_after_waiting_as_told_the_next_request_passes(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **{"limits.burst": 1, "limits.requests_per_minute": 60.0}) as url:
        web = Web(http, url)
        status = 200
        while status == 200:
            status, _, reply = await web.ask("GET", "/v1/models", KEY)
        await asyncio.sleep(int(reply.headers["Retry-After"]))
        assert (await web.code("GET", "/v1/models", KEY))[0] == 200


async def test_wrong_keys_from_one_address_are_soon_not_looked_at(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **{"limits.failures_per_minute": 3}) as url:
        web = Web(http, url)
        codes = [(await web.code("GET", "/v1/models", f"sk_guess{number}", headers=STRANGER))[0] for number in range(5)]
        assert codes == [401, 401, 401, 429, 429]
        assert (await web.code("GET", "/v1/models", KEY, headers=STRANGER))[0] == 429
        other = {"X-Forwarded-For": "198.51.100.7"}
        assert (await web.code("GET", "/v1/models", KEY, headers=other))[0] == 200


async def test_an_address_without_a_key_is_limited_but_never_the_page(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **SLOW, **{"limits.address_burst": 2}) as url:
        web = Web(http, url)
        codes = [(await web.code("GET", "/v1/info", headers=STRANGER))[0] for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        assert (await web.code("GET", "/v1/models", headers=STRANGER))[0] == 429
        assert (await web.code("GET", "/v1/models", KEY, headers=STRANGER))[0] == 200
        assert {(await web.code("GET", "/healthz", headers=STRANGER))[0] for _ in range(20)} == {200}


async def test_this_machine_is_not_limited_while_the_server_is_open(http: aiohttp.ClientSession) -> None:
    async with running_server(**SLOW, **{"limits.address_burst": 1, "limits.burst": 1}) as url:
        assert {(await Web(http, url).code("GET", "/v1/models"))[0] for _ in range(20)} == {200}


async def test_addresses_behind_untrusted_proxies_are_not_believed(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **SLOW, **{"limits.address_burst": 2, "auth.trusted_proxies": []}) as url:
        codes = []
        for number in range(4):
            claimed = {"X-Forwarded-For": f"192.0.2.{number}"}
            codes.append((await Web(http, url).code("GET", "/v1/info", headers=claimed))[0])
        assert codes == [200, 200, 429, 429]


async def test_a_key_holds_so_many_calls_and_gets_its_place_back(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **{"limits.calls_per_key": 1}) as url:
        web = Web(http, url)
        secret = await web.mint()
        async with live_call(url, secret) as call:
            offer = {"sdp": call.peer.pc.localDescription.sdp, "type": "offer"}
            for key in (KEY, secret):
                status, body, reply = await web.ask("POST", "/api/offer", key, json=offer)
                assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
                assert int(reply.headers["Retry-After"]) > 0
            async with live_call(url, OTHER_KEY) as other:
                assert await other.is_alive()
        async with asyncio.timeout(20):
            while (await web.ask("GET", "/v1/info"))[1]["calls"]:  # noqa: ASYNC110 - the server is asked
                await asyncio.sleep(0.05)
        async with live_call(url, KEY) as call:
            assert await call.is_alive()


async def test_an_address_holds_so_many_calls_unless_it_has_an_api_key(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **{"limits.calls_per_address": 1}) as url:
        web = Web(http, url)
        first, second = await web.mint(), await web.mint()
        async with live_call(url, first) as call:
            offer = {"sdp": call.peer.pc.localDescription.sdp, "type": "offer"}
            assert (await web.code("POST", "/api/offer", second, json=offer)) == (429, "rate_limit_exceeded")
            assert (await web.code("POST", "/api/offer", second, json=offer, headers=STRANGER))[0] == 200
            assert (await web.code("POST", "/api/offer", KEY, json=offer))[0] == 200


async def test_a_full_server_is_503_also_for_somebody_with_a_key(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **{"server.max_calls": 1}) as url, live_call(url, KEY) as call:
        offer = {"sdp": call.peer.pc.localDescription.sdp, "type": "offer"}
        assert (await Web(http, url).code("POST", "/api/offer", KEY, json=offer)) == (503, "server_full")


async def test_only_so_many_secrets_are_valid_at_once(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **{"auth.max_client_secrets": 1}) as url:
        web = Web(http, url)
        await web.mint(expires_after={"seconds": 60})
        status, _, reply = await web.ask("POST", "/v1/realtime/client_secrets", KEY, json={})
        assert status == 429
        assert 1 <= int(reply.headers["Retry-After"]) <= 60


def test_the_header_is_whole_seconds_that_suffice() -> None:
    assert limits.retry_after(0.2) == 1
    assert limits.retry_after(3.0000000001) == 3
    assert limits.retry_after(3.01) == 4
