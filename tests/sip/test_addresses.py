"""Telephone addresses: what is one, which ones the operator allows, and what the proxy is asked for."""

from __future__ import annotations

import pytest

from rtc_server.sip.addresses import host_of, is_allowed, is_user, parse_address, request_uri


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("tel:+49-30-1234.56", "tel:+4930123456"),
        ("tel:(030)123456;phone-context=example.org", "tel:030123456;phone-context=example.org"),
        ("sip:alice@example.org", "sip:alice@example.org"),
        ("SIPS:Alice@Example.org:5061;transport=tls", "sips:Alice@Example.org:5061;transport=tls"),
        ("sip:[2001:db8::1]:5060", "sip:[2001:db8::1]:5060"),
        ("sip:+4930@192.0.2.1", "sip:+4930@192.0.2.1"),
    ],
)
def test_an_address_is_read(text: str, normal: str) -> None:
    assert str(parse_address(text)) == normal


@pytest.mark.parametrize(
    "text",
    [
        *("", "alice", "http://example.org", "tel:", "tel:+", "sip:", "sip:@", "sip:a@b:0", "sip:a@b:70000"),
        *(
            "sip:a b@c",
            "sip:a@b\r\nX: y",
            "sip:a@b>;x",
            "sip:a@b?Replaces=1",
            "sip:a:secret@b",
            "tel:+49\n",
            "sip:a@b c",
        ),
        "sip:" + "a" * 300 + "@b",
    ],
)
def test_anything_else_is_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|digits|port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "patterns", "allowed"),
    [
        ("tel:+493012345", (), False),
        ("tel:+493012345", ("*",), True),
        ("tel:+49-30-12345", ("tel:+4930*",), True),
        ("tel:+4917012345", ("tel:+4930*",), False),
        ("sip:Alice@Example.org;transport=tcp", ("sip:*@example.org",), True),
        ("sip:alice@example.org.evil.example", ("sip:*@example.org",), False),
        ("sip:a@[2001:db8::1]", ("sip:*@[2001:db8::1]",), True),
        ("sip:a@2", ("sip:*@[2001:db8::1]",), False),
    ],
)
def test_patterns_name_who_may_be_called(address: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert is_allowed(parse_address(address), patterns) is allowed


def test_numbers_go_to_the_trunk_and_names_where_they_say() -> None:
    assert request_uri(parse_address("tel:+4930123"), "trunk.example:5080;transport=tcp") == (
        "sip:+4930123@trunk.example:5080;transport=tcp"
    )
    assert request_uri(parse_address("tel:*31#"), "t.example") == "sip:*31%23@t.example"
    assert request_uri(parse_address("sip:alice@example.org"), "") == "sip:alice@example.org"
    with pytest.raises(ValueError, match=r"sip\.trunk"):
        request_uri(parse_address("tel:+4930123"), "")


def test_a_caller_id_is_a_plain_word() -> None:
    assert is_user("+493012345")
    assert not is_user("a@b")
    assert not is_user("")


@pytest.mark.parametrize(
    ("place", "host"),
    [
        ("sip.example.org", "sip.example.org"),
        ("192.0.2.1:5080;transport=tcp", "192.0.2.1"),
        ("[2001:db8::1]:5060;transport=tls", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
    ],
)
def test_the_host_of_a_trunk_or_a_proxy(place: str, host: str) -> None:
    assert host_of(place) == host
