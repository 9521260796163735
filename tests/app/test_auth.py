"""Who gets in, over real HTTP: keys, ephemeral secrets, tokens, origins, and whose call it is."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rtc_server.app.secret_table import SecretTable
from rtc_server.app.tokens import TokenVerifier
from rtc_server.config import Settings
from rtc_server.errors import ConfigError, RateLimitedError, UnauthorizedError
from rtc_server.keys import KeysFile
from tests.support.live_call import live_call
from tests.support.running_server import running_server

KEY, OTHER_KEY = "sk_0123456789abcdefghijklmnop", "sk_zyxwvutsrqponmlkjihgfedcba"
KEYED = {"auth.api_keys": [KEY, OTHER_KEY]}
SECRETS = "/v1/realtime/client_secrets"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
}


class Web:
    """Requests to one server; each gives its status, and its error's code when there is one."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url

    async def ask(
        self, method: str, path: str, key: str | None = None, **more: Any
    ) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        """Status, JSON body ({} for others) and the reply."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        async with self._http.request(method, self.url + path, headers=headers, **more) as reply:
            text = await reply.text()
            body = json.loads(text) if reply.content_type == "application/json" else {}
            return reply.status, body if isinstance(body, dict) else {}, reply

    async def code(self, method: str, path: str, key: str | None = None, **more: Any) -> tuple[int, str | None]:
        """Status and error code."""
        status, body, _ = await self.ask(method, path, key, **more)
        return status, body.get("error", {}).get("code")

    async def mint(self, key: str | None = KEY, **body: Any) -> str:
        """A new ephemeral secret."""
        status, minted, _ = await self.ask("POST", SECRETS, key, json=body)
        assert status == 200, minted
        return str(minted["value"])


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def keyed(http: aiohttp.ClientSession) -> AsyncIterator[Web]:
    """A server that wants a key."""
    async with running_server(**KEYED) as url:
        yield Web(http, url)


@pytest.fixture
async def opened(http: aiohttp.ClientSession) -> AsyncIterator[Web]:
    """A server without keys, on loopback."""
    async with running_server() as url:
        yield Web(http, url)


# --- keys


async def test_every_route_but_the_public_ones_needs_a_key(keyed: Web) -> None:
    for path in ("/", "/static/js/main.js", "/healthz", "/readyz", "/v1/info", "/metrics"):
        assert (await keyed.code("GET", path))[0] == 200, path
    for method, path in (
        ("GET", "/v1/models"),
        ("POST", "/v1/realtime/calls"),
        ("POST", "/api/offer"),
        ("POST", "/v1/echo"),
        ("POST", SECRETS),
        ("DELETE", "/v1/realtime/calls/rtc_1"),
        ("GET", "/no/such/route"),
        ("PUT", "/v1/models"),
    ):
        status, body, reply = await keyed.ask(method, path)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key"), path
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await keyed.ask("GET", "/v1/info"))[1]["auth_required"] is True
    assert (await keyed.code("GET", "/v1/models", KEY)) == (200, None)
    assert (await keyed.code("GET", "/v1/models", KEY + "x")) == (401, "invalid_api_key")
    assert (await keyed.code("GET", f"/v1/models?api_key={KEY}")) == (401, "invalid_api_key")
    basic = {"Authorization": f"Basic {KEY}"}
    assert (await keyed.code("GET", "/v1/info", headers=basic))[0] == 200, "public whatever is sent along"
    assert (await keyed.code("GET", "/v1/models", headers=basic)) == (401, "invalid_api_key")


async def test_a_browsers_websocket_brings_its_key_as_subprotocol(keyed: Web) -> None:
    """There is no WebSocket route here yet: 404 means that the key was good."""
    protocols = {**UPGRADE, "Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{KEY}"}
    assert (await keyed.code("GET", "/no/such/route", headers=protocols)) == (404, "not_found")
    wrong = {**UPGRADE, "Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{KEY}x"}
    assert (await keyed.code("GET", "/no/such/route", headers=wrong))[0] == 401
    no_upgrade = {"Sec-WebSocket-Protocol": f"openai-insecure-api-key.{KEY}"}
    assert (await keyed.code("GET", "/no/such/route", headers=no_upgrade))[0] == 401


async def test_a_key_of_the_file_works_and_its_removal_takes_effect(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = KeysFile(tmp_path / "keys")
    key, _ = file.add("phone"), file.add("other")
    async with running_server(**{"auth.keys_file": str(file.path)}) as url:
        web = Web(http, url)
        secret = await web.mint(key)
        assert (await web.code("GET", "/v1/models", key))[0] == 200
        assert (await web.code("GET", "/v1/models", secret))[0] == 200
        file.remove("phone")
        async with asyncio.timeout(20):
            while (await web.code("GET", "/v1/models", key))[0] == 200:  # noqa: ASYNC110 - the server looks each second
                await asyncio.sleep(0.1)
        assert (await web.code("GET", "/v1/models", key))[0] == 401
        assert (await web.code("GET", "/v1/models", secret))[0] == 401, "a secret ends with the key that made it"


async def test_a_key_of_the_environment_works(http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTC_SERVER__AUTH__API_KEYS", KEY)
    async with running_server() as url:
        assert (await Web(http, url).code("GET", "/v1/models", KEY))[0] == 200
        assert (await Web(http, url).code("GET", "/v1/models"))[0] == 401


async def test_loopback_may_be_trusted_but_not_a_proxy_on_it(http: aiohttp.ClientSession) -> None:
    async with running_server(**KEYED, **{"auth.trust_loopback": True}) as url:
        web = Web(http, url)
        assert (await web.code("GET", "/v1/models"))[0] == 200
        assert (await web.code("GET", "/v1/models", headers={"X-Forwarded-For": "192.0.2.1"}))[0] == 401
        assert (await web.code("GET", "/v1/models", "sk_wrong"))[0] == 401


# --- an open server


async def test_an_open_server_takes_everybody_on_its_machine_and_any_key(opened: Web) -> None:
    assert (await opened.code("GET", "/v1/models"))[0] == 200
    assert (await opened.code("GET", "/v1/models", "x"))[0] == 200, "SDKs insist on sending a key"
    assert (await opened.code("GET", "/v1/models", "ek_unknown")) == (401, "invalid_api_key")
    assert (await opened.code("GET", "/v1/models", headers={"X-Forwarded-For": "192.0.2.1"}))[0] == 401
    assert (await opened.ask("GET", "/v1/info"))[1]["auth_required"] is False


async def test_an_open_server_is_not_fooled_by_dns_rebinding(opened: Web) -> None:
    """evil.example leads to 127.0.0.1, so for the browser its page and this server are one origin."""
    port = opened.url.rsplit(":", 1)[1]
    rebound = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
    for path in ("/v1/models", "/metrics"):
        assert (await opened.code("GET", path, headers=rebound)) == (403, "host_not_allowed")
    assert (await opened.code("POST", "/v1/realtime/calls", headers=rebound)) == (403, "host_not_allowed")
    assert (await opened.code("GET", "/v1/models", headers={"Host": f"localhost:{port}"}))[0] == 200


async def test_a_name_may_be_allowed_for_an_open_server(http: aiohttp.ClientSession) -> None:
    async with running_server(**{"auth.allowed_hosts": ["speech.example"]}) as url:
        assert (await Web(http, url).code("GET", "/v1/models", headers={"Host": "speech.example"}))[0] == 200


async def test_a_network_address_without_a_key_refuses_to_start() -> None:
    with pytest.raises(ConfigError, match="rtc-server keys add"):
        async with running_server(**{"server.host": "0.0.0.0"}):
            pass


async def test_the_operator_may_open_it_to_everybody(http: aiohttp.ClientSession) -> None:
    async with running_server(**{"server.host": "0.0.0.0", "auth.insecure_no_auth": True}) as url:
        stranger = {"X-Forwarded-For": "192.0.2.1"}
        assert (await Web(http, url).code("GET", "/v1/models", headers=stranger))[0] == 200
        assert (await Web(http, url).code("GET", "/metrics", headers=stranger))[0] == 403


async def test_metrics_are_for_this_machine_and_for_keys(keyed: Web, http: aiohttp.ClientSession) -> None:
    stranger = {"X-Forwarded-For": "192.0.2.1"}
    assert (await keyed.code("GET", "/metrics"))[0] == 200
    assert (await keyed.code("GET", "/metrics", headers=stranger))[0] == 401
    assert (await keyed.code("GET", "/metrics", KEY, headers=stranger))[0] == 200
    async with running_server(**KEYED, **{"auth.public_metrics": True}) as url:
        assert (await Web(http, url).code("GET", "/metrics", headers=stranger))[0] == 200


# --- ephemeral secrets


async def test_a_secret_has_the_documented_shape(keyed: Web) -> None:
    session = {"type": "realtime", "instructions": "Be brief."}
    body = {"session": session, "expires_after": {"anchor": "created_at", "seconds": 60}}
    before = int(time.time())
    status, minted, reply = await keyed.ask("POST", SECRETS, KEY, json=body)
    assert status == 200
    assert reply.headers["Cache-Control"] == "no-store"
    assert set(minted) == {"value", "expires_at", "session"}
    assert minted["value"].startswith("ek_")
    assert before + 60 <= minted["expires_at"] <= time.time() + 60
    assert minted["session"]["object"] == "realtime.session"
    assert minted["session"]["id"].startswith("sess_")
    assert minted["session"]["expires_at"] == minted["expires_at"]
    assert minted["session"]["instructions"] == "Be brief."
    status, minted, _ = await keyed.ask("POST", SECRETS, KEY)
    assert status == 200
    assert before + 600 <= minted["expires_at"] <= time.time() + 600


async def test_the_older_forms_put_the_secret_into_the_session(keyed: Web) -> None:
    status, session, _ = await keyed.ask("POST", "/v1/realtime/sessions", KEY, json={"instructions": "Be brief."})
    assert status == 200
    assert session["object"] == "realtime.session"
    assert session["instructions"] == "Be brief."
    assert set(session["client_secret"]) == {"value", "expires_at"}
    assert (await keyed.code("GET", "/v1/models", session["client_secret"]["value"]))[0] == 200


async def test_the_older_form_of_transcription_is_read_with_its_names(keyed: Web) -> None:
    body = {
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "whisper-1"},
        "client_secret": {"expires_after": {"seconds": 30}},
    }
    status, session, _ = await keyed.ask("POST", "/v1/realtime/transcription_sessions", KEY, json=body)
    assert status == 200, session
    assert session["object"] == "realtime.transcription_session"
    assert session["type"] == "transcription"
    assert session["audio"]["input"]["format"]["type"] == "audio/pcmu"
    assert session["client_secret"]["expires_at"] <= time.time() + 30
    assert (await keyed.code("POST", SECRETS, KEY, json={"session": {"model": "none"}})) == (404, "model_not_found")


async def test_an_open_server_makes_secrets_too(opened: Web) -> None:
    secret = await opened.mint(None, session={"instructions": "Be brief."})
    async with live_call(opened.url, secret) as call:
        assert (await call.event("session.created"))["session"]["instructions"] == "Be brief."


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"session": {"type": "realtime", "nonsense": 1}}, "unknown_parameter", "session.nonsense"),
        ({"session": {"audio": {"output": {"voice": "nobody"}}}}, "invalid_value", "session.audio.output.voice"),
        ({"session": "x"}, "invalid_value", "session"),
        ({"nonsense": 1}, "unknown_parameter", "nonsense"),
        ({"expires_after": {"seconds": 9}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"seconds": 7201}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"seconds": True}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"seconds": "60"}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"anchor": "now"}}, "invalid_value", "expires_after.anchor"),
        ({"expires_after": 60}, "invalid_value", "expires_after"),
        ({"expires_after": {"days": 1}}, "unknown_parameter", "expires_after.days"),
        ([], "invalid_json", None),
    ],
)
async def test_a_bad_request_for_a_secret_names_the_field(keyed: Web, body: Any, code: str, param: str | None) -> None:
    status, answer, _ = await keyed.ask("POST", SECRETS, KEY, json=body)
    assert status == 400
    assert (answer["error"]["code"], answer["error"]["param"]) == (code, param)


async def test_a_secret_works_again_and_again_but_makes_no_other(keyed: Web) -> None:
    secret = await keyed.mint()
    for _ in range(3):
        assert (await keyed.code("GET", "/v1/models", secret))[0] == 200
    for path in (SECRETS, "/v1/realtime/sessions", "/v1/realtime/transcription_sessions"):
        assert (await keyed.code("POST", path, secret, json={})) == (403, "insufficient_permissions")
    assert (await keyed.code("GET", "/metrics", secret)) == (403, "insufficient_permissions")


async def test_an_expired_or_unknown_secret_is_refused(keyed: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = await keyed.mint(expires_after={"seconds": 10})
    later = time.time() + 10
    monkeypatch.setattr("rtc_server.app.auth.time.time", lambda: later)
    assert (await keyed.code("GET", "/v1/models", secret)) == (401, "invalid_api_key")
    assert (await keyed.code("GET", "/v1/models", "ek_unknown")) == (401, "invalid_api_key")


async def test_a_call_starts_with_the_session_of_its_secret_and_belongs_to_it(keyed: Web) -> None:
    mine = await keyed.mint(session={"type": "realtime", "instructions": "Be brief."})
    other = await keyed.mint()
    async with live_call(keyed.url, mine) as call:
        created = await call.event("session.created")
        assert created["session"]["instructions"] == "Be brief."
        path = f"/v1/realtime/calls/{call.peer.call_id}"
        for stranger in (other, OTHER_KEY):
            assert (await keyed.code("DELETE", path, stranger)) == (404, "call_id_not_found")
            assert (await keyed.code("POST", f"{path}/hangup", stranger)) == (404, "call_id_not_found")
            assert (await keyed.code("PATCH", path, stranger)) == (404, "call_id_not_found")
            sideband = f"/no/such/route?call_id={call.peer.call_id}"
            assert (await keyed.code("GET", sideband, stranger)) == (404, "call_id_not_found")
        assert await call.is_alive()
        assert (await keyed.code("PATCH", path, mine)) == (415, "unsupported_media_type")
        assert (await keyed.code("DELETE", path, KEY))[0] == 200, "the key that made the secret is above it"


# --- tokens

SIGNING_SECRET = "x" * 32


def token(secret: Any = SIGNING_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    given = {"sub": "alice", "exp": int(time.time()) + 60, **claims}
    return jwt.encode({name: value for name, value in given.items() if value is not None}, secret, algorithm)


async def test_tokens_open_the_server_and_make_no_secrets(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SIGNING_SECRET + "\n")
    async with running_server(**{"auth.jwt_secret_file": str(path), "auth.jwt_audience": "rtc"}) as url:
        web = Web(http, url)
        assert (await web.code("GET", "/v1/models", token(aud="rtc")))[0] == 200
        assert (await web.code("POST", SECRETS, token(aud="rtc"), json={}))[0] == 403
        assert (await web.code("GET", "/v1/models"))[0] == 401
        past = int(time.time()) - 60
        for wrong in (
            token(aud="rtc", exp=past),
            token(aud="other"),
            token(),
            token("y" * 32, aud="rtc"),
            token(SIGNING_SECRET + "x" * 32, "HS512", aud="rtc"),
            token(None, "none", aud="rtc"),
            "a.b.c",
        ):
            assert (await web.code("GET", "/v1/models", wrong)) == (401, "invalid_api_key")


def verifier(tmp_path: Path, content: bytes, **auth: Any) -> TokenVerifier:
    path = tmp_path / "key"
    path.write_bytes(content)
    kind = "jwt_public_key_file" if content.startswith(b"-----") else "jwt_secret_file"
    made = TokenVerifier.of(Settings.model_validate({"auth": {kind: str(path), **auth}}).auth)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=["RS256", "ES256", "EdDSA"],
)
def test_a_public_key_fixes_the_algorithm(tmp_path: Path, private: Any, algorithm: str) -> None:
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    tokens = verifier(tmp_path, pem)
    assert tokens.subject(token(private, algorithm)) == "alice"
    # The classic attack: an HMAC whose secret is the public key. PyJWT refuses to make one, so it is made by hand.
    import hashlib
    import hmac

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    text = f"{part({'alg': 'HS256'})}.{part({'sub': 'eve', 'exp': int(time.time()) + 60})}"
    digest = hmac.new(pem, text.encode(), hashlib.sha256).digest()
    forged = f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    with pytest.raises(UnauthorizedError):
        tokens.subject(forged)


@pytest.mark.parametrize(
    ("claims", "auth"),
    [
        ({"exp": None}, {}),
        ({"exp": int(time.time()) + 10_000}, {"jwt_max_lifetime_seconds": 60}),
        ({"sub": None}, {}),
        ({"sub": ""}, {}),
        ({"sub": "x" * 257}, {}),
        ({"nbf": int(time.time()) + 3_000}, {}),
        ({"iss": "elsewhere"}, {"jwt_issuer": "here"}),
        ({}, {"jwt_issuer": "here"}),
        ({}, {"jwt_audience": "here"}),
    ],
)
def test_a_token_needs_an_end_a_subject_and_what_is_configured(
    tmp_path: Path, claims: dict[str, Any], auth: dict[str, Any]
) -> None:
    tokens = verifier(tmp_path, SIGNING_SECRET.encode(), **auth)
    with pytest.raises(UnauthorizedError):
        tokens.subject(token(**claims))


def test_an_audience_that_nobody_asked_for_does_no_harm(tmp_path: Path) -> None:
    assert verifier(tmp_path, SIGNING_SECRET.encode()).subject(token(aud="rtc", iss="me")) == "alice"


@pytest.mark.parametrize(
    ("content", "said"), [(b"short", "at least 32"), (b"-----BEGIN PUBLIC KEY-----\nx\n", "not a public key")]
)
def test_an_unusable_signing_key_is_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        verifier(tmp_path, content)


def test_one_kind_of_token_at_a_time() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        Settings.model_validate({"auth": {"jwt_secret_file": "a", "jwt_public_key_file": "b"}})


# --- the table of secrets, on virtual time


def test_the_table_is_bounded_and_says_when_there_is_room() -> None:
    table = SecretTable(max_secrets=2)
    first, _ = table.mint(("key", "a"), None, 10, now=100.0)
    table.mint(("key", "a"), None, 60, now=100.0)
    with pytest.raises(RateLimitedError) as full:
        table.mint(("key", "a"), None, 60, now=103.0)
    assert full.value.retry_after == 7
    assert table.find(first, now=109.9) is not None
    assert table.find(first, now=110.0) is None
    table.mint(("key", "a"), None, 60, now=110.0)
    assert len(table) == 2


def test_the_table_is_bounded_in_bytes_too() -> None:
    table = SecretTable(max_secrets=1_000_000)
    for _ in range(256):
        table.mint(("key", "a"), None, 60, now=0.0, num_bytes=256 * 1024)
    with pytest.raises(RateLimitedError):
        table.mint(("key", "a"), None, 60, now=0.0, num_bytes=1)
    table.mint(("key", "a"), None, 60, now=60.0, num_bytes=1)
    assert len(table) == 1


# --- what is logged


async def test_no_credential_reaches_the_log_or_an_answer(
    http: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = KeysFile(tmp_path / "keys")
    key = file.add("phone")
    path = tmp_path / "secret"
    path.write_text(SIGNING_SECRET)
    async with running_server(**{"auth.keys_file": str(file.path), "auth.jwt_secret_file": str(path)}) as url:
        web = Web(http, url)
        secret = await web.mint(key)
        credentials = [key, secret, token(), token(exp=1), key + "wrong", "ek_wrong0123456789"]
        for credential in credentials:
            for method, where in (("GET", "/v1/models"), ("POST", SECRETS), ("GET", "/no/such/route")):
                _, body, _ = await web.ask(method, where, credential)
                body.pop("value", None)
                assert credential not in json.dumps(body)
        async with live_call(url, secret) as call:
            await call.is_alive()
    assert "call started" in caplog.text
    for credential in [*credentials, SIGNING_SECRET]:
        assert credential not in caplog.text
        assert credential.split(".")[-1] not in caplog.text
