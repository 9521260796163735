"""A caller gives up at the moment at which the application accepts: whichever the adapter reads first, both sides agree
on what came of the call, and nothing is left of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import openai
import psutil
import pytest

from benchmarks.support.sip_words import header, status_of
from tests.sip.test_control import Application, application
from tests.sip.test_delayed_offers import until_no_calls
from tests.support.sdp_peer import sdp_peer

pytest.importorskip("sippy", reason="sippy is not installed (the extra sip)")

ROUNDS = 4


async def race(app: Application, adapter: psutil.Process, offer: str, *, caller_first: bool) -> int:
    """Both at once; the final status that the caller hears. The call is over afterwards."""
    phone = app.phone
    phone.received.clear()
    invite = phone.invite(offer)
    call_id = str((await app.event()).data.call_id)
    await phone.status(180, b"INVITE")
    adapter.suspend()  # so that it finds both when it goes on
    try:
        if caller_first:
            phone.cancel(invite)
        await app.client.realtime.calls.accept(call_id, type="realtime")
        if not caller_first:
            phone.cancel(invite)
    finally:
        adapter.resume()
    final = await phone.until(lambda m: (status_of(m) or 0) >= 200 and header(m, b"CSeq").endswith(b"INVITE"))
    status = status_of(final) or 0
    await phone.until(lambda m: status_of(m) in (200, 481) and header(m, b"CSeq").endswith(b"CANCEL"))
    phone.send_in_dialog(final, b"ACK")
    if status == 200:  # RFC 3261 section 9.1: too late; who gave up hangs up
        phone.send_in_dialog(final, b"BYE", cseq=2)
        await phone.status(200, b"BYE")
    async with asyncio.timeout(10):
        while await app.num_telephones():  # noqa: ASYNC110 - the server's
            await asyncio.sleep(0.02)
    await until_no_calls(app)
    with pytest.raises(openai.NotFoundError):
        await app.client.realtime.calls.hangup(call_id)
    finals = {status_of(m) for m in phone.received if header(m, b"CSeq") == b"1 INVITE"} - {100, 180}
    assert finals == {status}, "one final response, however often it was repeated"
    return status


@pytest.mark.parametrize("offers", [True, False], ids=["their offer", "our offer"])
async def test_giving_up_while_it_is_accepted(tmp_path: Path, offers: bool) -> None:
    seen: Counter[int] = Counter()
    async with application(tmp_path) as app, sdp_peer(label=None) as other:
        (adapter,) = (p for p in psutil.Process().children() if "rtc_server.sip.worker" in p.cmdline())
        offer = await other.offer() if offers else ""
        for number in range(ROUNDS):
            seen[await race(app, adapter, offer, caller_first=bool(number % 2))] += 1
        assert set(seen) <= {200, 487}, seen
        # The adapter goes on.
        app.phone.received.clear()
        app.phone.invite(await app.media.offer())
        await app.event()
        await app.phone.status(180, b"INVITE")


async def test_giving_up_before_it_is_accepted(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        invite = app.phone.invite(await app.media.offer())
        call_id = str((await app.event()).data.call_id)
        app.phone.cancel(invite)
        await app.phone.status(487, b"INVITE")
        for _ in range(100):  # until the server has read it too
            try:
                await app.client.realtime.calls.accept(call_id, type="realtime")
            except openai.NotFoundError:
                break
            await asyncio.sleep(0.02)
        await until_no_calls(app)


async def test_giving_up_after_it_was_answered_changes_nothing(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.webhook_url": ""}) as app:
        invite = app.phone.invite(await app.media.offer())
        ok = await app.phone.answered()
        app.phone.cancel(invite)
        await app.phone.status(481, b"CANCEL")
        assert await app.num_calls() == 1
        app.phone.send_in_dialog(ok, b"BYE", cseq=2)
        await until_no_calls(app)
