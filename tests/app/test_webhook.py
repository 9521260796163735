"""The webhook of a call that rings, as a receiver with OpenAI's SDK sees it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openai import InvalidWebhookSignatureError, OpenAI

from rtc_server import metrics
from rtc_server.app.webhook import IncomingCallWebhook, read_secrets
from rtc_server.app.webhook_signature import make_secret, parse_secrets, signed_headers
from rtc_server.config import SipSection
from rtc_server.errors import ConfigError, WebhookError
from rtc_server.sip.base import IncomingCall

CALL = IncomingCall(
    "rtc_1",
    (("From", '"Ann" <sip:ann@example.org>;tag=1'), ("X-A", "1"), ("X-A", "zwei \u00fc"), ("To", "<sip:bot@x>")),
)
SECRET = make_secret()


@dataclass(slots=True)
class Receiver:
    """What came, and what it is answered; the last status is that of all others."""

    statuses: Sequence[int] = (200,)
    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    on_request: Callable[[], object] = lambda: None
    hangs: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        self.on_request()
        if self.hangs:
            await self.over.wait()
        status = self.statuses[min(len(self.requests), len(self.statuses)) - 1]
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 307 else {})


@asynccontextmanager
async def receiving(**fields: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver(**fields)
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"{site.name}/hook"
    try:
        yield receiver
    finally:
        receiver.over.set()
        await runner.cleanup()


@asynccontextmanager
async def webhook(
    receiver: Receiver, rings: Callable[[str], bool] = lambda _: True, **arguments: Any
) -> AsyncIterator[IncomingCallWebhook]:
    arguments = {"pauses_seconds": (0.0, 0.0), **arguments}
    made = IncomingCallWebhook(receiver.url, parse_secrets(SECRET), rings, **arguments)
    try:
        yield made
    finally:
        await made.close()


def unwrapped(request: tuple[dict[str, str], bytes], secret: str = SECRET) -> Any:
    """By the stock SDK, which checks the signature."""
    headers, body = request
    with OpenAI(api_key="sk_x") as client:
        return client.webhooks.unwrap(body, headers, secret=secret)


async def test_the_stock_sdk_takes_it_and_reads_every_header_in_order() -> None:
    async with receiving() as receiver, webhook(receiver) as hook:
        await hook.tell(CALL)
    (request,) = receiver.requests
    event = unwrapped(request)
    assert event.type == "realtime.call.incoming"
    assert event.data.call_id == "rtc_1"
    assert tuple((header.name, header.value) for header in event.data.sip_headers) == CALL.headers
    assert event.id == request[0]["webhook-id"]
    with pytest.raises(InvalidWebhookSignatureError):
        unwrapped(request, make_secret())
    with pytest.raises(InvalidWebhookSignatureError):
        unwrapped((request[0], request[1].replace(b"rtc_1", b"rtc_2")))


async def test_two_secrets_are_both_good_while_one_takes_the_place_of_the_other() -> None:
    other = make_secret()
    headers = signed_headers(parse_secrets(f"{SECRET}\n# new\n\n{other}\n"), "evt_1", 10, b"{}")
    with OpenAI(api_key="sk_x") as client:
        for secret in (SECRET, other):
            client.webhooks.verify_signature(b"{}", headers, secret=secret, tolerance=10**10)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_it_is_sent_again_under_the_same_id_until_it_is_taken(status: int) -> None:
    async with receiving(statuses=(status, status, 204)) as receiver, webhook(receiver) as hook:
        await hook.tell(CALL)
    assert len(receiver.requests) == 3
    assert len({unwrapped(request).id for request in receiver.requests}) == 1


@pytest.mark.parametrize("status", [307, 400, 401, 404])
async def test_a_refusal_is_final_and_a_redirect_is_not_followed(status: int) -> None:
    async with receiving(statuses=(status, 200)) as receiver, webhook(receiver) as hook:
        with pytest.raises(WebhookError) as caught:
            await hook.tell(CALL)
    assert len(receiver.requests) == 1
    assert (caught.value.status, caught.value.code) == (503, "webhook_failed")


async def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    failed = metrics.WEBHOOKS.labels("failed")
    before = failed._value.get()
    async with receiving() as receiver:
        pass
    async with webhook(receiver) as hook:
        with pytest.raises(WebhookError):
            await hook.tell(CALL)
    assert failed._value.get() == before + 1
    assert "ann" not in caplog.text.lower()


async def test_a_receiver_that_does_not_answer_is_given_up() -> None:
    async with receiving(hangs=True) as receiver, webhook(receiver, attempt_seconds=0.1) as hook:
        with pytest.raises(WebhookError):
            await hook.tell(CALL)
    assert len(receiver.requests) == 3


async def test_a_call_that_is_accepted_before_the_reply_is_told_of_once() -> None:
    accepted: list[bool] = []
    async with (
        receiving(statuses=(500,), on_request=lambda: accepted.append(True)) as receiver,
        webhook(receiver, rings=lambda _: not accepted) as hook,
    ):
        await hook.tell(CALL)
    assert len(receiver.requests) == 1


def test_a_secret_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    section = SipSection(webhook_url="https://example.org/", webhook_secret_file=str(file))
    short = "whsec_" + base64.b64encode(b"short").decode()
    with pytest.raises(ConfigError, match="cannot read"):
        read_secrets(section)
    for text, problem in (
        ("", "0 secrets"),
        ("hunter2", "line 1"),
        (f"{SECRET}\nwhsec_!", "line 2"),
        (short, "5 bytes"),
        ("\n".join([SECRET] * 5), "5 secrets"),
        ("\u00fc", "not a text file"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=problem) as caught:
            read_secrets(section)
        assert "hunter2" not in caught.value.message
    file.write_text(f"{SECRET}\n", encoding="ascii")
    assert read_secrets(section) == parse_secrets(SECRET)


async def test_without_a_url_there_is_no_webhook() -> None:
    assert IncomingCallWebhook.of(SipSection(), lambda _: True) is None
