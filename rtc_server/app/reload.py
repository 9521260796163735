"""The settings file, the keys and the certificate, read again while calls run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rtc_server import logs
from rtc_server.config import Settings
from rtc_server.errors import CertificateError, ConfigError
from rtc_server.exposure import exposure
from rtc_server.relays.ice_servers import IceServers

from .context import AppContext
from .guard import Guard
from .live_settings import Change, change
from .systemd import Notifier

log = logging.getLogger(__name__)


class Reloader:
    """Everything that can fail is tried before anything is changed, so that a bad file changes nothing."""

    def __init__(self, context: AppContext, guard: Guard, load: Callable[[], Settings], notifier: Notifier) -> None:
        """`load` reads the settings from where they came from at the start."""
        self._context = context
        self._guard = guard
        self._load = load
        self._notifier = notifier
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> Change:
        """Raises ConfigError or CertificateError; the server goes on as it was then."""
        async with self._one_at_a_time:
            self._notifier.reloading()
            try:
                return await self._reload()
            except (ConfigError, CertificateError) as error:
                log.error("the settings are as they were, the reload failed: %s", error)
                raise
            finally:
                self._notifier.reloaded()

    async def on_signal(self, asked: asyncio.Event) -> None:
        """Reload whenever `asked` is set (SIGHUP); until it is cancelled."""
        while True:
            await asked.wait()
            asked.clear()
            try:
                await self.reload()
            except (ConfigError, CertificateError):
                continue  # logged
            except Exception:  # whatever it is, the calls that there are go on
                log.exception("the reload failed")

    async def _reload(self) -> Change:
        context = self._context
        found = change(context.settings, self._load())
        settings = found.settings
        exposure(settings)
        authenticator = self._guard.prepare(settings)
        ice_servers = IceServers(settings)
        if context.tls is not None:
            await asyncio.to_thread(context.tls.reload)
        context.settings = settings
        context.ice_servers = ice_servers
        self._guard.use(settings, authenticator)
        logs.configure(settings.logging)
        if context.telephony is not None:
            context.telephony.use_settings(settings)
        await context.router.use_settings(settings)
        log.info("settings read again", extra={"changed": ", ".join(found.applied) or "none"})
        if found.needs_restart:
            log.warning("these settings need a restart", extra={"settings": ", ".join(found.needs_restart)})
        return found
