"""Who makes a request, as the handlers see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from rtc_server.errors import CallNotFoundError, ForbiddenError
from rtc_server.media.owners import Caller, Owner, controls
from rtc_server.realtime.session import SessionConfig
from rtc_server.sip.service import OWNER as TELEPHONE

from .context import CONTEXT


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may use the server."""

    kind: Literal["anonymous", "key", "token", "secret"]
    """"anonymous": the server is open; "key": an API key; "token": a JWT; "secret": an ephemeral `ek_...`."""
    caller: Caller
    """Give it to the router with every new call."""
    session: SessionConfig | None = None
    """What the calls of an ephemeral secret start with; None = what the client or the settings say."""
    is_operator: bool = False
    """An API key that may operate the server (`auth.admin_keys`)."""
    is_local: bool = False
    """On this machine, and not for somebody else behind a proxy."""

    @property
    def owner(self) -> Owner:
        """Whose calls it makes."""
        return self.caller.owner

    @property
    def may_mint(self) -> bool:
        """Make ephemeral secrets: only for those who could use the server for good anyway."""
        return self.kind in ("anonymous", "key")

    @property
    def may_operate(self) -> bool:
        """Drain and reload the server: with an API key that may, or on this machine while there is none."""
        return self.is_operator or (self.kind == "anonymous" and self.is_local)

    @property
    def may_dial(self) -> bool:
        """Call telephones: with an API key, or on this machine while there is none. It costs money."""
        return self.kind == "key" or (self.kind == "anonymous" and self.is_local)

    def may_control(self, owner: Owner) -> bool:
        """Calls of that owner. A telephone call that nobody has accepted yet is everybody's who could use the server
        for good; whoever accepts it owns it."""
        return controls(self.owner, owner) or (owner == TELEPHONE and self.may_mint)

    @property
    def may_read_metrics(self) -> bool:
        return self.kind == "key" or (self.kind == "anonymous" and self.is_local)


PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
"""`request[PRINCIPAL]`: set for every handler but the public ones; an OPTIONS handler uses `request.get`."""


def require_minting(request: web.Request) -> Principal:
    """The principal, if it may make ephemeral secrets. Raises ForbiddenError."""
    principal = request[PRINCIPAL]
    if not principal.may_mint:
        raise ForbiddenError("Client secrets are made with an API key, not with a client secret or a token.")
    return principal


def require_operator(request: web.Request) -> None:
    """Raises ForbiddenError."""
    if not request[PRINCIPAL].may_operate:
        raise ForbiddenError(
            "The server is operated with an API key (of auth.admin_keys, where that names any), "
            "or from its own machine while it has no keys."
        )


def require_dialling(request: web.Request) -> None:
    """Raises ForbiddenError."""
    if not request[PRINCIPAL].may_dial:
        raise ForbiddenError(
            "Telephones are called with an API key, or from the server's own machine while it has no keys."
        )


def require_control(request: web.Request, call_id: str) -> None:
    """The principal may control this call. Ids in the path and in `?call_id=` are checked already, before the handler.

    Raises CallNotFoundError for somebody else's call; calls that are not known are left to the router."""
    check_control(request, request[PRINCIPAL], call_id)


def check_control(request: web.Request, principal: Principal, call_id: str) -> None:
    """The same for a principal that is not the request's yet."""
    context = request.app[CONTEXT]
    owner = context.router.owners.of(call_id)
    if owner is None and context.telephony is not None and context.telephony.carries(call_id):
        owner = TELEPHONE  # it rings: no node knows it yet
    if owner is not None and not principal.may_control(owner):
        raise CallNotFoundError(f"There is no call '{call_id[:64]}'.")
