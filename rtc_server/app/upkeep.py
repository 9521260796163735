"""What is done once a second while the server runs: look at the engine and at the calls, and say how it is."""

from __future__ import annotations

import asyncio

from .context import AppContext
from .systemd import Notifier

UPKEEP_SECONDS = 1.0


async def keep_up(context: AppContext, notifier: Notifier) -> None:
    """Until it is cancelled."""
    loop, router = asyncio.get_running_loop(), context.router
    while True:
        now = loop.time()
        context.engine.ping(now)
        router.observe(now)
        if context.telephony is not None:
            context.telephony.observe()
        if context.tls is not None:
            context.tls.warn_before_expiry()
        state = "draining, " if context.lifecycle.is_ending else "" if router.is_ready else "not ready, "
        notifier.status(f"{state}{router.num_calls} of {router.limit.max_calls} calls")
        await asyncio.sleep(UPKEEP_SECONDS)
