"""Messages that are valid, however odd: whoever may call gets through, and whoever may not hears so.

`TAKEN_OR_REFUSED` is for what sippy's parser does not know (a telephone number as From, spaces within Via): those
callers hear an error, in place of nothing."""

from __future__ import annotations

from tests.sip.torture.build import (
    CHALLENGED,
    DROPPED,
    PHONE_SDP,
    REFUSED,
    TAKEN,
    TAKEN_OR_REFUSED,
    Message,
    Request,
    invite,
)

_VIA = b"SIP/2.0/UDP %HOST%:%PORT%;branch=z9hG4bK%ID%;rport"
_BOUNDARY = b"seven-of-nine"


def _spelled(*changes: tuple[bytes, bytes]) -> bytes:
    data = invite()
    for old, new in changes:
        assert old in data, old
        data = data.replace(old, new)
    return data


def _multipart() -> bytes:
    parts = (b"Content-Type: text/plain\r\n\r\nhello\r\n", b"Content-Type: application/sdp\r\n\r\n" + PHONE_SDP)
    body = b"".join(b"--" + _BOUNDARY + b"\r\n" + part for part in parts) + b"--" + _BOUNDARY + b"--\r\n"
    return invite(body, content_type=b'multipart/mixed;boundary="' + _BOUNDARY + b'"')


def _odd(name: str, data: bytes, trunk: frozenset[str] = TAKEN, stranger: frozenset[str] = CHALLENGED) -> Message:
    return Message(name, data, stranger, trunk)


