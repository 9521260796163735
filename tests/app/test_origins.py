"""Which pages may ask, and under which names an open server may be addressed."""

from __future__ import annotations

import pytest

from rtc_server.app.origins import OriginPolicy, is_same_origin, split_host

POLICY = OriginPolicy(["https://app.example"], ["Server.LAN."])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("https://speech.example", "speech.example"),
        ("https://speech.example", "speech.example:443"),
        ("http://Speech.example", "speech.example:80"),
        ("https://[::1]:8443", "[::1]:8443"),
        ("https://app.example", "127.0.0.1:8000"),
        ("HTTPS://APP.example", "127.0.0.1:8000"),
    ],
)
def test_its_own_page_and_allowed_ones_may_ask(origin: str, host: str) -> None:
    assert POLICY.allows_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "127.0.0.1:8000"),
        ("http://127.0.0.1:8001", "127.0.0.1:8000"),
        ("http://127.0.0.1", "127.0.0.1:8000"),
        ("https://app.example.evil.example", "127.0.0.1:8000"),
        ("https://app.example:444", "127.0.0.1:8000"),
        ("http://app.example", "127.0.0.1:8000"),
        ("null", "127.0.0.1:8000"),
        ("null", "null"),
        ("", ""),
        ("http://", ""),
        ("file://", ""),
    ],
)
def test_foreign_pages_may_not(origin: str, host: str) -> None:
    assert not POLICY.allows_origin(origin, host)
    assert OriginPolicy(["*"], []).allows_origin(origin, host)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True),
        ("192.168.1.20", True),
        ("[::1]:8000", True),
        ("[fe80::1%25eth0]", True),
        ("localhost:8000", True),
        ("a.localhost", True),
        ("server.lan:8000", True),
        ("SERVER.lan", True),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[::1", False),
        ("localhost:8000:9", False),
    ],
)
def test_an_open_server_answers_to_addresses_and_its_own_names(host: str, allowed: bool) -> None:
    assert POLICY.allows_host(host) is allowed


def test_hosts_are_split_into_name_and_port() -> None:
    assert split_host("A.example.:80") == ("a.example", 80)
    assert split_host("[::1]") == ("::1", None)
    assert split_host("a:x") == ("", None)
    assert split_host("[::1]x") == ("", None)
    assert not is_same_origin("http://a:x", "a:x")
