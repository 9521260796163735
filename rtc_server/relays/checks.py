"""Checks of the TURN servers that the settings name, each with what to do when it does not pass."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rtc_server.config import Settings
from rtc_server.errors import ConfigError
from rtc_server.findings import Finding
from rtc_server.network.addresses import machine_addresses

from .address import RelayAddress
from .credentials import TurnSecret
from .trial import Peer, try_relay


def check_turn(settings: Settings) -> Iterator[Finding]:
    """The secret for TURN credentials can be used; nobody is asked."""
    if not settings.turn.urls:
        return
    try:
        _turn_secret(settings)
    except ConfigError as error:
        yield Finding("turn", "fail", error.message, "Make one: openssl rand -hex 32.")
        return
    detail = f"Callers are told of {len(settings.turn.urls)}; `rtc-server doctor --turn` tries them out."
    yield Finding("turn", "ok", detail)


def try_turn(
    settings: Settings, urls: Sequence[str], peers: Sequence[str] = (), authority: Path | None = None
) -> Iterator[Finding]:
    """Each TURN server works as a caller needs it; this asks them. Raises ConfigError for what cannot be asked for.

    `peers`: addresses of the media server, where that is not this machine; `authority`: a PEM file of whom to trust."""
    secret = _turn_secret(settings)
    tls = ssl.create_default_context()
    if authority is not None:
        try:
            tls.load_verify_locations(authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{authority} is no file of a certificate authority: {error.strerror or error}."
            ) from error
    where = [Peer(address, None) for address in peers] or _media_peers(settings)
    for url in urls:
        try:
            relay = RelayAddress.of(url)
        except ValueError as error:
            yield Finding("turn", "fail", f"{error}.", "Correct turn.urls.")
            continue
        credentials = secret.credentials(("doctor",), int(time.time()) + settings.turn.ttl_seconds)
        outcome = asyncio.run(try_relay(relay, credentials, where, tls))
        detail = f"{relay}: {outcome.detail}"
        yield Finding(f"turn {relay.way}", "fail" if outcome.fault else "ok", detail, outcome.advice)


def _turn_secret(settings: Settings) -> TurnSecret:
    if not settings.turn.secret_file:
        raise ConfigError("turn.secret_file is not set: there is no credential to try.")
    return TurnSecret(Path(settings.turn.secret_file).expanduser())


def _media_peers(settings: Settings) -> list[Peer]:
    """Where calls take packets, as the candidates of their answers say."""
    webrtc = settings.webrtc
    span = webrtc.udp_port_range
    ports = tuple(range(span[0], span[1] + 1)) if span else ((webrtc.udp_port,) if webrtc.udp_port else ())
    if webrtc.external_addresses:
        return [Peer(address, "::" if ":" in address else "0.0.0.0", ports) for address in webrtc.external_addresses]
    addresses = webrtc.host_addresses or machine_addresses()
    return [Peer(address, address, ports) for address in addresses]
