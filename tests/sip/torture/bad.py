"""Messages that are wrong: refused or dropped, never obeyed, and never more than that."""

from __future__ import annotations

import random

from tests.sip.torture.build import (
    ANYTHING,
    CHALLENGED,
    DROPPED,
    PHONE_SDP,
    REFUSED_OR_DROPPED,
    TAKEN_OR_REFUSED,
    Message,
    Request,
    invite,
)

LARGEST_DATAGRAM = 65_507  # of UDP over IPv4

_FROM = b"<sip:caller@example.net>;tag=f%ID%"
_DIGEST = b'Digest username="alice", realm="%EDGE%", nonce="%ID%", uri="sip:agent@%EDGE%", '
_ANSWERED_SOMEHOW = TAKEN_OR_REFUSED | CHALLENGED


def _bad(
    name: str,
    data: bytes,
    trunk: frozenset[str] = REFUSED_OR_DROPPED,
    stranger: frozenset[str] | None = None,
) -> Message:
    """`trunk`: what the known address may hear. A stranger may be asked for its password before anything is read."""
    return Message(name, data, trunk - {"2xx"} | CHALLENGED if stranger is None else stranger, trunk)


def _line(first: bytes) -> bytes:
    return first + invite()[invite().index(b"\r\n") :]


def _register(*contacts: bytes) -> bytes:
    headers = {b"Contact": contacts, b"Expires": b"0"}
    return Request(b"REGISTER", b"sip:%EDGE%", headers=headers, body=b"").encode()


def _in_dialog(method: bytes) -> bytes:
    return Request(method, headers={b"To": b"<sip:agent@%EDGE%>;tag=nobody"}, body=b"").encode()


def _without_dialog(method: bytes) -> bytes:
    return Request(method, headers={b"Event": b"presence", b"Refer-To": b"<sip:x@example.net>"}, body=b"").encode()


def _with_credentials(value: bytes) -> bytes:
    return invite(proxy_authorization=value, authorization=value)


def _response(status: bytes, **changed: bytes) -> bytes:
    data = invite(b"", **changed)
    return status + data[data.index(b"\r\n") :]


_START_LINES = (
    _bad("spaces_in_the_start_line", _line(b"INVITE  sip:agent@%EDGE%   SIP/2.0"), ANYTHING),
    _bad("space_after_the_start_line", _line(b"INVITE sip:agent@%EDGE% SIP/2.0  "), ANYTHING),
    _bad("target_in_brackets", _line(b"INVITE <sip:agent@%EDGE%> SIP/2.0")),
    _bad("target_with_a_space_in_it", _line(b"INVITE sip:agent@%EDGE%; lr SIP/2.0"), ANYTHING),
    _bad("target_without_scheme", _line(b"INVITE agent SIP/2.0")),
    _bad("target_of_unknown_scheme", _line(b"INVITE soap.beep://192.0.2.1:3002 SIP/2.0")),
    _bad("target_with_headers_in_it", _line(b"INVITE sip:agent@%EDGE%?Route=%3Csip:example.net%3E SIP/2.0"), ANYTHING),
    _bad("target_with_escaped_nul", _line(b"INVITE sip:a%00gent@%EDGE% SIP/2.0"), ANYTHING),
    _bad("target_with_broken_escapes", _line(b"INVITE sip:%zz%5@%EDGE% SIP/2.0"), ANYTHING),
    _bad("target_with_port_99999", _line(b"INVITE sip:agent@%EDGE%:99999 SIP/2.0"), ANYTHING),
    _bad("target_of_4000_letters", _line(b"INVITE sip:" + b"a" * 4000 + b"@%EDGE% SIP/2.0"), ANYTHING),
    _bad("no_target", _line(b"INVITE SIP/2.0")),
    _bad("no_version", _line(b"INVITE sip:agent@%EDGE%")),
    _bad("version_7", _line(b"INVITE sip:agent@%EDGE% SIP/7.0")),
    _bad("version_of_99_digits", _line(b"INVITE sip:agent@%EDGE% SIP/" + b"9" * 99 + b".0")),
    _bad("web_request", b"GET /admin HTTP/1.1\r\nHost: %EDGE%\r\n\r\n"),
    _bad("start_line_and_nothing_else", b"INVITE sip:agent@%EDGE% SIP/2.0\r\n\r\n"),
    _bad("headers_and_no_start_line", invite()[invite().index(b"\r\n") + 2 :]),
    _bad("lines_ended_by_bare_newlines", invite().replace(b"\r\n", b"\n"), ANYTHING),
    _bad("method_in_small_letters", Request(b"invite").encode()),
    _bad("method_unheard_of", Request(b"FROBNICATE", body=b"").encode()),
    _bad("method_of_token_characters", Request(b"!odd-Method_0123*+`.'~", body=b"").encode()),
    _bad("method_of_4000_letters", Request(b"M" * 4000, body=b"").encode()),
)

