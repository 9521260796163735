"""Making ephemeral secrets: a back end asks with its key, and gives the secret to a browser."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from aiohttp import web

from rtc_server.errors import InvalidParameterError
from rtc_server.realtime.beta import upgrade_session

from .guard import GUARD
from .offers import read_json_object, session_of
from .principal import require_minting

routes = web.RouteTableDef()

DEFAULT_SECONDS = 600
MIN_SECONDS, MAX_SECONDS = 10, 7200


class Minted(NamedTuple):
    """A secret, and the session that its calls start with."""

    value: str
    expires_at: int
    session: dict[str, Any]
    """The full session object of the API."""


@routes.post("/v1/realtime/client_secrets")
async def create_client_secret(request: web.Request) -> web.Response:
    """`{"expires_after"?, "session"?}` -> `{"value", "expires_at", "session"}`."""
    require_minting(request)
    body = await _object(request)
    _refuse_others(body, ("expires_after", "session"))
    patch = body.get("session")
    if patch is not None and not isinstance(patch, dict):
        raise InvalidParameterError("'session' must be an object.", param="session")
    minted = await _mint(request, patch, body.get("expires_after"), "expires_after")
    return _reply({"value": minted.value, "expires_at": minted.expires_at, "session": minted.session})


@routes.post("/v1/realtime/sessions")
async def create_session(request: web.Request) -> web.Response:
    """The older form: a session object in, the same with `client_secret` out."""
    return await _legacy(request, None)


@routes.post("/v1/realtime/transcription_sessions")
async def create_transcription_session(request: web.Request) -> web.Response:
    """The older form for sessions that only transcribe."""
    return await _legacy(request, "transcription")


async def _legacy(request: web.Request, kind: Literal["transcription"] | None) -> web.Response:
    require_minting(request)
    patch = await _object(request)
    wanted = patch.pop("client_secret", None)
    if wanted is not None and not isinstance(wanted, dict):
        raise InvalidParameterError("'client_secret' must be an object.", param="client_secret")
    wanted = wanted or {}
    _refuse_others(wanted, ("expires_after",), "client_secret.")
    if kind is not None:
        # With the type goes the sign of older names, so they are replaced first.
        patch = {**upgrade_session({name: value for name, value in patch.items() if name != "type"}), "type": kind}
    minted = await _mint(request, patch, wanted.get("expires_after"), "client_secret.expires_after")
    secret = {"value": minted.value, "expires_at": minted.expires_at}
    return _reply({**minted.session, "client_secret": secret})


async def _mint(request: web.Request, patch: dict[str, Any] | None, expires_after: object, param: str) -> Minted:
    principal = require_minting(request)
    seconds = _seconds(expires_after, param)
    session = session_of(request, patch or {})
    table = request.app[GUARD].authenticator.secrets
    num_bytes = len(await request.read())  # read already, and kept by aiohttp until the answer
    value, secret = table.mint(principal.owner, session, seconds, time.time(), num_bytes)
    session_id = f"sess_{secrets.token_urlsafe(15)}"
    return Minted(value, secret.expires_at, session.to_event(session_id, secret.expires_at))


async def _object(request: web.Request) -> dict[str, Any]:
    """The body; nothing at all is an empty object."""
    body = await request.read()
    return read_json_object(body) if body else {}


def _seconds(expires_after: object, param: str) -> int:
    if expires_after is None:
        return DEFAULT_SECONDS
    if not isinstance(expires_after, dict):
        raise InvalidParameterError(f"'{param}' must be an object.", param=param)
    _refuse_others(expires_after, ("anchor", "seconds"), f"{param}.")
    if expires_after.get("anchor", "created_at") != "created_at":
        raise InvalidParameterError(f"'{param}.anchor' must be 'created_at'.", param=f"{param}.anchor")
    seconds = expires_after.get("seconds", DEFAULT_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not MIN_SECONDS <= seconds <= MAX_SECONDS:
        message = f"'{param}.seconds' must be a whole number from {MIN_SECONDS} to {MAX_SECONDS}."
        raise InvalidParameterError(message, param=f"{param}.seconds")
    return seconds


def _refuse_others(given: Mapping[str, Any], known: tuple[str, ...], prefix: str = "") -> None:
    for name in given:
        if name not in known:
            param = f"{prefix}{name}"[:200]
            raise InvalidParameterError(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def _reply(body: dict[str, Any]) -> web.Response:
    return web.json_response(body, headers={"Cache-Control": "no-store"})
