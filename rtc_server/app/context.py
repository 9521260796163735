"""What the HTTP handlers share: one frozen bundle, made once by `server` and found through a typed key."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from rtc_server.config import Settings
from rtc_server.inference.client import EngineClient
from rtc_server.media.resumption import Resumption
from rtc_server.media.router import MediaRouter


@dataclass(frozen=True, slots=True)
class AppContext:
    settings: Settings
    engine: EngineClient
    router: MediaRouter
    resumption: Resumption | None = None
    """None: sessions end with their calls."""


CONTEXT: web.AppKey[AppContext] = web.AppKey("context", AppContext)
