"""The arithmetic behind the measured round trip, and the telephone's own words."""

from __future__ import annotations

import random

import pytest

from benchmarks.support.sip_words import Account, credentials, header, headers, in_dialog
from benchmarks.support.tone_bursts import FRAME, Heard, bursts, round_trips_ms, share_returned

SILENCE = b"\xff" * FRAME


def echoed(payloads: list[bytes], delay: float, *, jitter: float = 0.0) -> tuple[list[float], list[Heard]]:
    rng = random.Random(1)
    sent = [number * 0.02 for number in range(len(payloads))]
    heard = [
        Heard(at + delay + rng.uniform(0.0, jitter), 65_500 + number & 0xFFFF, payload)
        for number, (at, payload) in enumerate(zip(sent, payloads, strict=True))
    ]
    return sent, heard


def test_each_tone_begins_elsewhere_in_its_frame() -> None:
    payloads, onsets = bursts(12)
    assert {len(payload) for payload in payloads} == {FRAME}
    assert len({onset % FRAME for onset in onsets}) == 12


def test_a_known_delay_is_measured_to_a_fraction_of_a_millisecond() -> None:
    payloads, onsets = bursts(10)
    sent, heard = echoed(payloads, 0.0437)
    measured = round_trips_ms(sent, onsets, heard)
    assert len(measured) == 10
    assert all(trip == pytest.approx(43.7, abs=0.3) for trip in measured)
    assert share_returned(payloads, heard) == 1.0


def test_silence_is_no_echo() -> None:
    payloads, onsets = bursts(4)
    sent, heard = echoed([SILENCE] * len(payloads), 0.02)
    assert round_trips_ms(sent, onsets, heard) == []
    assert share_returned(payloads, heard) == 0.0


def test_lost_and_doubled_packets_do_not_shift_the_other_tones() -> None:
    payloads, onsets = bursts(6)
    sent, heard = echoed(payloads, 0.03)
    first = onsets[0] // FRAME
    del heard[first : first + 5]  # the first tone is lost
    heard.append(heard[40])
    measured = round_trips_ms(sent, onsets, heard)
    assert len(measured) == 5
    assert all(trip == pytest.approx(30.0, abs=0.3) for trip in measured)


def test_the_digest_is_that_of_the_standards_example() -> None:
    # RFC 2617, 3.5
    challenge = (
        b'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        b'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    value = credentials(challenge, Account("Mufasa", "Circle Of Life"), "GET", "/dir/index.html")
    assert b'response="6629fae49393a05397450978507c4ef1"' in value


def test_a_request_in_a_dialog_goes_back_the_way_it_came() -> None:
    ok = (
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a\r\nRecord-Route: <sip:p1;lr>\r\nRecord-Route: <sip:p2;lr>\r\n"
        b"From: <sip:a>;tag=1\r\nTo: <sip:b>;tag=2\r\nCall-ID: x\r\nCSeq: 4 INVITE\r\n"
        b"Contact: <sip:b@192.0.2.1:5070>\r\n\r\n"
    )
    bye = in_dialog(ok, b"BYE", "192.0.2.9", 5060, "branch")
    assert bye.startswith(b"BYE sip:b@192.0.2.1:5070 SIP/2.0\r\n")
    assert headers(bye, b"Route") == [b"<sip:p2;lr>", b"<sip:p1;lr>"]
    assert header(bye, b"CSeq") == b"5 BYE"
