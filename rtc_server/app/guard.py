"""In front of every handler: origin, who it is, how often they ask, and whose call it is about.

A route is protected unless it is named here, so a new one cannot be forgotten. The order matters: a page that may not
ask learns nothing else, and a credential is looked at only when its sender has not sent too many wrong ones.
"""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from rtc_server import metrics
from rtc_server.config import Settings
from rtc_server.errors import (
    ApiError,
    ForbiddenError,
    OriginNotAllowedError,
    RateLimitedError,
    RequestTimeoutError,
    UnauthorizedError,
)
from rtc_server.limits import Rate, RateLimiter, address_key, retry_after

from .auth import Authenticator, Visitor, credential_of
from .context import CONTEXT
from .cors import add_cors_headers, add_options_headers, is_preflight, methods_of
from .middleware import Handler
from .principal import PRINCIPAL, Principal, check_control

UNLIMITED = frozenset({"/", "/service-worker.js", "/status", "/static", "/healthz", "/readyz"})
"""The pages and the probes, by the pattern of their route: open to everybody, however often they are asked for."""

PUBLIC = UNLIMITED | {"/v1/info", "/openapi.json"}
"""Open to everybody."""

METRICS = "/metrics"

OPERATORS = frozenset({METRICS, "/v1/status"})
"""Open to this machine and to holders of an API key; the metrics to everybody, with `auth.public_metrics`."""


class Guard:
    """Owns the authenticator and the rate limits."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when a file of keys cannot be used."""
        self._settings = settings
        self.authenticator = Authenticator(settings)
        self._limit_rates()

    def prepare(self, settings: Settings) -> Authenticator:
        """For `use`: it knows the secrets that there are. Raises ConfigError when a file of keys cannot be used."""
        return Authenticator(settings, self.authenticator.secrets)

    def use(self, settings: Settings, authenticator: Authenticator) -> None:
        """Other settings from now on. Where the limits are others, everybody starts with a full allowance."""
        old, self._settings, self.authenticator = self._settings, settings, authenticator
        if settings.limits != old.limits:
            self._limit_rates()

    def _limit_rates(self) -> None:
        limits = self._settings.limits
        self._by_owner = RateLimiter(Rate(limits.requests_per_minute, limits.burst))
        self._by_address = RateLimiter(Rate(limits.address_requests_per_minute, limits.address_burst))
        self._failures = RateLimiter(Rate(limits.failures_per_minute, limits.failures_per_minute))

    @property
    def requires_key(self) -> bool:
        """Callers need a key or a token now."""
        return self.authenticator.requires_key(asyncio.get_running_loop().time())

    def check_origin(self, request: web.Request) -> None:
        """Raises OriginNotAllowedError for a page that may not use this server."""
        origin = request.headers.get(hdrs.ORIGIN)
        host = request.headers.get(hdrs.HOST, "")
        if origin is not None and not self.authenticator.origins.allows_origin(origin, host):
            raise OriginNotAllowedError(
                "Pages of this origin may not use the server; the operator can allow it with auth.allowed_origins."
            )

    def admit(self, request: web.Request) -> Principal | None:
        """Who asks; None where that does not matter. Raises ApiError."""
        now = asyncio.get_running_loop().time()
        resource = request.match_info.route.resource
        pattern = "" if resource is None else resource.canonical
        if pattern in UNLIMITED:
            return None
        if pattern in PUBLIC or (pattern == METRICS and self._settings.auth.public_metrics):
            self._limit_address(Visitor.of(request, self._settings), now)
            return None
        visitor = Visitor.of(request, self._settings)
        credential = self._credential(request, visitor, now)
        if request.method == hdrs.METH_OPTIONS and credential is None:
            self._limit_address(visitor, now)
            return None  # the handler tells less to somebody whom it does not know
        if pattern in OPERATORS and credential is None:
            local = self.authenticator.local(visitor)
            if local is not None:
                return local
        principal = self._identify(credential, visitor, now)
        self._limit(principal, visitor, now)
        if pattern in OPERATORS and not principal.may_read_metrics:
            raise ForbiddenError(f"{pattern} is for this machine and for holders of an API key.")
        self._check_calls(request, principal)
        return principal

    def _credential(self, request: web.Request, visitor: Visitor, now: float) -> str | None:
        try:
            return credential_of(request)
        except UnauthorizedError:
            self._limit_address(visitor, now)
            raise

    def _identify(self, credential: str | None, visitor: Visitor, now: float) -> Principal:
        address = address_key(visitor.address)
        wait = self._failures.wait(address, now) if credential is not None else 0.0
        if wait:
            message = "Too many wrong keys came from this address; try again later."
            raise RateLimitedError(message, retry_after=retry_after(wait))
        try:
            return self.authenticator.identify(credential, visitor, now)
        except UnauthorizedError:
            if credential is not None:
                self._failures.take(address, now)
            else:
                self._limit_address(visitor, now)
            raise

    def _limit(self, principal: Principal, visitor: Visitor, now: float) -> None:
        if principal.kind != "anonymous":
            wait = self._by_owner.take(principal.owner, now)
            if wait:
                raise RateLimitedError("This key asks too often.", retry_after=retry_after(wait))
        elif not principal.is_local:
            self._limit_address(visitor, now)

    def _limit_address(self, visitor: Visitor, now: float) -> None:
        if visitor.is_local and not self.authenticator.requires_key(now):
            return
        wait = self._by_address.take(address_key(visitor.address), now)
        if wait:
            raise RateLimitedError("This address asks too often.", retry_after=retry_after(wait))

    def _check_calls(self, request: web.Request, principal: Principal) -> None:
        """A call that the path or `?call_id=` names must be the principal's own."""
        for call_id in (*request.match_info.values(), *request.query.getall("call_id", [])):
            check_control(request, principal, call_id)


GUARD: web.AppKey[Guard] = web.AppKey("guard", Guard)


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The middleware; inside `errors_as_json`."""
    guard = request.app[GUARD]
    try:
        guard.check_origin(request)
        if request.method == hdrs.METH_OPTIONS:
            return await _answer_options(request, handler, guard)
        principal = guard.admit(request)
    except ApiError as error:
        metrics.REQUESTS_REFUSED.labels(metrics.bounded("code", error.code)).inc()
        raise
    if principal is not None:
        request[PRINCIPAL] = principal
    return await _in_time(request, handler)


async def _answer_options(request: web.Request, handler: Handler, guard: Guard) -> web.StreamResponse:
    """A route's own OPTIONS handler decides what it says (WHIP); other routes get an answer here."""
    methods = await methods_of(request)
    if not methods:
        raise web.HTTPNotFound
    principal = None if is_preflight(request) else guard.admit(request)
    if principal is not None:
        request[PRINCIPAL] = principal
    if request.match_info.http_exception is None:
        response = await _in_time(request, handler)
    else:
        response = web.Response(status=204)
    add_options_headers(request, response, methods)
    return response


async def _in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler, whose reading of the body fails when the body does not arrive in time."""
    body = request.content
    if body.is_eof():
        return await handler(request)
    seconds = request.app[CONTEXT].settings.limits.body_seconds
    late = RequestTimeoutError(f"The request's body did not arrive within {seconds:g} s.")

    def give_up() -> None:
        if not body.is_eof():
            body.set_exception(late)

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        return await handler(request)
    finally:
        timer.cancel()


def install(app: web.Application, guard: Guard) -> None:
    """Protect every route of `app`, and add CORS headers to every answer. The middleware `guarded` must be in `app`."""
    app[GUARD] = guard

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        add_cors_headers(request, response, guard.authenticator.origins)

    app.on_response_prepare.append(prepare)
