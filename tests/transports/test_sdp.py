"""Offers: what a voice client sends is taken, everything else is refused with a sentence that says why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_server.errors import InvalidSdpError, SdpTooLargeError
from rtc_server.transports.sdp import MAX_SDP_BYTES, is_usable_candidate, validate_offer

FINGERPRINT = "a=fingerprint:sha-256 " + ":".join(["AB"] * 32)


def offer(*extra: str, drop: tuple[str, ...] = (), application: bool = True) -> bytes:
    """A small valid offer; `extra` lines go into the audio section, lines starting with one of `drop` go away."""
    lines = [
        "v=0",
        "o=- 1 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 0",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:EsAw",
        "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
        FINGERPRINT,
        "a=setup:actpass",
        "a=mid:0",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtpmap:111 opus/48000/2",
        "a=rtpmap:0 PCMU/8000",
        *extra,
    ]
    if application:
        lines += [
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            "c=IN IP4 0.0.0.0",
            "a=ice-ufrag:EsAw",
            "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
            FINGERPRINT,
            "a=setup:actpass",
            "a=mid:1",
            "a=sctp-port:5000",
        ]
    return "\r\n".join([line for line in lines if not line.startswith(drop or ("\0",))] + [""]).encode()


@pytest.mark.parametrize(
    ("line", "port", "said", "left"),
    [
        (b"c=IN IP4 0.0.0.0", b"4000", b"sendrecv", "sendonly"),
        (b"c=IN IP4 0.0.0.0", b"4000", b"recvonly", "inactive"),
        (b"c=IN IP4 0.0.0.0/127", b"4000", b"sendonly", "sendonly"),
        (b"c=IN IP6 ::", b"4000", b"sendrecv", "sendonly"),
        (b"c=IN IP4 192.0.2.1", b"4000", b"sendrecv", "sendrecv"),
        (b"c=IN IP4 0.0.0.0", b"9", b"sendrecv", "sendrecv"),  # candidates follow
    ],
)
def test_a_telephone_holds_with_an_address_of_zeros(line: bytes, port: bytes, said: bytes, left: str) -> None:
    text = offer(application=False).replace(b"BUNDLE 0 1", b"BUNDLE 0").replace(b"m=audio 9", b"m=audio " + port)
    text = text.replace(b"a=sendrecv", b"a=" + said).replace(b"c=IN IP4 0.0.0.0", line)
    of_session = text.replace(line + b"\r\n", b"").replace(b"t=0 0", line + b"\r\nt=0 0")
    for body in (text, of_session):
        taken = validate_offer(body, is_telephone=True)
        assert (taken.direction, taken.takes_audio) == (left, left in ("sendrecv", "recvonly"))
        if said != b"recvonly":  # refused of a browser
            assert validate_offer(body).direction == said.decode()


def test_an_offer_with_audio_and_data_channel_is_taken() -> None:
    taken = validate_offer(offer())
    assert taken.has_data_channel
    assert taken.num_candidates == 0
    assert taken.fingerprints == ("sha-256 " + ":".join(["AB"] * 32),)
    assert taken.sdp.encode() == offer()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\r\n\r\n", "is empty", id="only-newlines"),
        pytest.param(b"hello", "does not start with 'v=0'", id="garbage"),
        pytest.param(b"\xff\xfe\x00", "not UTF-8", id="binary"),
        pytest.param(b"v=0\r\nnot a line", "Line 2", id="malformed-line"),
        pytest.param(b"v=0\r\na=x\x00y", "Line 2", id="control-character"),
        pytest.param(b"v=0\r\ns=-", "one audio m-line", id="no-media"),
        pytest.param(offer().replace(b"m=audio", b"m=video"), "one audio m-line", id="video-only"),
        pytest.param(offer("m=audio 9 UDP/TLS/RTP/SAVPF 111"), "one audio m-line", id="two-audio-lines"),
        pytest.param(offer(drop=("a=fingerprint",)), "no DTLS fingerprint", id="no-fingerprint"),
        pytest.param(offer().replace(b"sha-256", b"sha-1"), "must be sha-256", id="weak-fingerprint"),
        pytest.param(offer().replace(b":AB:AB", b":AB"), "32 hexadecimal pairs", id="short-fingerprint"),
        pytest.param(offer(drop=("a=ice-ufrag",)), "ice-ufrag", id="no-ufrag"),
        pytest.param(offer().replace(b"EsAw", b"abc"), "ice-ufrag", id="short-ufrag"),
        pytest.param(offer().replace(b"P2uYro0UCOQ4zxjKXaWCBui1", b"short"), "ice-pwd", id="short-pwd"),
        pytest.param(
            offer(drop=("a=rtpmap:111",)).replace(b"SAVPF 111 0", b"SAVPF 111"),
            "no audio codec",
            id="no-codec",
        ),
        pytest.param(offer().replace(b"m=audio 9", b"m=audio 99999"), "malformed", id="port-99999"),
        pytest.param(offer().replace(b"SAVPF 111 0", b"SAVPF 111 999"), "payload type", id="payload-type-999"),
        pytest.param(offer().replace(b"UDP/TLS/RTP/SAVPF", b"RTP/AVP"), "must use", id="plain-rtp"),
        pytest.param(offer().replace(b"c=IN IP4 0.0.0.0", b"c=IN"), "c-line", id="broken-c-line"),
        pytest.param(offer().replace(b"a=setup:actpass", b"a=setup:maybe"), "a=setup", id="unknown-setup"),
        pytest.param(offer().replace(b"a=sendrecv", b"a=inactive"), "sends no audio", id="inactive"),
        pytest.param(b"v=0\r\n" + b"a=x\r\n" * 600, "lines", id="too-many-lines"),
    ],
)
def test_a_bad_offer_is_refused_with_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidSdpError) as refused:
        validate_offer(body)
    assert sentence in refused.value.message
    assert refused.value.status == 400


def test_an_offer_of_one_megabyte_is_too_large() -> None:
    with pytest.raises(SdpTooLargeError) as refused:
        validate_offer(b"v=0\r\n" + b"a=x:" + b"y" * 1_000_000)
    assert refused.value.status == 413
    assert str(MAX_SDP_BYTES) in refused.value.message


def candidate(address: str, *, transport: str = "udp", port: int = 50_000, kind: str = "host") -> str:
    return f"1 1 {transport} 2122260223 {address} {port} typ {kind}"


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (candidate("203.0.113.7"), True),
        (candidate("192.168.1.5"), True),
        (candidate("2001:db8::1"), True),
        (candidate("203.0.113.7", kind="srflx"), True),
        (candidate("127.0.0.1"), False),
        (candidate("::1"), False),
        (candidate("169.254.169.254"), False),
        (candidate("fe80::1"), False),
        (candidate("224.0.0.1"), False),
        (candidate("0.0.0.0"), False),
        (candidate("printer.local"), False),
        (candidate("example.com"), False),
        (candidate("203.0.113.7", transport="tcp"), False),
        (candidate("203.0.113.7", port=0), False),
        (candidate("203.0.113.7", port=99999), False),
        (candidate("203.0.113.7", kind="magic"), False),
        ("", False),
        ("1 1 udp", False),
    ],
)
def test_only_numeric_udp_candidates_of_reachable_addresses_are_used(text: str, usable: bool) -> None:
    assert is_usable_candidate(text) is usable


def test_loopback_candidates_count_only_for_callers_on_this_machine() -> None:
    body = offer(f"a=candidate:{candidate('127.0.0.1')}")
    assert validate_offer(body).num_candidates == 0
    assert validate_offer(body, allow_loopback=True).num_candidates == 1


def test_unusable_candidates_are_dropped_and_the_rest_of_the_offer_kept() -> None:
    body = offer(f"a=candidate:{candidate('x.local')}", f"a=candidate:{candidate('203.0.113.7')}")
    taken = validate_offer(body)
    assert taken.num_candidates == 1
    assert "x.local" not in taken.sdp
    assert "203.0.113.7" in taken.sdp


@pytest.mark.parametrize("count", [17, 60])
def test_an_offer_cannot_make_the_server_send_to_many_addresses(count: int) -> None:
    lines = [f"a=candidate:{candidate(f'203.0.113.{i}')}" for i in range(1, count + 1)]
    with pytest.raises(InvalidSdpError, match="too many"):
        validate_offer(offer(*lines))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_an_offer_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidSdpError):
        validate_offer(body)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_offer_is_an_offer_or_refused(data: st.DataObject) -> None:
    body = bytearray(offer(f"a=candidate:{candidate('203.0.113.7')}"))
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        validate_offer(bytes(body))
    except (InvalidSdpError, SdpTooLargeError) as refused:
        assert refused.message.endswith(".")  # noqa: PT017 - both outcomes are right
