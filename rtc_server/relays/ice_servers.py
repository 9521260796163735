"""The ICE servers that callers are told of: STUN servers, and TURN servers with credentials that expire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multidict import CIMultiDict

from rtc_server import metrics
from rtc_server.config import Settings

from .credentials import TurnSecret


class IceServers:
    """Those of the settings. Raises ConfigError when the TURN secret cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._stun = settings.webrtc.ice_servers
        self._turn = settings.turn.urls
        self.ttl_seconds = settings.turn.ttl_seconds
        self._secret = TurnSecret(Path(settings.turn.secret_file).expanduser()) if self._turn else None

    def for_caller(self, caller: tuple[str, ...], now: float) -> list[dict[str, Any]]:
        """As browsers take them (RTCIceServer); `now` is wall-clock time, in seconds. The same words for a `caller`
        give the same name at the TURN server."""
        servers: list[dict[str, Any]] = [{"urls": [url]} for url in self._stun]
        if self._secret is not None:
            made = self._secret.credentials(caller, int(now) + self.ttl_seconds)
            metrics.TURN_CREDENTIALS.inc()
            servers.append({"urls": list(self._turn), **made._asdict()})
        return servers

    def links(self, caller: tuple[str, ...] | None, now: float) -> CIMultiDict[str]:
        """The same as `Link` headers (RFC 9725 section 4.6). Without a caller: what needs no credentials."""
        links = CIMultiDict([("Link", f'<{url}>; rel="ice-server"') for url in self._stun])
        if self._secret is not None and caller is not None:
            server = self.for_caller(caller, now)[-1]
            for url in server["urls"]:
                link = f'<{url}>; rel="ice-server"; username="{server["username"]}"'
                links.add("Link", f'{link}; credential="{server["credential"]}"; credential-type="password"')
        return links