_HEADERS = (
    *(
        _bad(f"no_{name}", invite(**{name: None}), expected)
        for name, expected in (
            ("via", DROPPED),
            ("from", REFUSED_OR_DROPPED),
            ("to", REFUSED_OR_DROPPED),
            ("call_id", REFUSED_OR_DROPPED),
            ("cseq", REFUSED_OR_DROPPED),
            ("contact", TAKEN_OR_REFUSED | DROPPED),
        )
    ),
    *(
        _bad(f"empty_{name}", invite(**{name: b""}), REFUSED_OR_DROPPED)
        for name in ("via", "from", "to", "call_id", "cseq")
    ),
    _bad("cseq_negative", invite(cseq=b"-1 INVITE")),
    _bad("cseq_beyond_32_bits", invite(cseq=b"36893488147419103232 INVITE")),
    _bad("cseq_of_another_method", invite(cseq=b"1 BYE")),
    _bad("cseq_without_method", invite(cseq=b"1")),
    _bad("cseq_in_words", invite(cseq=b"one INVITE")),
    _bad("max_forwards_negative", invite(max_forwards=b"-3"), ANYTHING),
    _bad("max_forwards_huge", invite(max_forwards=b"300000000000"), ANYTHING),
    _bad("max_forwards_in_words", invite(max_forwards=b"seventy"), ANYTHING),
    _bad("from_twice", invite(**{"from": [_FROM, b"<sip:other@example.net>;tag=2"]}), ANYTHING),
    _bad("to_twice", invite(to=[b"<sip:agent@%EDGE%>", b"<sip:other@example.net>"]), ANYTHING),
    _bad("call_id_twice", invite(call_id=[b"%ID%@a", b"%ID%@b"]), ANYTHING),
    _bad("cseq_twice", invite(cseq=[b"1 INVITE", b"2 INVITE"]), ANYTHING),
    _bad("max_forwards_twice", invite(max_forwards=[b"70", b"5"]), ANYTHING),
    _bad("contact_twice", invite(contact=[b"<sip:a@%HOST%:%PORT%>", b"<sip:b@%HOST%:%PORT%>"]), ANYTHING),
    _bad("contact_is_a_star", invite(contact=b"*"), ANYTHING),
    _bad("contact_is_garbage", invite(contact=b";;;<<>>"), ANYTHING),
    _bad("contact_of_unknown_scheme", invite(contact=b"<mailto:caller@example.net>"), ANYTHING),
    _bad("from_with_open_quote", invite(**{"from": b'"never closed <sip:caller@example.net>;tag=f%ID%'})),
    _bad("to_with_open_bracket", invite(to=b'"Agent" <sip:agent@%EDGE%')),
    _bad("to_with_space_in_brackets", invite(to=b"< sip:agent@%EDGE% >"), ANYTHING),
    _bad("to_with_a_tag_nobody_gave", invite(to=b"<sip:agent@%EDGE%>;tag=unheard-of")),
    _bad("via_of_open_ipv6", invite(via=b"SIP/2.0/UDP [2001:db8::1;branch=z9hG4bK%ID%")),
    _bad("via_with_port_99999", invite(via=b"SIP/2.0/UDP %HOST%:99999;branch=z9hG4bK%ID%")),
    _bad("via_without_branch", invite(via=b"SIP/2.0/UDP %HOST%:%PORT%;rport"), ANYTHING),
    _bad("via_with_empty_branch", invite(via=b"SIP/2.0/UDP %HOST%:%PORT%;branch=;rport"), ANYTHING),
    _bad("via_with_only_the_cookie", invite(via=b"SIP/2.0/UDP %HOST%:%PORT%;branch=z9hG4bK;rport"), ANYTHING),
    _bad("via_of_unknown_version", invite(via=b"SIP/9.9/UDP %HOST%:%PORT%;branch=z9hG4bK%ID%;rport"), ANYTHING),
    _bad(
        "via_that_names_somebody_else",
        invite(via=b"SIP/2.0/UDP 192.0.2.77;received=192.0.2.78;branch=z9hG4bK%ID%"),
        ANYTHING,
    ),
    _bad(
        "seventy_vias",
        invite(via=[b"SIP/2.0/UDP %HOST%:%PORT%;branch=z9hG4bK%ID%" + b"%d" % n for n in range(70)]),
        ANYTHING,
    ),
    _bad("a_thousand_headers", invite(x=[b"y"] * 1000), ANYTHING),
    _bad(
        "header_without_colon", invite().replace(b"Max-Forwards: 70", b"Max-Forwards 70\r\nMax-Forwards: 70"), ANYTHING
    ),
    _bad("header_without_name", invite().replace(b"Max-Forwards: 70", b": nameless\r\nMax-Forwards: 70"), ANYTHING),
    _bad("first_header_folded", invite().replace(b"Via:", b" folded\r\nVia:", 1), ANYTHING),
    _bad("no_empty_line_at_the_end", invite(b"").removesuffix(b"\r\n"), ANYTHING),
    _bad("cut_in_the_middle_of_a_header", invite()[:180]),
)

