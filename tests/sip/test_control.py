"""Telephone calls under the control of an application: the stock OpenAI SDK on one side, a telephone on the other."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import openai
import psutil
import pytest
from aiohttp import web
from openai import AsyncOpenAI
from rich.console import Console
from yarl import URL

from benchmarks.support.sip_words import body_of, header
from rtc_server.app.server import serve
from rtc_server.app.status_schema import STATUS
from rtc_server.app.webhook_signature import make_secret
from rtc_server.client.status_view import status_view
from rtc_server.client.top import fetch
from rtc_server.config import load_settings
from rtc_server.errors import ConfigError
from rtc_server.sip.service import MAX_CALLING
from tests.sip.proxy_peer import HOST, WAIT_SECONDS, ProxyPeer, free_udp_port, proxy_peer
from tests.support.running_server import DEFAULTS, free_port, running_server
from tests.support.sdp_peer import SdpPeer, sdp_peer

pytest.importorskip("sippy", reason="sippy is not installed (the extra sip)")

KEY, OTHER_KEY = "sk_0123456789abcdefghijklmnop", "sk_zyxwvutsrqponmlkjihgfedcba"
SECRET = make_secret()


@dataclass(slots=True)
class Application:
    """What a user writes: it takes webhooks and controls calls with OpenAI's SDK."""

    client: AsyncOpenAI
    server_url: str
    phone: ProxyPeer
    media: SdpPeer
    on_call: Callable[[Any], Awaitable[object]] | None = None
    status: int = 200
    events: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    """Of webhooks; a test has a handful."""

    async def take(self, request: web.Request) -> web.Response:
        event = self.client.webhooks.unwrap(await request.read(), request.headers)
        if self.on_call is not None:
            await self.on_call(event.data)
        self.events.put_nowait(event)
        return web.Response(status=self.status)

    async def ring(self) -> str:
        """Call in; the call's id, from the webhook."""
        self.phone.invite(await self.media.offer(), b"X-Note: hello")
        return str((await self.event()).data.call_id)

    async def event(self) -> Any:
        """The next webhook."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.events.get()

    def as_(self, key: str) -> AsyncOpenAI:
        """Somebody else's client."""
        return self.client.with_options(api_key=key)

    async def num_calls(self) -> int:
        async with aiohttp.ClientSession() as http, http.get(f"{self.server_url}/v1/info") as reply:
            return int((await reply.json())["calls"])

    async def live_calls(self) -> list[str]:
        """Their ids."""
        return [call["call_id"] for call in (await self.server_status())["live_calls"]]

    async def num_telephones(self) -> int:
        """That ring, are called, or talk."""
        telephony = (await self.server_status())["telephony"]
        return int(sum(telephony[leg] for leg in ("ringing", "calling", "answered")))

    async def server_status(self) -> dict[str, Any]:
        """`/v1/status`."""
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{self.server_url}/v1/status") as reply:
            document: dict[str, Any] = await reply.json()
            return document


