"""Who can reach this server, and whether that is what the operator wants. Asked before anything is listened on."""

from __future__ import annotations

import ipaddress
from typing import Literal, TypeAlias

from rtc_server.config import COMMAND_LINE, Settings, explain
from rtc_server.errors import ConfigError
from rtc_server.keys import KeyRing

Exposure: TypeAlias = Literal["keys", "this machine", "everybody"]
"""Who may use the server: holders of a key, whoever is on this machine, or everybody who reaches it."""


def is_loopback(host: str) -> bool:
    """`host` (an address, or "localhost") can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def requires_keys(settings: Settings) -> bool:
    """A key or a token is needed. Raises ConfigError when the file of keys cannot be used."""
    auth = settings.auth
    return bool(auth.jwt_secret_file or auth.jwt_public_key_file or KeyRing(auth).keys(0.0))


def exposure(settings: Settings) -> Exposure:
    """Raises ConfigError when strangers could use the server and the operator has not said that they may."""
    if requires_keys(settings):
        return "keys"
    host = settings.server.host
    if is_loopback(host):
        return "this machine"
    if settings.auth.insecure_no_auth:
        return "everybody"
    source = next(row.source for row in explain(settings) if row.key == "server.host")
    given = f"--host {host}" if source == COMMAND_LINE else f"server.host = {host} ({source})"
    raise ConfigError(
        f"{given} would let everybody who reaches this machine use the server, and there is no key yet. "
        "Make one with `rtc-server keys add NAME`, or listen on 127.0.0.1, "
        "or add --insecure-no-auth (auth.insecure_no_auth) on a network where you trust everybody."
    )