_BODIES = (
    _bad("content_length_negative", invite(content_length=b"-999")),
    _bad("content_length_huge", invite(content_length=b"99999999999999999999")),
    _bad("content_length_beyond_the_datagram", invite(content_length=b"5000")),
    _bad("content_length_in_words", invite(content_length=b"many"), ANYTHING),
    _bad("content_length_twice", invite(content_length=[b"0", b"%LENGTH%"]), ANYTHING),
    _bad("content_length_short", invite(content_length=b"40"), ANYTHING),
    _bad("content_type_missing", invite(content_type=None), TAKEN_OR_REFUSED | DROPPED),
    _bad("content_type_garbage", invite(content_type=b"///;;="), REFUSED_OR_DROPPED),
    _bad("multipart_without_boundary", invite(b"--\r\n\r\n--", content_type=b"multipart/mixed"), REFUSED_OR_DROPPED),
    _bad(
        "multipart_that_never_ends",
        invite(b"--b\r\nContent-Type: application/sdp\r\n\r\n" + PHONE_SDP, content_type=b"multipart/mixed;boundary=b"),
        ANYTHING,
    ),
    _bad("body_of_60_kilobytes", invite(PHONE_SDP + b"a=x:" + b"y" * 60_000 + b"\r\n")),
    _bad("datagram_as_large_as_they_get", invite(b"z" * (LARGEST_DATAGRAM - 900))),
    _bad("header_of_20_kilobytes", invite(subject=b"s" * 20_000)),
)

_BYTES = (
    _bad("nul_in_a_header", invite(subject=b"before\x00after"), ANYTHING),
    _bad("nul_in_from", invite(**{"from": b"<sip:cal\x00ler@example.net>;tag=f%ID%"}), ANYTHING),
    _bad("nul_in_call_id", invite(call_id=b"%ID%\x00x@torture"), ANYTHING),
    _bad("nul_in_the_body", invite(PHONE_SDP.replace(b"s=-", b"s=\x00")), ANYTHING),
    _bad("control_characters_in_a_header", invite(subject=bytes(range(1, 9)) + b"\x0b\x0c\x1b[31m\x7f"), ANYTHING),
    _bad("latin_1_in_name", invite(**{"from": b'"Fran\xe7ois" <sip:caller@example.net>;tag=f%ID%'}), ANYTHING),
    _bad("latin_1_in_call_id", invite(call_id=b"%ID%\xff\xfe@torture"), ANYTHING),
    _bad("overlong_utf8_in_user", Request(target=b"sip:\xc0\xae\xc0\xae@%EDGE%").encode(), ANYTHING),
    _bad("latin_1_in_the_body", invite(PHONE_SDP.replace(b"s=-", b"s=caf\xe9")), ANYTHING),
    _bad("nothing", b"", DROPPED, DROPPED),
    _bad("empty_lines_only", b"\r\n\r\n\r\n\r\n", DROPPED, DROPPED),
    _bad("one_nul", b"\x00", DROPPED, DROPPED),
    _bad("random_bytes", random.Random(4475).randbytes(900), DROPPED, DROPPED),
    _bad("stun_request", b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"t" * 12, DROPPED, DROPPED),
)