ODD = (
    _odd("plain", invite()),
    _odd(
        "headers_folded_over_lines",
        _spelled(
            (b"From: ", b"From:\r\n "),
            (b"Max-Forwards: 70", b"Max-Forwards:\r\n\t  70"),
            (b";tag=", b"\r\n ;tag=\r\n  "),
        ),
    ),
    _odd(
        "compact_header_names",
        _spelled(
            (b"Via:", b"v:"),
            (b"From:", b"f:"),
            (b"To:", b"t:"),
            (b"Call-ID:", b"i:"),
            (b"Contact:", b"m:"),
            (b"Content-Type:", b"c:"),
            (b"Content-Length:", b"l:"),
        ),
    ),
    _odd(
        "header_names_in_any_case_without_spaces",
        _spelled(
            (b"Via: ", b"vIA:"),
            (b"From: ", b"fROM:"),
            (b"To: ", b"TO:"),
            (b"Call-ID: ", b"cALL-iD:"),
            (b"CSeq: ", b"cseq:"),
        ),
    ),
    _odd("space_before_colons", _spelled((b"From:", b"From  :"), (b"CSeq:", b"CSeq\t:"), (b"To:", b"To :\t"))),
    _odd("space_around_parameters", _spelled((b";tag=", b" ; tag = "), (b";branch=", b" ;\tbranch = "))),
    _odd("escaped_letters_in_user", Request(target=b"sip:%61gen%74@%EDGE%").encode()),
    _odd(
        "password_and_parameters_in_user",
        invite(**{"from": b"<sip:caller;note=a%40b:secret@example.net;user=phone?Subject=hi>;tag=f%ID%"}),
    ),
    _odd("unknown_uri_parameters", Request(target=b"sip:agent@%EDGE%;unknown=%20%20;flag;ttl=1").encode()),
    _odd("escaped_quotes_in_name", invite(**{"from": b'"J \\"\\\\\\" R \\<>;," <sip:caller@example.net>;tag=f%ID%'})),
    _odd("name_in_utf8", invite(**{"from": '"Ωλίβια 电话 ☎" <sip:caller@example.net>;tag=f%ID%'.encode()})),
    _odd("name_without_quotes", invite(**{"from": b"Some Body Else <sip:caller@example.net>;tag=f%ID%"})),
    _odd(
        "addresses_without_brackets", invite(**{"from": b"sip:caller@example.net;tag=f%ID%", "to": b"sip:agent@%EDGE%"})
    ),
    _odd(
        "telephone_number_as_from",
        invite(**{"from": b"<tel:+49-30-1234567;phone-context=example.net>;tag=f%ID%"}),
        TAKEN_OR_REFUSED,
    ),
    _odd("anonymous_caller", invite(**{"from": b'"Anonymous" <sip:anonymous@anonymous.invalid>;tag=f%ID%'})),
    _odd(
        "token_characters_in_tag_and_call_id",
        invite(**{"from": b"<sip:caller@example.net>;tag=-.!%*_+`'~%ID%", "call_id": b'()<>:\\"/[]?{}%ID%@[~!.*]'}),
    ),
    _odd(
        "extension_header_with_token_name",
        _spelled((b"Max-Forwards:", b"!Odd.Header*_+`'~: {whatever}\r\nMax-Forwards:")),
        TAKEN_OR_REFUSED | DROPPED,
        CHALLENGED | REFUSED | DROPPED,
    ),
    _odd("one_header_of_3000_bytes", invite(subject=b"long " * 600)),
    _odd("unknown_headers_by_the_hundred", invite(unknown=[b"%d" % number for number in range(100)])),
    _odd(
        "fifteen_vias",
        invite(via=[_VIA, *(b"SIP/2.0/TCP proxy%d.example.net;branch=z9hG4bKv%d" % (n, n) for n in range(14))]),
    ),
    _odd(
        "vias_in_one_header",
        invite(via=_VIA + b" , SIP / 2.0 / SCTP a.example.net ; branch=z9hG4bKx,SIP/2.0/TLS [2001:db8::9]:7"),
        TAKEN_OR_REFUSED,
    ),
    _odd(
        "own_route_recorded_by_many",
        invite(record_route=[b"<sip:p%d.example.net;lr>" % number for number in range(12)]),
    ),
    _odd("empty_optional_headers", invite(subject=b"", supported=b"", user_agent=b"")),
    _odd("empty_lines_first", b"\r\n\r\n" + invite(), TAKEN_OR_REFUSED | DROPPED, CHALLENGED | DROPPED),
    _odd(
        "ipv6_in_from_and_organization",
        invite(**{"from": b"<sip:caller@[2001:db8::7]:5090>;tag=f%ID%", "organization": b"[::1]"}),
    ),
    _odd("cseq_with_leading_zeros", invite(cseq=b"0000000007 INVITE")),
    _odd("cseq_at_its_largest", invite(cseq=b"2147483646 INVITE")),
    _odd("no_max_forwards", invite(max_forwards=None)),
    _odd("date_of_another_calendar", invite(date=b"Sat, 01 Dec 2040 16:00:00 EST"), TAKEN_OR_REFUSED),
    _odd("no_content_length_on_udp", invite(content_length=None), TAKEN_OR_REFUSED),
    _odd("bytes_after_the_body", invite(PHONE_SDP + b"%END%trailing rubbish"), TAKEN_OR_REFUSED, CHALLENGED | REFUSED),
    _odd(
        "content_type_with_parameters",
        invite(content_type=b'Application/SDP ; charset=utf-8;q="a;b"'),
        TAKEN_OR_REFUSED,
    ),
    _odd("body_in_several_parts", _multipart(), TAKEN_OR_REFUSED),
    _odd("no_body_at_all", invite(b""), TAKEN_OR_REFUSED),
    _odd("accepts_nothing", invite(accept=b""), TAKEN_OR_REFUSED),
    _odd("accepts_only_text", invite(accept=b"text/plain;q=0.1"), TAKEN_OR_REFUSED),
    _odd(
        "branch_of_the_year_1999",
        invite(via=b"SIP/2.0/UDP %HOST%:%PORT%;branch=%ID%;rport"),
        TAKEN_OR_REFUSED,
        CHALLENGED | REFUSED,
    ),
    _odd(
        "from_without_tag_as_in_1999",
        invite(**{"from": b"<sip:caller@example.net>"}),
        TAKEN_OR_REFUSED,
        CHALLENGED | REFUSED,
    ),
    _odd(
        "forged_trust_headers",
        invite(x_rtc_user=b"admin", x_rtc_source=b"127.0.0.1;udp", p_asserted_identity=b"<sip:ceo@example.net>"),
    ),
    _odd("joins_a_call_that_is_not_there", invite(replaces=b"nobody@nowhere;to-tag=1;from-tag=2"), TAKEN_OR_REFUSED),
    _odd(
        "credentials_nobody_asked_for",
        invite(authorization=b'Digest username="x", realm="elsewhere", nonce="", uri="sip:a", response=""'),
    ),
    _odd("options_from_anybody", Request(b"OPTIONS", body=b"").encode(), TAKEN_OR_REFUSED, TAKEN_OR_REFUSED | DROPPED),
    _odd("max_forwards_used_up", invite(max_forwards=b"0"), frozenset({"483"}), frozenset({"483"}) | CHALLENGED),
    _odd("requires_what_nobody_can", invite(require=b"nothingSupportsThis, norThis"), frozenset({"420"})),
    _odd("requires_what_no_proxy_can", invite(proxy_require=b"noProxySupportsThis"), frozenset({"420"}), REFUSED),
    _odd("body_nobody_can_read", invite(b"<vector/>", content_type=b"application/x-unheard-of"), REFUSED),
    _odd("body_that_is_compressed", invite(b"\x1f\x8b\x08\x00rubbish", content_encoding=b"gzip"), REFUSED),
    _odd(
        "telephone_number_as_target",
        Request(target=b"tel:+49301234567").encode(),
        TAKEN_OR_REFUSED,
        CHALLENGED | REFUSED,
    ),
)
"""Valid messages."""
