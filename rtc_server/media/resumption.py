"""Going on with a session in another call: tokens are given out and taken back here.

A session has one token from its first call to its last. Whoever shows it takes the session out of the store, ends the
call that still has it, if there is one, and starts another with it. What cannot be started leaves it as it was.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from rtc_server import metrics
from rtc_server.calls.snapshot import CallSnapshot, ResumeGrant, resume_key
from rtc_server.errors import ApiError, ResumeNotFoundError

from .owners import Owner, account
from .snapshot_store import SnapshotWriter
from .snapshots import SnapshotStore

log = logging.getLogger(__name__)

TOKEN_PREFIX = "rsm_"
TOKEN_BYTES = 32
MAX_TOKEN_CHARS = 128
HAND_OVER_SECONDS = 2.0  # for a call that still runs; a process that stands still keeps nobody waiting longer


class Claim:
    """A session on its way into another call."""

    def __init__(self, grant: ResumeGrant) -> None:
        self.grant = grant
        """For the call's options."""
        self.call_id: str | None = None

    def started(self, call_id: str) -> None:
        """That call has it now."""
        self.call_id = call_id


class Resumption:
    """One per server. `hand_over` ends a call that runs and gives its last snapshot (`MediaRouter.hand_over`)."""

    def __init__(
        self,
        store: SnapshotStore,
        writer: SnapshotWriter,
        hand_over: Callable[[str], Awaitable[bytes | None]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._writer = writer
        self._hand_over = hand_over
        self._wall_clock = wall_clock

    def new(self, owner: Owner) -> ResumeGrant:
        """For a new session."""
        return ResumeGrant(TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES), account(owner))

    @asynccontextmanager
    async def claim(self, token: str, owner: Owner, model: str) -> AsyncIterator[Claim]:
        """Hold a session while a call is set up for it; tell `Claim.started` once there is one.

        Raises ResumeNotFoundError when there is no session of that token, not for this owner, or not for `model`."""
        key, owner = resume_key(token), account(owner)
        saved = None if len(token) > MAX_TOKEN_CHARS else await self._store.take(key, owner)
        if saved is None:
            raise self._not_found()
        data = saved.data
        snapshot = self._read(data)
        try:
            latest = await self._end(snapshot.call_id)
            if latest is not None:
                data, snapshot = latest, self._read(latest)
            if snapshot.session.model != model or snapshot.expires_at <= self._wall_clock():
                raise self._not_found()
            claim = Claim(ResumeGrant(token, owner, snapshot))
            yield claim
            if claim.call_id is not None:
                data = replace(snapshot, call_id=claim.call_id).to_bytes()
                metrics.SESSIONS_RESUMED.labels("resumed").inc()
                log.info("session resumed", extra={"call_id": claim.call_id, "after_call_id": snapshot.call_id})
        except ResumeNotFoundError:
            raise  # nobody can ever go on with it
        except BaseException:  # the call could not be made, or its client left meanwhile: another try may come
            self._writer.write(key, owner, data)
            raise
        else:
            self._writer.write(key, owner, data)

    async def _end(self, call_id: str) -> bytes | None:
        """The call that has the session so far: usually it was lost, and only its client knows; or it is gone."""
        try:
            async with asyncio.timeout(HAND_OVER_SECONDS):
                return await self._hand_over(call_id)
        except (ApiError, TimeoutError):
            return None

    def _read(self, data: bytes) -> CallSnapshot:
        try:
            return CallSnapshot.from_bytes(data)
        except ValueError as error:
            raise self._not_found() from error

    @staticmethod
    def _not_found() -> ResumeNotFoundError:
        metrics.SESSIONS_RESUMED.labels("not_found").inc()
        return ResumeNotFoundError(
            "No session waits under this resume token: it was ended, it has waited too long, or the token is not "
            "yours. Start a new call without it.",
            param="resume",
        )
