"""The TURN servers that a server tells its callers, for a call that goes through one of them and no other way."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiortc import RTCConfiguration, RTCIceServer
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from .errors import CallError
from .peer import base_url, failures_of, refusal

ICE_SERVERS_PATH = "v1/realtime/ice-servers"
TRANSPORTS = ("udp", "tcp", "tls")
REQUEST_SECONDS = 10.0


async def relay_only(
    url: str, transport: str | None = None, *, tls: ssl.SSLContext | bool = True, api_key: str | None = None
) -> RTCConfiguration:
    """For a peer that may be reached over a relay only: the first TURN server that the one at `url` names, or its first
    over `transport` ("udp", "tcp", "tls"). Raises CallError when there is none, or it does not say."""
    base = base_url(url)
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    connector = aiohttp.TCPConnector(ssl=tls)
    try:
        with failures_of(base):
            async with (
                aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http,
                http.get(base / ICE_SERVERS_PATH) as reply,
            ):
                body = await reply.text(errors="replace")
                if reply.status != 200:
                    raise CallError(refusal(str(base), reply.status, body, what="its ICE servers"))
                found = (await reply.json())["iceServers"]
    except TimeoutError as error:
        raise CallError(f"{base} did not name its ICE servers within {REQUEST_SECONDS:g} s.") from error
    except (ValueError, KeyError, TypeError, aiohttp.ContentTypeError) as error:
        raise CallError(f"{base} did not name ICE servers in JSON; is it an rtc-server?") from error
    chosen = choose(found, transport)
    if chosen is None:
        what = "a TURN server" if transport is None else f"a TURN server over {transport.upper()}"
        raise CallError(f"{base} does not name {what}: set turn.urls there.")
    return RTCConfiguration(iceServers=[chosen], iceTransportPolicy=RTCIceTransportPolicy.RELAY)


def choose(servers: Sequence[Any], transport: str | None) -> RTCIceServer | None:
    """The first TURN URL, or the first of that transport, with its credential. Raises TypeError or KeyError for what is
    no list of ICE servers."""
    for server in servers:
        urls = server["urls"]
        for url in [urls] if isinstance(urls, str) else urls:
            if transport_of(url) is not None and transport in (None, transport_of(url)):
                return RTCIceServer(urls=url, username=server["username"], credential=server["credential"])
    return None


def transport_of(url: str) -> str | None:
    """How a TURN URL is talked to (RFC 7065): "udp", "tcp" or "tls"; None for a STUN server."""
    scheme, _, rest = url.partition(":")
    if scheme == "turns":
        return "tls"
    if scheme != "turn":
        return None
    return "tcp" if rest.partition("?")[2] == "transport=tcp" else "udp"
