"""What callers are told of STUN and TURN servers, and for how long their credentials are good."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from rtc_server.config import load_settings
from rtc_server.errors import ConfigError
from rtc_server.relays.address import RelayAddress
from rtc_server.relays.ice_servers import IceServers
from tests.app.test_reload import reload
from tests.support.running_server import running_server
from tests.support.sdp_peer import sdp_peer
from tests.support.server_process import server_process

SECRET = "0123456789abcdef0123456789abcdef"
STUN = ["stun:stun.example.org:3478"]
TURN = ["turn:turn.example.org:3478?transport=udp", "turns:turn.example.org:443?transport=tcp"]
KEYS = ["sk_0123456789abcdefghijklmnop", "sk_zyxwvutsrqponmlkjihgfedcba"]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n", encoding="ascii")
    return {"webrtc.ice_servers": STUN, "turn.urls": TURN, "turn.secret_file": str(secret), "turn.ttl_seconds": 600}


def is_good(username: str, credential: str, secret: str = SECRET) -> bool:
    """As a TURN server checks it."""
    expected = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return base64.b64encode(expected).decode() == credential


async def asked(url: str, key: str | None = None, **headers: str) -> tuple[int, Mapping[str, object]]:
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/realtime/ice-servers", headers=headers) as reply:
        assert reply.headers.get("Cache-Control", "no-store") == "no-store"
        return reply.status, await reply.json()


async def test_credentials_are_those_of_the_turn_server_and_expire(settings: dict[str, object]) -> None:
    async with running_server(**settings) as url:
        status, body = await asked(url)
    assert (status, body["ttl"]) == (200, 600)
    assert body["ice_servers"] == body["iceServers"]
    stun, turn = body["ice_servers"]  # type: ignore[misc]
    assert stun == {"urls": STUN}
    assert turn["urls"] == TURN
    expiry, _, name = turn["username"].partition(":")
    assert abs(int(expiry) - time.time() - 600) < 30
    assert len(name) == 16
    assert is_good(turn["username"], turn["credential"])


async def test_each_key_has_a_name_of_its_own_and_nobody_without_one_any(settings: dict[str, object]) -> None:
    async with running_server(**settings, **{"auth.api_keys": KEYS}) as url:
        names = set()
        for key in (*KEYS, KEYS[0]):
            _, body = await asked(url, key)
            names.add(body["ice_servers"][1]["username"].partition(":")[2])  # type: ignore[index]
        assert len(names) == 2
        assert (await asked(url))[0] == 401
        assert (await asked(url, "sk_wrongwrongwrongwrongwrong"))[0] == 401


async def test_callers_without_a_key_are_told_apart_by_their_address(settings: dict[str, object]) -> None:
    opened = {"server.host": "0.0.0.0", "auth.insecure_no_auth": True, "auth.trusted_proxies": ["127.0.0.1"]}
    async with running_server(**settings, **opened) as url:
        names = set()
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
            _, body = await asked(url, **{"X-Forwarded-For": address})
            names.add(body["ice_servers"][1]["username"].partition(":")[2])  # type: ignore[index]
    assert len(names) == 2
    assert not any("192" in name for name in names)


async def test_a_reload_takes_another_secret(tmp_path: Path) -> None:
    new, file = SECRET[::-1], tmp_path / "secret"
    file.write_text(f"{SECRET}\n{new}\n", encoding="ascii")
    with server_process("echo", {"turn.urls": TURN, "turn.secret_file": str(file)}) as server:

        async def given() -> tuple[str, str]:
            turn = (await asked(server.url))[1]["iceServers"][0]  # type: ignore[index]
            return turn["username"], turn["credential"]

        assert is_good(*await given())
        file.write_text(f"{new}\n{SECRET}\n", encoding="ascii")
        assert is_good(*await given())
        assert (await reload(server))[0] == 200
        assert is_good(*await given(), secret=new)
        file.write_text("short", encoding="ascii")
        status, body = await reload(server)
        assert status != 200
        assert "turn.secret_file" in body["error"]["message"]
        assert is_good(*await given(), secret=new)


async def test_a_page_may_make_a_call_and_ask_with_a_secret_of_its_own(settings: dict[str, object]) -> None:
    async with running_server(**settings, **{"auth.api_keys": KEYS}) as url, aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {KEYS[0]}"}
        async with http.post(f"{url}/v1/realtime/client_secrets", json={}, headers=headers) as reply:
            secret = (await reply.json())["value"]
        status, body = await asked(url, secret)
        assert (status, len(body["ice_servers"])) == (200, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/v1/realtime/calls", "/whip"])
async def test_the_answer_of_a_call_names_them(settings: dict[str, object], path: str) -> None:
    async with running_server(**settings) as url, sdp_peer() as peer, aiohttp.ClientSession() as http:
        headers = {"Content-Type": "application/sdp"}
        async with http.post(f"{url}{path}", data=await peer.offer(), headers=headers) as reply:
            assert reply.status == 201
            links = reply.headers.getall("Link")
    relay = next(link for link in links if link.startswith("<turns:"))
    assert relay.endswith('credential-type="password"')
    username, credential = (relay.partition(f'{name}="')[2].partition('"')[0] for name in ("username", "credential"))
    assert is_good(username, credential)
    assert any(link == f'<{STUN[0]}>; rel="ice-server"' for link in links)


async def test_without_turn_there_is_no_credential() -> None:
    async with running_server(**{"webrtc.ice_servers": STUN}) as url:
        assert (await asked(url))[1]["ice_servers"] == [{"urls": STUN}]


@pytest.mark.parametrize("secret", [None, "short"])
def test_a_secret_that_cannot_be_used_is_found_at_the_start(tmp_path: Path, secret: str | None) -> None:
    path = tmp_path / "secret"
    if secret is not None:
        path.write_text(secret, encoding="ascii")
    settings = load_settings(None, {"turn.urls": TURN, "turn.secret_file": str(path)})
    with pytest.raises(ConfigError, match=r"turn\.secret_file"):
        IceServers(settings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"turn.urls": TURN}, "secret_file"),
        ({"turn.urls": STUN, "turn.secret_file": "x"}, "STUN belongs to webrtc.ice_servers"),
        ({"turn.urls": ["turn:a b"], "turn.secret_file": "x"}, "no TURN server"),
        ({"turn.urls": ["turn:host:99999"], "turn.secret_file": "x"}, "no TURN server"),
        ({"turn.urls": ["turn:host?transport=sctp"], "turn.secret_file": "x"}, "no TURN server"),
        ({"webrtc.ice_servers": TURN}, r"turn\.urls"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_settings(None, values)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("turn:turn.example.org", RelayAddress("turn.example.org", 3478, "udp")),
        ("turn:192.0.2.1:80?transport=tcp", RelayAddress("192.0.2.1", 80, "tcp")),
        ("turns:[2001:db8::1]", RelayAddress("2001:db8::1", 5349, "tls")),
        ("turns:turn.example.org:443?transport=tcp", RelayAddress("turn.example.org", 443, "tls")),
    ],
)
def test_an_address_is_read_out_of_its_url(url: str, address: RelayAddress) -> None:
    assert RelayAddress.of(url) == address