@asynccontextmanager
async def application(tmp_path: Path, **settings: object) -> AsyncIterator[Application]:
    """A server with telephone calls, its application, and a telephone."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET, encoding="ascii")
    sip_port, proxy_port = free_udp_port(), free_udp_port()
    routes, stack = web.Application(), AsyncExitStack()
    async with stack:
        runner = web.AppRunner(routes, shutdown_timeout=0.1)
        app: Application | None = None

        async def take(request: web.Request) -> web.Response:
            assert app is not None
            return await app.take(request)

        routes.router.add_post("/hook", take)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        overrides: dict[str, object] = {
            "sip.enabled": True,
            "sip.port": sip_port,
            "sip.proxy": f"{HOST}:{proxy_port}",
            "sip.webhook_url": f"{site.name}/hook",
            "sip.webhook_secret_file": str(secret_file),
            "auth.api_keys": [KEY, OTHER_KEY],
        }
        phone = await stack.enter_async_context(proxy_peer(sip_port, proxy_port))
        url = await stack.enter_async_context(running_server(**{**overrides, **settings}))
        media = await stack.enter_async_context(sdp_peer(label=None))
        await phone.until_ready()
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, webhook_secret=SECRET, max_retries=0)
        await stack.enter_async_context(client)
        app = Application(client, url, phone, media)
        yield app


async def test_a_call_accepted_within_the_webhook_is_talked_to_and_hung_up(tmp_path: Path) -> None:
    async with application(tmp_path) as app:

        async def accept(call: Any) -> None:
            await app.client.realtime.calls.accept(call.call_id, type="realtime", instructions="Be brief.")

        app.on_call = accept
        app.phone.invite(await app.media.offer(), b"X-Note: hello\r\nAuthorization: Digest username=ann")
        ok = await app.phone.answered()
        await app.media.accept(body_of(ok).decode())
        data = app.events.get_nowait().data
        assert {("X-Note", "hello"), ("From", header(ok, b"From").decode())} <= {
            (h.name, h.value) for h in data.sip_headers
        }
        assert not {h.name.lower() for h in data.sip_headers} & {"authorization", "via", "route", "record-route"}
        async with app.client.realtime.connect(model="echo", extra_query={"call_id": data.call_id}) as sideband:
            created = await sideband.recv()
            assert created.type == "session.created"
            assert created.session.instructions == "Be brief."  # type: ignore[union-attr]
            app.media.say("f0_rms.wav")
            await app.media.until(lambda: app.media.num_loud > 10)
            await app.client.realtime.calls.hangup(data.call_id)
        assert b"hangup" in header(await app.phone.request(b"BYE"), b"Reason")
        assert await app.num_calls() == 0


async def test_a_telephone_hears_that_it_rings_and_gives_up(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        invite = app.phone.invite(await app.media.offer())
        call_id = (await app.event()).data.call_id
        await app.phone.status(180, b"INVITE")
        app.phone.cancel(invite)
        assert b" 487 " in await app.phone.refused()
        with pytest.raises(openai.NotFoundError):
            await app.client.realtime.calls.accept(call_id, type="realtime")
        assert await app.num_calls() == 0


@pytest.mark.parametrize(("status", "heard"), [(486, b" 486 Busy Here"), (None, b" 603 Decline")])
async def test_a_rejected_call(tmp_path: Path, status: int | None, heard: bytes) -> None:
    async with application(tmp_path) as app:
        call_id = await app.ring()
        calls = app.client.realtime.calls
        await (calls.reject(call_id) if status is None else calls.reject(call_id, status_code=status))
        assert heard in await app.phone.refused()
        with pytest.raises(openai.NotFoundError):
            await calls.reject(call_id)


async def test_a_session_that_is_wrong_leaves_the_call_ringing(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.refer_targets": ["*"]}) as app:
        call_id = await app.ring()
        with pytest.raises(openai.BadRequestError):
            await app.client.realtime.calls.accept(call_id, type="realtime", max_output_tokens=-1)
        with pytest.raises(openai.ConflictError):
            await app.client.realtime.calls.refer(call_id, target_uri="tel:+49301")
        await app.client.realtime.calls.accept(call_id, type="realtime")
        await app.phone.answered()
        with pytest.raises(openai.ConflictError) as caught:
            await app.client.realtime.calls.accept(call_id, type="realtime")
        assert caught.value.code == "call_not_ringing"


async def test_operators_see_who_rings_and_who_talks(tmp_path: Path) -> None:
    async with application(tmp_path) as app, aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as http:

        async def shown() -> tuple[Any, list[str]]:
            async with http.get(f"{app.server_url}/v1/status") as reply:
                document = await reply.json()
                jsonschema_rs.validate(STATUS["application/json"], document)
            async with http.get(f"{app.server_url}/metrics") as reply:
                lines = (await reply.text()).splitlines()
            return document["telephony"], lines

        call_id = await app.ring()
        telephony, lines = await shown()
        nothing = {"ready": True, **dict.fromkeys(("ringing", "calling", "answered", "answered_in", "answered_out"), 0)}
        nothing["restarts"] = 0
        assert telephony == {**nothing, "ringing": 1}
        assert {'rtc_server_sip_legs{leg="ringing"} 1.0', "rtc_server_sip_ready 1.0"} <= set(lines)
        await app.client.realtime.calls.accept(call_id, type="realtime")
        await app.phone.answered()
        telephony, lines = await shown()
        assert telephony == {**nothing, "answered": 1, "answered_in": 1}
        assert {'rtc_server_sip_legs{leg="ringing"} 0.0', 'rtc_server_sip_legs{leg="answered"} 1.0'} <= set(lines)
        document = await fetch(URL(app.server_url), False, KEY)
        console = Console(file=io.StringIO(), width=200)
        console.print(status_view(document))
        assert isinstance(console.file, io.StringIO)
        words = "telephone ready: 0 ringing, 0 being called, 1 called in, 0 called out, 0 restarts"
        assert words in console.file.getvalue()


async def test_nobody_answers(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.ring_timeout_seconds": 1.0}) as app:
        call_id = await app.ring()
        assert b" 480 " in await app.phone.refused()
        with pytest.raises(openai.NotFoundError):
            await app.client.realtime.calls.accept(call_id, type="realtime")


async def test_an_application_that_cannot_be_told_is_a_503_that_says_when_to_come_back(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        app.status = 404
        await app.ring()
        refusal = await app.phone.refused()
        assert b" 503 " in refusal
        assert header(refusal, b"Retry-After") == b"30"


async def test_whoever_accepts_a_call_owns_it_and_no_client_secret_controls_one(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        call_id = await app.ring()
        guest = app.as_((await app.client.realtime.client_secrets.create()).value)
        calls = guest.realtime.calls
        for attempt in (calls.accept(call_id, type="realtime"), calls.reject(call_id), calls.hangup(call_id)):
            with pytest.raises(openai.NotFoundError):
                await attempt
        other = app.as_(OTHER_KEY)
        await other.realtime.calls.accept(call_id, type="realtime")
        await app.phone.answered()
        for client in (app.client, guest):
            with pytest.raises(openai.NotFoundError):
                await client.realtime.calls.hangup(call_id)
        await other.realtime.calls.hangup(call_id)
        await app.phone.request(b"BYE")


async def test_a_call_is_handed_over_to_an_address_that_is_allowed(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.refer_targets": ["tel:+4930*"]}) as app:
        call_id = await app.ring()
        await app.client.realtime.calls.accept(call_id, type="realtime")
        ok = await app.phone.answered()
        await app.media.accept(body_of(ok).decode())
        with pytest.raises(openai.PermissionDeniedError):
            await app.client.realtime.calls.refer(call_id, target_uri="tel:+1900555")
        with pytest.raises(openai.BadRequestError):
            await app.client.realtime.calls.refer(call_id, target_uri="sip:a@b\r\nVia: c")
        await app.client.realtime.calls.refer(call_id, target_uri="tel:+49 30 12345".replace(" ", "-"))
        refer = await app.phone.request(b"REFER")
        assert b"tel:+493012345" in header(refer, b"Refer-To")
        states = []
        async with app.client.realtime.connect(model="echo", extra_query={"call_id": call_id}) as sideband:
            # Busy the first time, and answered the second.
            for number, status in enumerate((b"100 Trying", b"486 Busy Here", b"100 Trying", b"200 OK")):
                app.phone.send_in_dialog(
                    ok,
                    b"NOTIFY",
                    (b"Event: refer", b"Subscription-State: active", b"Content-Type: message/sipfrag"),
                    b"SIP/2.0 " + status + b"\r\n",
                    cseq=2 + number,
                )
                event = json.loads(await sideband.recv_bytes())
                while event["type"] != "rtc_server.sip.state":
                    event = json.loads(await sideband.recv_bytes())
                states.append((event["state"], event["status_code"]))
        assert states == [
            *(("transferring", 100), ("transfer_failed", 486)),
            *(("transferring", 100), ("transferred", 200)),
        ]
        assert b"transferred" in header(await app.phone.request(b"BYE"), b"Reason")
        assert await app.num_calls() == 0


async def test_the_example_answers_and_says_what_it_hears(tmp_path: Path) -> None:
    port = free_port()
    async with application(tmp_path, **{"sip.webhook_url": f"http://{HOST}:{port}/"}) as app:
        variables = {
            "OPENAI_BASE_URL": f"{app.server_url}/v1",
            "OPENAI_API_KEY": KEY,
            "OPENAI_WEBHOOK_SECRET": SECRET,
        }
        example = await asyncio.create_subprocess_exec(
            *(sys.executable, "examples/answer_calls.py", str(port)),
            env={**os.environ, **variables},
            stdout=asyncio.subprocess.PIPE,
        )
        printed = example.stdout
        assert printed is not None
        try:
            async with asyncio.timeout(30), aiohttp.ClientSession() as http:
                while True:  # until it listens
                    with contextlib.suppress(aiohttp.ClientConnectionError):
                        async with http.post(f"http://{HOST}:{port}/", data=b"{}") as reply:
                            assert reply.status == 400, "it took a webhook without a signature"
                            break
                    await asyncio.sleep(0.05)
                app.phone.invite(await app.media.offer())
                ok = await app.phone.answered()
                await app.media.accept(body_of(ok).decode())
                assert b"ann@example.org" in await printed.readline()
                app.media.say("f0_rms.wav")
                while not (await printed.readline()).startswith(b"server:"):
                    pass
                app.phone.send_in_dialog(ok, b"BYE", cseq=2)
                while (line := await printed.readline()) != b"the call is over\n":
                    assert line
        finally:
            example.terminate()
            await example.communicate()


async def test_who_may_call_a_telephone(tmp_path: Path) -> None:
    async with application(tmp_path) as app, aiohttp.ClientSession() as http:
        secret = (await app.client.realtime.client_secrets.create()).value
        for key, codes in ((secret, {"insufficient_permissions"}), (KEY, {"insufficient_permissions", "not_enabled"})):
            async with http.post(
                f"{app.server_url}/v1/realtime/calls",
                json={"target_uri": "tel:+493012345"},
                headers={"Authorization": f"Bearer {key}"},
            ) as reply:
                assert (await reply.json())["error"]["code"] in codes


async def test_a_call_that_was_made_is_of_who_made_it(tmp_path: Path) -> None:
    settings = {"sip.dial_targets": ["sip:*"], "server.media_workers": 1}
    async with application(tmp_path, **settings) as app, aiohttp.ClientSession() as http:

        async def ask(method: str, path: str, key: str, body: object = None) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {key}"}
            async with http.request(method, app.server_url + path, json=body, headers=headers) as reply:
                return reply.status, await reply.json() if reply.content_type == "application/json" else None

        status, made = await ask("POST", "/v1/realtime/calls", KEY, {"target_uri": "sip:bob@example.org"})
        assert status == 201
        path = f"/v1/realtime/calls/{made['call_id']}"
        invite = await app.phone.request(b"INVITE")
        assert (await ask("GET", path, OTHER_KEY))[0] == 404
        assert (await ask("POST", f"{path}/hangup", OTHER_KEY))[0] == 404
        assert await ask("GET", path, KEY) == (200, {"call_id": made["call_id"], "state": "ringing"})
        # What would carry it is lost: nobody is let ring for it.
        app.phone.ring(invite)
        (worker,) = (p for p in psutil.Process().children() if "rtc_server.media.worker" in p.cmdline())
        worker.kill()
        await app.phone.request(b"CANCEL")
        assert await ask("GET", path, KEY) == (200, {"call_id": made["call_id"], "state": "failed"})


async def test_a_killed_adapter_ends_telephone_calls_and_the_next_one_is_taken(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.webhook_url": ""}) as app, sdp_peer(label=None) as other:
        app.phone.invite(await app.media.offer())
        ok = await app.phone.answered()
        await app.media.accept(body_of(ok).decode())
        (adapter,) = (p for p in psutil.Process().children() if "rtc_server.sip.worker" in p.cmdline())
        adapter.kill()
        for _ in range(200):
            if not await app.num_calls():
                break
            await asyncio.sleep(0.05)
        assert await app.num_calls() == 0
        offer = await other.offer()
        for _ in range(40):  # as telephones do, which send an INVITE again until it is answered
            app.phone.received.clear()
            app.phone.invite(offer)
            await asyncio.sleep(0.5)
            if app.phone.received:
                break
        await other.accept(body_of(await app.phone.answered()).decode())
        app.phone.send_in_dialog(ok, b"BYE", cseq=2)
        await app.phone.status(481, b"BYE")


async def test_only_so_many_telephones_ring_at_once(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.dial_targets": ["*"]}) as app, aiohttp.ClientSession() as http:
        codes = []
        for _ in range(MAX_CALLING + 1):
            async with http.post(
                f"{app.server_url}/v1/realtime/calls",
                json={"target_uri": "sip:bob@example.org"},
                headers={"Authorization": f"Bearer {KEY}"},
            ) as reply:
                codes.append((reply.status, (await reply.json()).get("error", {}).get("code")))
        assert codes == [*[(201, None)] * MAX_CALLING, (503, "server_full")]


async def test_a_secret_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    flags = {
        **DEFAULTS,
        "sip.enabled": True,
        "sip.webhook_url": "https://example.org/hook",
        "sip.webhook_secret_file": str(tmp_path / "none"),
    }
    settings = load_settings(Path("config/server.toml"), flags)
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve(settings, lambda _: None)
    assert caught.group_contains(ConfigError, match=r"sip\.webhook_secret_file")


def test_the_words_of_the_api_in_the_webhook_are_documented() -> None:
    text = Path("docs/sip.md").read_text(encoding="utf-8")
    for word in ("realtime.call.incoming", "sip_headers", "webhook-signature", "X-RTC-Source"):
        assert word in text
    assert json.dumps({"target_uri": "tel:+493012345"})[1:-1] in text