_CREDENTIALS = tuple(
    # An address on the list needs no password: what it says of one is not read.
    _bad(f"credentials_{name}", _with_credentials(value), ANYTHING, CHALLENGED | REFUSED_OR_DROPPED)
    for name, value in (
        ("of_a_scheme_unheard_of", b"NoOneKnowsThis opaque-data=here"),
        ("basic", b"Basic YWxpY2U6c2VjcmV0"),
        ("empty", b""),
        ("digest_without_anything", b"Digest"),
        ("digest_with_open_quote", b'Digest username="alice, realm=x, nonce=y'),
        ("digest_of_unknown_algorithm", _DIGEST + b'algorithm=ROT13, response="0"'),
        ("digest_with_invented_nonce", _DIGEST + b'response="00000000000000000000000000000000"'),
        ("digest_with_short_response", _DIGEST + b'response="0"'),
        ("digest_with_huge_count", _DIGEST + b'qop=auth, nc=fffffffffffffffff, cnonce="x", response="0"'),
        (
            "digest_with_nul_in_name",
            b'Digest username="al\x00ice", realm="%EDGE%", nonce="n", uri="sip:a", response="0"',
        ),
        ("digest_with_two_names", b'Digest username="alice", username="bob", realm="%EDGE%", nonce="n", response="0"'),
        ("digest_with_injected_text", b'Digest username="\' or 1=1;--", realm="%EDGE%", nonce="n", response="0"'),
        ("digest_with_300_parameters", b"Digest " + b", ".join(b'p%d="v"' % number for number in range(300))),
    )
)

_OTHER_REQUESTS = (
    *(
        _bad(f"stray_{method.decode().lower()}", _in_dialog(method))
        for method in (b"BYE", b"INVITE", b"UPDATE", b"INFO")
    ),
    _bad("stray_prack", _in_dialog(b"PRACK")),
    _bad("stray_ack", _in_dialog(b"ACK"), DROPPED, DROPPED),
    _bad("stray_cancel", Request(b"CANCEL", body=b"").encode()),
    *(
        _bad(f"{method.decode().lower()}_without_dialog", _without_dialog(method))
        for method in (b"SUBSCRIBE", b"NOTIFY", b"MESSAGE", b"REFER", b"PUBLISH", b"INFO", b"UPDATE", b"BYE")
    ),
    _bad("register_away_everybody", _register(b"*")),
    _bad("register_odd_contacts", _register(b"<sip:a@%HOST%;expires=-1>", b'"x" <sip:%00@[::1]>;q=7', b"*")),
    _bad("route_to_somebody_else", invite(route=b"<sip:%HOST%:5999;lr>"), ANYTHING),
    _bad("route_that_loops", invite(route=[b"<sip:%EDGE%;lr>"] * 30), ANYTHING),
    _bad("target_is_somebody_else", Request(target=b"sip:victim@%HOST%:5999").encode(), ANYTHING),
)

_RESPONSES = (
    _bad("response_nobody_waits_for", _response(b"SIP/2.0 200 OK"), DROPPED, DROPPED),
    _bad(
        "response_to_ourselves",
        _response(b"SIP/2.0 200 OK", via=b"SIP/2.0/UDP %EDGE%;branch=z9hG4bK%ID%"),
        DROPPED,
        DROPPED,
    ),
    _bad("response_of_status_4294967301", _response(b"SIP/2.0 4294967301 better than ok"), DROPPED, DROPPED),
    _bad("response_of_status_99", _response(b"SIP/2.0 99 too low"), DROPPED, DROPPED),
    _bad("response_without_headers", b"SIP/2.0 200 OK\r\n\r\n", DROPPED, DROPPED),
    _bad(
        "response_to_relay_elsewhere",
        _response(
            b"SIP/2.0 200 OK", via=b"SIP/2.0/UDP %EDGE%;branch=z9hG4bK1, SIP/2.0/UDP %HOST%:5999;branch=z9hG4bK2"
        ),
        DROPPED,
        DROPPED,
    ),
)

BAD = (*_START_LINES, *_HEADERS, *_BODIES, *_BYTES, *_CREDENTIALS, *_OTHER_REQUESTS, *_RESPONSES)
"""Wrong messages."""
