"""Telephones that want to hear our offer first (RFC 3261 section 13.2.1): an INVITE without a description, our offer in
the 200, their answer in the ACK. The same within a call (section 14.2)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.support.sip_words import body_of, header, status_of
from tests.sip.test_control import Application, application
from tests.sip.test_dialled_calls import WHERE_CALLS_LIVE, answer_of

pytest.importorskip("sippy", reason="sippy is not installed (the extra sip)")


async def call(app: Application) -> bytes:
    """Call without an offer, and answer the server's; the 200. Media flows."""
    app.phone.invite("")
    ok = await app.phone.status(200, b"INVITE")
    app.phone.send_in_dialog(ok, b"ACK", body=await answer_of(app.media, body_of(ok)))
    await app.media.until(lambda: app.media.pc.connectionState == "connected")
    return ok


async def reinvite(app: Application, ok: bytes, cseq: int, body: bytes = b"") -> bytes:
    """A final response to a re-INVITE."""
    app.phone.send_in_dialog(ok, b"INVITE", body=body, cseq=cseq)
    number = b"%d INVITE" % cseq
    return await app.phone.until(lambda m: (status_of(m) or 0) >= 200 and header(m, b"CSeq") == number)


async def until_no_calls(app: Application) -> None:
    async with asyncio.timeout(10):
        while await app.num_calls():  # noqa: ASYNC110 - the server's
            await asyncio.sleep(0.02)


async def test_a_call_without_an_offer_is_answered_with_ours_and_talked_to(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.webhook_url": ""}) as app:
        ok = await call(app)
        for codec in (b"opus/48000/2", b"G722/8000", b"PCMU/8000", b"PCMA/8000", b"telephone-event/8000"):
            assert codec in body_of(ok)
        app.media.say("f0_rms.wav")
        await app.media.until(lambda: app.media.num_loud > 20)  # the reply
        assert await app.num_calls() == 1
        app.phone.send_in_dialog(ok, b"BYE", cseq=2)
        await app.phone.status(200, b"BYE")
        await until_no_calls(app)


async def test_an_echo_test_without_an_offer_is_one(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.webhook_url": "", "server.echo_test": True}) as app:
        app.phone.name = "echo"
        ok = await call(app)
        app.media.say("f0_rms.wav")
        await app.media.until(lambda: app.media.num_loud > 20)
        app.phone.send_in_dialog(ok, b"BYE", cseq=2)
        await until_no_calls(app)


async def test_an_application_accepts_and_follows_it_before_the_ack_has_come(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        app.phone.invite("", b"X-Note: hello")
        call_id = str((await app.event()).data.call_id)
        await app.client.realtime.calls.accept(call_id, type="realtime", instructions="Be brief.")
        ok = await app.phone.status(200, b"INVITE")
        async with app.client.realtime.connect(model="echo", extra_query={"call_id": call_id}) as sideband:
            app.phone.send_in_dialog(ok, b"ACK", body=await answer_of(app.media, body_of(ok)))
            event = await sideband.recv()
            assert event.type == "session.created"
            assert event.session.instructions == "Be brief."
        await app.media.until(lambda: app.media.pc.connectionState == "connected")
        await app.client.realtime.calls.hangup(call_id)
        await app.phone.request(b"BYE")
        await until_no_calls(app)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", b""),
        (b"v=0\r\nnothing of use\r\n", b"application/sdp"),
        (b"\xff\xfe", b"application/sdp"),
        (b"v=0\r\n", b"text/plain"),
    ],
    ids=["none", "not a description", "not text", "of another kind"],
)
async def test_an_ack_without_an_answer_ends_the_call(tmp_path: Path, body: bytes, kind: bytes) -> None:
    async with application(tmp_path, **{"sip.webhook_url": ""}) as app:
        app.phone.invite("")
        ok = await app.phone.status(200, b"INVITE")
        app.phone.send_in_dialog(ok, b"ACK", (b"Content-Type: " + kind,) if kind else (), body)
        assert header(await app.phone.request(b"BYE"), b"Reason").endswith(b'"invalid_sdp"')
        await until_no_calls(app)


async def test_hanging_up_before_the_ack_leaves_nothing(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        app.phone.invite("")
        call_id = str((await app.event()).data.call_id)
        await app.client.realtime.calls.accept(call_id, type="realtime")
        ok = await app.phone.status(200, b"INVITE")
        await app.client.realtime.calls.hangup(call_id)
        await app.phone.request(b"BYE")
        app.phone.send_in_dialog(ok, b"ACK", body=await answer_of(app.media, body_of(ok)))
        await until_no_calls(app)


@WHERE_CALLS_LIVE
async def test_a_running_call_is_asked_for_an_offer_held_and_resumed(tmp_path: Path, workers: int) -> None:
    """As Cisco's exchanges do for music on hold."""
    async with application(tmp_path, **{"sip.webhook_url": "", "server.media_workers": workers}) as app:
        ok = await call(app)
        answer = str(app.media.pc.localDescription.sdp).encode()
        (call_id,) = await app.live_calls()
        async with app.client.realtime.connect(model="echo", extra_query={"call_id": call_id}) as sideband:
            for cseq, direction, event in ((2, b"inactive", "held"), (4, b"sendrecv", "resumed")):
                offered = await reinvite(app, ok, cseq)
                assert status_of(offered) == 200
                assert b"a=sendrecv" in body_of(offered)
                assert b"a=setup:actpass" in body_of(offered)
                # Another one before the answer: our offer stands.
                assert status_of(await reinvite(app, ok, cseq + 1, answer)) == 491
                theirs = answer.replace(b"a=sendrecv", b"a=" + direction)
                app.phone.send_in_dialog(offered, b"ACK", body=theirs)
                while (told := (await sideband.recv()).type) != f"rtc_server.call.{event}":
                    assert told
        app.phone.send_in_dialog(ok, b"BYE", cseq=30)
        await until_no_calls(app)


async def test_an_offer_within_the_call_that_is_not_answered_changes_nothing(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.webhook_url": "", "server.echo_test": True}) as app:
        app.phone.name = "echo"
        ok = await call(app)
        strange = str(app.media.pc.localDescription.sdp).encode().replace(b"sha-256 ", b"sha-256 00:", 1)
        for cseq, answer in ((2, b""), (3, strange)):
            offered = await reinvite(app, ok, cseq)
            assert status_of(offered) == 200
            app.phone.send_in_dialog(offered, b"ACK", body=answer)
        app.media.say("f0_rms.wav")
        await app.media.until(lambda: app.media.num_loud > 20)
        app.phone.send_in_dialog(ok, b"BYE", cseq=4)
        await until_no_calls(app)
