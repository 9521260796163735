"""Where sessions of lost calls wait, for all media nodes: an actor, and the `SnapshotStore` over it.

They are in the memory of one process. When that is lost, Ray starts it again, empty, and calls that live put theirs
there anew within `REPEAT_SECONDS`; only who lost its call and the store within that time starts from the beginning.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import RayError

from rtc_server.media.owners import Owner
from rtc_server.media.snapshot_store import LocalSnapshotStore
from rtc_server.media.snapshots import SavedSession

from .messages import NAMESPACE

log = logging.getLogger(__name__)

ACTOR = "sessions"
PUT_SECONDS = 5.0  # a store that answers nothing for so long has not got it; the call's next snapshot comes
TAKE_SECONDS = 5.0


class SessionKeeper(LocalSnapshotStore):
    """The actor: a store on one event loop, and of two who ask for a session one gets it."""


class RaySnapshotStore:
    """A `SnapshotStore` for the event loop of a media node. What the actor cannot do now is told to the log."""

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    async def put(self, key: str, saved: SavedSession) -> None:
        """See `SnapshotStore`."""
        await self._ask(self._keeper.put.remote(key, saved), PUT_SECONDS)

    async def take(self, key: str, owner: Owner) -> SavedSession | None:
        """See `SnapshotStore`. None, too, when the actor was lost: so is what it had."""
        saved: SavedSession | None = await self._ask(self._keeper.take.remote(key, owner), TAKE_SECONDS)
        return saved

    async def drop(self, key: str) -> None:
        """See `SnapshotStore`."""
        await self._ask(self._keeper.drop.remote(key), PUT_SECONDS)

    async def _ask(self, asked: Any, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except (RayError, TimeoutError) as error:
            log.warning("the store of lost sessions did not answer", extra={"reason": type(error).__name__})
            return None


def keeper_actor(resume_seconds: float) -> Any:
    """The cluster's one; made if there is none. See `LocalSnapshotStore` for `resume_seconds`."""
    return (
        ray.remote(SessionKeeper)
        .options(
            name=ACTOR,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=1_000,
        )
        .remote(resume_seconds)
    )
