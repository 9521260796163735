"""From a request to its principal: keys, tokens, ephemeral secrets, and who may come without any of them."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from typing import Literal

from aiohttp import hdrs, web

from rtc_server.config import Settings
from rtc_server.errors import HostNotAllowedError, UnauthorizedError
from rtc_server.keys import ApiKey, KeyRing
from rtc_server.limits import address_key
from rtc_server.media.owners import Caller, Owner

from .origins import OriginPolicy
from .principal import Principal
from .remote import client_address, is_same_host
from .secret_table import PREFIX, SecretTable
from .tokens import TokenVerifier

PROTOCOL_PREFIX = "openai-insecure-api-key."
"""Browsers cannot send a header with a WebSocket; OpenAI's clients put the key among the subprotocols."""

MAX_CREDENTIAL_CHARS = 8_000  # tokens are long; aiohttp's limit on a header line is just above


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a request shows of its sender."""

    address: str
    """IP address, as far as the trusted proxies tell."""
    is_local: bool
    """On this machine, and not for somebody else behind a proxy."""
    host: str
    """How it addresses the server."""

    @classmethod
    def of(cls, request: web.Request, settings: Settings) -> Visitor:
        """Looks at the connection and at the headers that proxies set."""
        address = client_address(request, settings.auth.trusted_proxies)
        return cls(address, is_same_host(request), request.headers.get(hdrs.HOST, ""))


def credential_of(request: web.Request) -> str | None:
    """The key, token or secret that came with a request; never taken from the query, because addresses end up in logs.

    Raises UnauthorizedError for an `Authorization` that is not `Bearer`."""
    header = request.headers.get(hdrs.AUTHORIZATION)
    if header is not None:
        scheme, _, value = header.strip().partition(" ")
        if scheme.lower() != "bearer" or not value.strip() or len(value) > MAX_CREDENTIAL_CHARS:
            raise UnauthorizedError("Send the key as 'Authorization: Bearer <key>'.")
        return value.strip()
    if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
        for line in request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, []):
            for protocol in line.split(","):
                if protocol.strip().startswith(PROTOCOL_PREFIX):
                    return protocol.strip().removeprefix(PROTOCOL_PREFIX)
    return None


class Authenticator:
    """Owns the keys and the ephemeral secrets."""

    def __init__(self, settings: Settings, secrets: SecretTable | None = None) -> None:
        """`secrets` are those of the authenticator before. Raises ConfigError when a file of keys cannot be used."""
        self._settings = settings
        self._ring = KeyRing(settings.auth)
        self._tokens = TokenVerifier.of(settings.auth)
        self.secrets = SecretTable(settings.auth.max_client_secrets) if secrets is None else secrets
        self.origins = OriginPolicy(settings.auth.allowed_origins, own_names(settings))

    def requires_key(self, now: float) -> bool:
        """Somebody without a credential gets nothing, wherever they come from."""
        return bool(self._tokens is not None or self._ring.keys(now))

    def identify(self, credential: str | None, visitor: Visitor, now: float) -> Principal:
        """Raises UnauthorizedError, or HostNotAllowedError where only the name in `Host` is wrong."""
        if credential is not None and credential.startswith(PREFIX):
            return self._by_secret(credential, visitor, now)
        if credential is not None and self.requires_key(now):
            if self._tokens is not None and credential.count(".") == 2:
                return self._principal("token", ("token", self._tokens.subject(credential)), visitor)
            key = self._ring.find(credential, now)
            if key is None:
                raise UnauthorizedError("The API key is not known here.")
            admins = self._settings.auth.admin_keys
            is_operator = not admins or key.name in admins
            principal = self._principal("key", ("key", key.key_id), visitor, has_priority=self._has_priority(key))
            return replace(principal, is_operator=is_operator)
        return self._without_key(visitor, now)

    def local(self, visitor: Visitor) -> Principal | None:
        """Somebody on this machine, for what this machine may always see."""
        is_own = visitor.is_local and self.origins.allows_host(visitor.host)
        return self._principal("anonymous", ("anonymous",), visitor) if is_own else None

    def _without_key(self, visitor: Visitor, now: float) -> Principal:
        auth = self._settings.auth
        if self.requires_key(now) and not (auth.trust_loopback and visitor.is_local):
            raise UnauthorizedError("Send an API key as 'Authorization: Bearer <key>'.")
        if not visitor.is_local and not auth.insecure_no_auth:
            raise UnauthorizedError(
                "This server has no API keys, so it serves only its own machine; behind a proxy it needs one."
            )
        if not self.origins.allows_host(visitor.host):
            raise HostNotAllowedError(
                "This server is open, so it must be addressed by an IP address or by its own name; "
                "the operator can allow other names with auth.allowed_hosts."
            )
        return self._principal("anonymous", ("anonymous",), visitor)

    def _by_secret(self, credential: str, visitor: Visitor, now: float) -> Principal:
        secret = self.secrets.find(credential, time.time())
        keys = [key for key in self._ring.keys(now) if secret is not None and secret.owner[:2] == ("key", key.key_id)]
        if secret is None or (secret.owner[0] == "key" and not keys):  # a secret ends with the key that made it
            raise UnauthorizedError("The client secret is not known, or has expired.")
        owner = (*secret.owner, "secret", secret.secret_id)
        principal = self._principal("secret", owner, visitor, has_priority=any(map(self._has_priority, keys)))
        return Principal("secret", principal.caller, secret.session, principal.is_local)

    def _has_priority(self, key: ApiKey) -> bool:
        return key.name in self._settings.admission.priority_keys

    def _principal(
        self,
        kind: Literal["anonymous", "key", "token", "secret"],
        owner: Owner,
        visitor: Visitor,
        *,
        has_priority: bool = False,
    ) -> Principal:
        limits = self._settings.limits
        quotas = []
        if limits.calls_per_key and owner[0] in ("key", "token"):
            quotas.append((f"{owner[0]} {owner[1]}", limits.calls_per_key))
        if limits.calls_per_address and kind != "key" and not (kind == "anonymous" and visitor.is_local):
            quotas.append((f"address {address_key(visitor.address)}", limits.calls_per_address))
        caller = Caller(owner, tuple(quotas), has_priority)
        return Principal(kind, caller, is_local=visitor.is_local)


def own_names(settings: Settings) -> list[str]:
    """Names that lead here because the operator, or this machine, says so."""
    name = socket.gethostname()
    origins = [origin.partition("://")[2].partition(":")[0] for origin in settings.auth.allowed_origins]
    return [settings.server.host, name, f"{name}.local", *settings.auth.allowed_hosts, *origins]
