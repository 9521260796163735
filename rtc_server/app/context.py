"""What the HTTP handlers share: one bundle, made once by `server` and found through a typed key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from rtc_server.config import Settings
from rtc_server.inference.client import EngineClient
from rtc_server.media.resumption import Resumption
from rtc_server.media.router import MediaRouter
from rtc_server.relays.ice_servers import IceServers
from rtc_server.sip.service import SipService

from .lifecycle import Lifecycle
from .live_settings import Change
from .tls import ServedCertificate
from .webhook import IncomingCallWebhook


@dataclass(slots=True)
class AppContext:
    settings: Settings
    """Those in force: a reload replaces them whole."""
    engine: EngineClient
    router: MediaRouter
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    tls: ServedCertificate | None = None
    """Of the HTTPS port, once it is open; None without."""
    reload: Callable[[], Awaitable[Change]] | None = None
    """See `reload.Reloader`; None where the settings come from nowhere."""
    ice_servers: IceServers | None = None
    """What callers are told; None until the application is made."""
    resumption: Resumption | None = None
    """None: sessions end with their calls."""
    telephony: SipService | None = None
    """None: there are no telephone calls."""
    webhook: IncomingCallWebhook | None = None
    """Who is told of those that ring; None: they are answered at once."""


CONTEXT: web.AppKey[AppContext] = web.AppKey("context", AppContext)
