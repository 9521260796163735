"""Which node takes a call, and where a running call is. The limit on calls is the machine's, so it is kept here."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rtc_server import metrics
from rtc_server.calls.admission import MAX_RETRY_AFTER_SECONDS, Admission, CallLimits, Lane
from rtc_server.calls.sessions import CallOptions
from rtc_server.config import Settings
from rtc_server.errors import ApiError, CallNotFoundError, DrainingError, NotReadyError
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.fragments import IceFragment, IceUpdate
from rtc_server.transports.sdp import Offer

from .node import (
    Answer,
    Channel,
    ChannelPeer,
    ChannelRequest,
    ListenRequest,
    MediaNode,
    NodeLoad,
    NodeStatus,
    OfferRequest,
    OutgoingRequest,
)
from .owners import Caller, CallOwners

log = logging.getLogger(__name__)

DRAIN_POLL_SECONDS = 0.1  # only while the server ends
STATUS_SECONDS = 2.0  # a worker that needs longer to list its calls is shown as one that does not answer
MAX_KNOWN_CALLS = 20_000  # where calls are, ended ones included until they are this many


def least_loaded(loads: Sequence[NodeLoad]) -> int | None:
    """Index of the ready node with the fewest calls, the first of several; None when none is ready."""
    ready = [index for index, load in enumerate(loads) if load.is_ready]
    return min(ready, key=lambda index: loads[index].calls, default=None)


class MediaRouter:
    """Owns the nodes."""

    def __init__(
        self,
        nodes: Sequence[MediaNode],
        max_calls: int,
        engine_calls: Callable[[], int | None] = lambda: None,
        *,
        reserved_calls: int = 0,
        underruns_per_minute: float = 0.0,
    ) -> None:
        """`engine_calls()` is the engine's limit, None while it does not say; the others are the operator's: see
        `Admission`."""
        self.nodes = tuple(nodes)
        self._engine_calls = engine_calls
        self._admission = Admission(max_calls, reserved_calls, underruns_per_minute)
        self._where: OrderedDict[str, MediaNode] = OrderedDict()
        self._is_open = False
        self._ends_at: float | None = None
        self._loads: dict[int, NodeLoad] = {}  # as they were last looked at, by node
        self.owners = CallOwners(self.carries)
        """Whose calls they are."""

    def open(self) -> None:
        """Take calls from now on: once every node is ready, or the first calls would all go to the first node."""
        self._is_open = True

    @property
    def num_calls(self) -> int:
        """Slots held on all nodes."""
        return sum(node.load.calls for node in self.nodes)

    @property
    def limit(self) -> CallLimits:
        """How many slots there are, on all nodes together."""
        self._admission.engine_calls = self._engine_calls()
        return self._admission.limits

    @property
    def is_ready(self) -> bool:
        """At least one node takes calls; before `open`, none."""
        return self._is_open and any(node.load.is_ready for node in self.nodes)

    async def answer(self, request: OfferRequest, caller: Caller) -> Answer:
        """Let the least loaded node answer. Raises NotReadyError, ServerFullError, RateLimitedError and what the node
        raises."""
        with self._starting(caller, request.options) as (node, started):
            answer = await node.answer(request)
            started(answer.call_id)
        return answer

    async def open_channel(self, request: ChannelRequest, peer: ChannelPeer, caller: Caller) -> Channel:
        """A new call goes to the least loaded node, a sideband to its call. Raises like `answer`, CallNotFoundError and
        what the node raises."""
        if request.call_id is not None:
            return await self._node(request.call_id).open_channel(request, peer)
        with self._starting(caller, request.options) as (node, started):
            channel = await node.open_channel(request, peer)
            started(channel.call_id)
        return channel

    async def offer(self, request: OutgoingRequest, caller: Caller) -> str:
        """Let the least loaded node offer. Raises like `answer`."""
        with self._starting(caller, request.options) as (node, started):
            sdp = await node.offer(request)
            started(request.call_id)
        return sdp

    async def accept_answer(self, call_id: str, answer: Offer) -> str:
        """See `MediaNode`."""
        return await self._node(call_id).accept_answer(call_id, answer)

    async def listen(self, request: ListenRequest) -> Answer:
        """See `MediaNode`."""
        node = self._node(request.call_id)
        answer = await node.listen(request)
        self._remember(answer.call_id, node)
        self.owners.share(request.call_id, answer.call_id)
        return answer

    def carries(self, call_id: str) -> bool:
        """The call goes on, as far as it is known."""
        node = self._where.get(call_id)
        return node is not None and node.carries(call_id)

    async def renegotiate(self, call_id: str, offer: Offer, if_match: str | None = None) -> str:
        """See `MediaNode`."""
        return await self._node(call_id).renegotiate(call_id, offer, if_match)

    async def reoffer(self, call_id: str) -> str:
        """See `MediaNode`."""
        return await self._node(call_id).reoffer(call_id)

    async def reanswer(self, call_id: str, answer: Offer) -> None:
        """See `MediaNode`."""
        await self._node(call_id).reanswer(call_id, answer)

    async def begin(self, call_id: str, session: SessionConfig | None) -> None:
        """See `MediaNode`."""
        await self._node(call_id).begin(call_id, session)

    async def press(self, call_id: str, digit: str) -> None:
        """See `MediaNode`."""
        await self._node(call_id).press(call_id, digit)

    async def tell(self, call_id: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `MediaNode`."""
        await self._node(call_id).tell(call_id, kind, fields)

    async def update_ice(self, call_id: str, fragment: IceFragment, if_match: str | None) -> IceUpdate:
        """See `MediaNode`."""
        return await self._node(call_id).update_ice(call_id, fragment, if_match)

    async def add_candidates(self, call_id: str, candidates: tuple[str, ...]) -> None:
        """See `MediaNode`."""
        await self._node(call_id).add_candidates(call_id, candidates)

    async def hang_up(self, call_id: str) -> None:
        """See `MediaNode`."""
        await self._node(call_id).hang_up(call_id)

    async def hand_over(self, call_id: str) -> bytes | None:
        """See `MediaNode`."""
        return await self._node(call_id).hand_over(call_id)

    async def metrics(self) -> list[bytes]:
        """The metrics of the nodes that are other processes; those that do not answer are left out."""
        results = await asyncio.gather(*(node.metrics() for node in self.nodes), return_exceptions=True)
        return [result for result in results if isinstance(result, bytes) and result]

    async def status(self) -> list[NodeStatus | None]:
        """Each node's, in their order; None for one that does not answer in time."""
        return list(await asyncio.gather(*(_status(node) for node in self.nodes)))

    def observe(self, now: float) -> None:
        """Look at the calls and at how their replies are played. Call it about once a second."""
        underruns, played_seconds = 0, 0.0
        for index, node in enumerate(self.nodes):
            load, before = node.load, self._loads.get(index)
            self._loads[index] = load
            if before is None or load.played_seconds < before.played_seconds:  # a worker that was started again
                before = NodeLoad(0, is_ready=True)
            underruns += load.underruns - before.underruns
            played_seconds += load.played_seconds - before.played_seconds
        limit = self.limit.max_calls
        self._admission.observe(self.num_calls, now, underruns, played_seconds)
        if (new := self.limit.max_calls) < limit:
            log.warning("replies run dry: fewer calls are let in", extra={"max_calls": new, "calls": self.num_calls})
        elif new > limit:
            log.info("replies are smooth: more calls are let in", extra={"max_calls": new})

    async def use_settings(self, settings: Settings) -> None:
        """Other limits, and other settings for new calls, from now on; the calls that there are go on."""
        admission = settings.admission
        self._admission.configure(
            settings.server.max_calls, admission.reserved_calls, admission.max_underruns_per_minute
        )
        await self._all(node.use_settings(settings) for node in self.nodes)

    @property
    def is_draining(self) -> bool:
        """The calls that there are go on; there will be no others."""
        return self._ends_at is not None

    async def drain(self, timeout_seconds: float, hurry: asyncio.Event) -> None:
        """Take no more calls, and wait until those that there are have ended: at most so long, and until `hurry`."""
        loop = asyncio.get_running_loop()
        self._ends_at = deadline = loop.time() + timeout_seconds
        await self._all(node.announce_drain(timeout_seconds) for node in self.nodes)
        while self.num_calls and loop.time() < deadline and not hurry.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), min(DRAIN_POLL_SECONDS, max(0.0, deadline - loop.time())))

    async def finish_replies(self, timeout_seconds: float) -> None:
        """See `MediaNode`."""
        await self._all(node.finish_replies(timeout_seconds) for node in self.nodes)

    async def close(self, timeout_seconds: float) -> None:
        """End every call and every node."""
        self._is_open = False
        await asyncio.gather(*(node.close(timeout_seconds) for node in self.nodes))

    async def _all(self, asked: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Ask all nodes; one that is gone has no calls to end."""
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, ApiError):
                raise result

    @contextmanager
    def _starting(self, caller: Caller, options: CallOptions) -> Iterator[tuple[MediaNode, Callable[[str], None]]]:
        """The node for a new call, and who is told its id; a refusal is counted."""
        try:
            with self.owners.admit(caller) as started:
                node = self._choose(caller, options)

                def begin(call_id: str) -> None:
                    started(call_id)
                    self._remember(call_id, node)

                yield node, begin
        except ApiError as error:
            metrics.CALLS_REFUSED.labels(metrics.bounded("code", error.code)).inc()
            raise

    def _choose(self, caller: Caller, options: CallOptions) -> MediaNode:
        if self._ends_at is not None:
            wait = self._ends_at - asyncio.get_running_loop().time()
            seconds = min(max(1, math.ceil(wait)), MAX_RETRY_AFTER_SECONDS)
            raise DrainingError(
                f"This server takes no more calls before it ends; call another one, or this one in {seconds} s.",
                retry_after=seconds,
            )
        index = least_loaded([node.load for node in self.nodes]) if self._is_open else None
        if index is None:
            raise NotReadyError("The models are still loading; try again in a moment.", retry_after=3)
        self._admission.engine_calls = self._engine_calls()
        # Who was cut off comes before who was not there yet; docs/scaling.md shows what few kept places do for them.
        goes_on = options.resume is not None and options.resume.snapshot is not None
        lane: Lane = "priority" if caller.has_priority or goes_on else "standard"
        self._admission.admit(self.num_calls, asyncio.get_running_loop().time(), lane)
        return self.nodes[index]

    def _remember(self, call_id: str, node: MediaNode) -> None:
        self._where[call_id] = node
        while len(self._where) > MAX_KNOWN_CALLS:
            self._where.popitem(last=False)

    def _node(self, call_id: str) -> MediaNode:
        try:
            return self._where[call_id]
        except KeyError:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.") from None


async def _status(node: MediaNode) -> NodeStatus | None:
    try:
        async with asyncio.timeout(STATUS_SECONDS):
            return await node.status()
    except (ApiError, TimeoutError):
        return None
