"""The ICE servers that callers are told of, with TURN credentials that expire: the REST API for access to TURN services
(draft-uberti-behave-turn-rest), which coturn calls `use-auth-secret`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from rtc_server.config import Settings
from rtc_server.errors import ConfigError
from rtc_server.media.owners import Owner

from .context import CONTEXT
from .principal import PRINCIPAL

routes = web.RouteTableDef()

MIN_SECRET_CHARS = 32
NAME_CHARS = 16  # of a hash: enough to tell callers apart for coturn's user-quota, and it leads back to nobody


class IceServers:
    """Those of the settings. Raises ConfigError when the TURN secret cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._stun = settings.webrtc.ice_servers
        self._turn = settings.turn.urls
        self.ttl_seconds = settings.turn.ttl_seconds
        self._secret = _read_secret(Path(settings.turn.secret_file).expanduser()) if self._turn else b""

    def for_owner(self, owner: Owner, now: float) -> list[dict[str, Any]]:
        """As browsers take them (RTCIceServer), for whoever `owner` is; `now` is wall-clock time, in seconds."""
        servers: list[dict[str, Any]] = [{"urls": [url]} for url in self._stun]
        if self._turn:
            username, credential = self._credentials(owner, now)
            servers.append({"urls": list(self._turn), "username": username, "credential": credential})
        return servers

    def links(self, owner: Owner, now: float) -> CIMultiDict[str]:
        """The same as `Link` headers (RFC 9725 section 4.6)."""
        links: CIMultiDict[str] = CIMultiDict()
        for server in self.for_owner(owner, now):
            for url in server["urls"]:
                link = f'<{url}>; rel="ice-server"'
                if "username" in server:
                    link += f'; username="{server["username"]}"; credential="{server["credential"]}"'
                    link += '; credential-type="password"'
                links.add("Link", link)
        return links

    def _credentials(self, owner: Owner, now: float) -> tuple[str, str]:
        name = hmac.new(self._secret, "/".join(owner).encode(), hashlib.sha256).hexdigest()[:NAME_CHARS]
        username = f"{int(now) + self.ttl_seconds}:{name}"
        digest = hmac.new(self._secret, username.encode(), hashlib.sha1).digest()  # what TURN servers expect
        return username, base64.b64encode(digest).decode()


ICE_SERVERS: web.AppKey[IceServers] = web.AppKey("ice_servers", IceServers)


@routes.get("/v1/realtime/ice-servers")
async def ice_servers(request: web.Request) -> web.Response:
    """For the caller's next call, in snake case as the API writes, and as `RTCPeerConnection` takes them."""
    servers = request.app[ICE_SERVERS]
    found = servers.for_owner(request[PRINCIPAL].owner, time.time())
    body = {"ice_servers": found, "iceServers": found, "ttl": servers.ttl_seconds}
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def ice_links(request: web.Request) -> CIMultiDict[str]:
    """`Link` headers for whoever asks; none for somebody who is not known."""
    principal = request.get(PRINCIPAL)
    if principal is None:
        stun = request.app[CONTEXT].settings.webrtc.ice_servers
        return CIMultiDict([("Link", f'<{url}>; rel="ice-server"') for url in stun])
    return request.app[ICE_SERVERS].links(principal.owner, time.time())


def _read_secret(path: Path) -> bytes:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"turn.secret_file = {str(path)!r} cannot be read: {reason}.") from error
    if len(secret) < MIN_SECRET_CHARS:
        raise ConfigError(
            f"turn.secret_file = {str(path)!r} has {len(secret)} characters; at least {MIN_SECRET_CHARS} are needed: "
            "openssl rand -hex 32 makes good ones."
        )
    return secret.encode()
