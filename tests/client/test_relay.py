"""`rtc-server call --relay`: a call that goes through coturn and no other way, and what is said when that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtc_server.client.errors import CallError
from rtc_server.client.recording import load_recording
from rtc_server.client.relay import choose, relay_only, transport_of
from rtc_server.client.session import CallPlan, hold_call
from tests.support.relay import SECRET, coturn, require_coturn
from tests.support.running_server import free_port, running_server

SPEECH = Path("tests/data/speech/f0_slt.wav")
SERVERS = [
    {"urls": "stun:one:3478"},
    {"urls": ["turn:one:3478?transport=udp", "turn:one?transport=tcp"], "username": "u", "credential": "c"},
    {"urls": "turns:two:443?transport=tcp", "username": "v", "credential": "d"},
]


@pytest.mark.parametrize(
    ("transport", "url", "user"),
    [
        (None, "turn:one:3478?transport=udp", "u"),
        ("udp", "turn:one:3478?transport=udp", "u"),
        ("tcp", "turn:one?transport=tcp", "u"),
        ("tls", "turns:two:443?transport=tcp", "v"),
    ],
)
def test_the_first_of_the_kind_is_taken(transport: str | None, url: str, user: str) -> None:
    chosen = choose(SERVERS, transport)
    assert chosen is not None
    assert (chosen.urls, chosen.username) == (url, user)


def test_a_stun_server_relays_nothing() -> None:
    assert transport_of("stun:one") is None
    assert transport_of("turn:one") == "udp", "RFC 7065 section 3.1"
    assert choose(SERVERS[:1], None) is None
    assert choose(SERVERS[:2], "tls") is None


async def test_a_call_goes_through_the_relay(tmp_path: Path) -> None:
    require_coturn()
    port, secret = free_port(), tmp_path / "secret"
    secret.write_text(SECRET + "\n", encoding="utf-8")
    lines = ["listening-ip=127.0.0.1", f"listening-port={port}", "relay-ip=127.0.0.1", "allow-loopback-peers"]
    lines += ["use-auth-secret", f"static-auth-secret={SECRET}", "realm=test", "no-tls", "no-dtls", "no-cli"]
    lines += ["log-file=stdout", "verbose"]
    urls = [f"turn:127.0.0.1:{port}?transport={name}" for name in ("udp", "tcp")]
    settings = {"turn.urls": urls, "turn.secret_file": str(secret)}
    with coturn(tmp_path / "turn", lines, [("127.0.0.1", port)]) as log:
        async with running_server(**settings) as url:
            report = await hold_call(CallPlan(url, [load_recording(SPEECH)], relay="tcp"))
        told = log.read_text(errors="replace")
    assert report.turns[0].status == "completed"
    assert "ALLOCATE processed, success" in told
    assert "CHANNEL_BIND processed, success" in told


async def test_a_server_without_a_relay_says_so() -> None:
    async with running_server() as url:
        with pytest.raises(CallError, match=r"does not name a TURN server over TLS: set turn\.urls there"):
            await relay_only(url, "tls")
        with pytest.raises(CallError, match=r"does not name a TURN server: set"):
            await hold_call(CallPlan(url, [], relay="any"))


async def test_what_is_no_server_is_told_apart() -> None:
    with pytest.raises(CallError, match="cannot be reached"):
        await relay_only(f"http://127.0.0.1:{free_port()}")
