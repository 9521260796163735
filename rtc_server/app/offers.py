"""From an HTTP request with an offer to an answered call: what all ways of making one have in common."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from aiohttp import web

from rtc_server import metrics
from rtc_server.calls.sessions import DEFAULT_OPTIONS, CallOptions, EventDialect, starting_session
from rtc_server.errors import (
    ApiError,
    InvalidJsonError,
    InvalidParameterError,
    NotEnabledError,
    NotReadyError,
    ProtocolError,
)
from rtc_server.media.node import Answer, CallKind, ListenRequest, OfferRequest
from rtc_server.media.resumption import Claim
from rtc_server.network.addresses import machine_addresses
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.sdp import Offer, Purpose, validate_offer

from .context import CONTEXT
from .principal import PRINCIPAL
from .remote import is_same_host
from .traces import call_trace

BETA_HEADER, BETA_VALUE = "OpenAI-Beta", "realtime=v1"
RESUME_HEADER = "Resume-Token"


class OfferTaker:
    """What may be offered to the caller of one request, and taken from it."""

    def __init__(self, request: web.Request) -> None:
        self._context = request.app[CONTEXT]
        self._principal = request[PRINCIPAL]
        is_local = is_same_host(request)
        configured = self._context.settings.webrtc.host_addresses
        self.addresses = configured or tuple(machine_addresses(include_loopback=is_local))
        """Local addresses to offer this caller: loopback only to callers on this machine, or when configured."""
        self.allows_loopback = is_local or any(ipaddress.ip_address(a).is_loopback for a in self.addresses)
        """Loopback candidates of this caller may be tried."""

    def validate(self, body: bytes, purpose: Purpose = "call") -> Offer:
        """Raises InvalidSdpError or SdpTooLargeError, and counts it."""
        try:
            return validate_offer(body, allow_loopback=self.allows_loopback, purpose=purpose)
        except ApiError as error:
            metrics.CALLS_REFUSED.labels(metrics.bounded("code", error.code)).inc()
            raise

    async def answer(self, body: bytes, kind: CallKind, options: CallOptions = DEFAULT_OPTIONS) -> Answer:
        """Validate, then let the least loaded node answer. Raises ApiError."""
        return await self.answer_offer(self.validate(body), kind, options)

    async def answer_offer(self, offer: Offer, kind: CallKind, options: CallOptions = DEFAULT_OPTIONS) -> Answer:
        """The same for an offer that was validated already."""
        request = OfferRequest(offer, self.addresses, kind, options)
        return await self._context.router.answer(request, self._principal.caller)

    async def listen(self, call_id: str, body: bytes) -> Answer:
        """Validate, then let the peer hear a call. Raises ApiError."""
        offer = self.validate(body, "listen")
        return await self._context.router.listen(ListenRequest(call_id, offer, self.addresses))


def call_options(
    request: web.Request, patch: Mapping[str, Any] | None, dialect: EventDialect | None = None
) -> CallOptions:
    """How a call starts: the session asked for in the body, `?model=`, and the words of its events. Raises ApiError."""
    model = request.query.get("model")
    if model is not None:
        patch = {"model": model, **(patch or {})}
    if dialect is None:
        values = {v.strip() for header in request.headers.getall(BETA_HEADER, []) for v in header.split(",")}
        dialect = "realtime-beta" if BETA_VALUE in values else "realtime"
    # Refused if it is wrong, whether it counts or not.
    session = None if patch is None else session_of(request, patch)
    # Who minted a secret has the first word.
    return CallOptions(request[PRINCIPAL].session or session, dialect, trace=call_trace(request))


@dataclass(slots=True)
class Starting:
    """A call that is about to be made, and can be gone on with after it was lost."""

    options: CallOptions
    claim: Claim | None = None

    @property
    def headers(self) -> dict[str, str]:
        """For the answer."""
        grant = self.options.resume
        return {} if grant is None else {RESUME_HEADER: grant.token}

    def started(self, call_id: str) -> None:
        """It was made."""
        if self.claim is not None:
            self.claim.started(call_id)


@asynccontextmanager
async def resumable(request: web.Request, options: CallOptions) -> AsyncIterator[Starting]:
    """While a call is made: with a token of its own, or with the session that `?resume=` names, whose configuration
    then counts. Raises ResumeNotFoundError or NotEnabledError, and what a call needs that is not there."""
    context, owner, token = request.app[CONTEXT], request[PRINCIPAL].owner, request.query.get("resume")
    resumption = context.resumption
    if resumption is None:
        if token is not None:
            raise NotEnabledError(
                "Sessions end with their calls here; the operator can change that with session.resume_seconds."
            )
        yield Starting(options)
    elif token is None:
        yield Starting(replace(options, resume=resumption.new(owner)))
    else:
        if not context.engine.is_ready:
            raise NotReadyError("The models are still loading; try again in a moment.", retry_after=3)
        async with resumption.claim(token, owner, context.engine.info.name) as claim:
            snapshot = claim.grant.snapshot
            assert snapshot is not None, "what a claim is about"
            dialect = cast(EventDialect, snapshot.dialect)
            yield Starting(CallOptions(snapshot.session, dialect, claim.grant, options.trace), claim)


def session_of(request: web.Request, patch: Mapping[str, Any]) -> SessionConfig:
    """The server's own session with what a client asks for. Raises ApiError."""
    context = request.app[CONTEXT]
    if not context.engine.is_ready:
        raise NotReadyError("The models are still loading; try again in a moment.", retry_after=3)
    try:
        return starting_session(context.settings, context.engine.info, patch)
    except ProtocolError as error:
        raise InvalidParameterError.of(error) from error


def read_json(body: bytes) -> Any:
    """Raises InvalidJsonError."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError("The request body is not valid JSON.") from error


def read_json_object(body: bytes) -> dict[str, Any]:
    """The same for a body that must be an object."""
    payload = read_json(body)
    if not isinstance(payload, dict):
        raise InvalidJsonError("The request body must be a JSON object.")
    return payload


def require_echo_test(request: web.Request) -> None:
    """Raises NotEnabledError."""
    if not request.app[CONTEXT].settings.server.echo_test:
        raise NotEnabledError("The echo test is off; the operator can turn it on with server.echo_test = true.")
