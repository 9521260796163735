"""Which node takes a call, and what happens when nodes come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from rtc_server.calls.sessions import CallOptions
from rtc_server.calls.snapshot import CallSnapshot, ResumeGrant
from rtc_server.config import Settings
from rtc_server.errors import (
    ApiError,
    CallNotFoundError,
    InvalidSdpError,
    NetworkError,
    NotReadyError,
    RateLimitedError,
    ServerFullError,
)
from rtc_server.media.channels import WindowedChannel
from rtc_server.media.merge import merge
from rtc_server.media.node import Answer, Channel, ChannelPeer, ChannelRequest, NodeLoad, NodeStatus, OfferRequest
from rtc_server.media.owners import Caller, controls
from rtc_server.media.router import MediaRouter, least_loaded
from rtc_server.media.wire import Failure
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.sdp import Offer

CALLER = Caller(("key", "k1"))
REQUEST = OfferRequest(Offer("", (), False, 0), ())


class NoPeer:
    """A `ChannelPeer` for channels on which nothing happens."""

    def on_data(self, data: str | bytes) -> None: ...

    def on_closed(self, code: int, reason: str) -> None: ...


class NoLine:
    """The other end of such a channel."""

    def receive(self, data: str | bytes) -> None: ...

    def acknowledge(self, size: int) -> None: ...

    def disconnect(self, *, is_lost: bool = False) -> None: ...


class CountingNode:
    """A node that accepts everything and counts."""

    def __init__(self, name: str, calls: int = 0, *, is_ready: bool = True) -> None:
        self.name = name
        self.calls = calls
        self.is_ready = is_ready
        self.hung_up: list[str] = []
        self.joined: list[str | None] = []
        self.told: float | None = None
        self.underruns = 0
        self.played_seconds = 0.0

    @property
    def load(self) -> NodeLoad:
        return NodeLoad(self.calls, self.is_ready, self.underruns, self.played_seconds)

    def carries(self, call_id: str) -> bool:
        return call_id not in self.hung_up

    async def answer(self, request: OfferRequest) -> Answer:
        self.calls += 1
        return Answer(f"{self.name}-{self.calls}", "v=0")

    async def open_channel(self, request: ChannelRequest, peer: ChannelPeer) -> Channel:
        self.joined.append(request.call_id)
        self.calls += request.call_id is None
        channel = WindowedChannel(peer)
        channel.connect(request.call_id or f"{self.name}-{self.calls}", NoLine())
        return channel

    async def status(self) -> NodeStatus:
        if not self.is_ready:
            raise NotReadyError("It is being restarted.", retry_after=1)
        return NodeStatus((), ())

    async def renegotiate(self, call_id: str, offer: Offer) -> str:
        return self.name

    async def add_candidates(self, call_id: str, candidates: tuple[str, ...]) -> None: ...

    async def hang_up(self, call_id: str) -> None:
        self.hung_up.append(call_id)

    async def metrics(self) -> bytes:
        return b""

    async def use_settings(self, settings: Settings) -> None: ...

    async def announce_drain(self, seconds: float) -> None:
        self.told = seconds

    async def finish_replies(self, timeout_seconds: float) -> None:
        self.calls = 0

    async def close(self, timeout_seconds: float) -> None:
        self.is_ready = False


def opened(nodes: Sequence[CountingNode], max_calls: int) -> MediaRouter:
    router = MediaRouter(nodes, max_calls)
    router.open()
    return router


def test_the_least_loaded_ready_node_is_chosen() -> None:
    assert least_loaded([NodeLoad(3, True), NodeLoad(1, True), NodeLoad(0, False)]) == 1
    assert least_loaded([NodeLoad(2, True), NodeLoad(2, True)]) == 0
    assert least_loaded([NodeLoad(0, False)]) is None


async def test_calls_spread_evenly_and_are_found_again() -> None:
    nodes = [CountingNode("a"), CountingNode("b")]
    router = opened(nodes, max_calls=10)
    answers = [await router.answer(REQUEST, CALLER) for _ in range(6)]
    assert [node.calls for node in nodes] == [3, 3]
    await router.hang_up(answers[1].call_id)
    assert nodes[1].hung_up == [answers[1].call_id]
    with pytest.raises(CallNotFoundError):
        await router.hang_up("rtc_unknown")


async def test_channels_spread_like_calls_and_sidebands_go_to_their_call() -> None:
    nodes = [CountingNode("a"), CountingNode("b")]
    router = opened(nodes, max_calls=4)
    calls = [(await router.open_channel(ChannelRequest(), NoPeer(), CALLER)).call_id for _ in range(4)]
    assert [node.calls for node in nodes] == [2, 2]
    for call_id in calls:
        await router.open_channel(ChannelRequest(call_id), NoPeer(), CALLER)
    assert nodes[0].joined == [None, None, calls[0], calls[2]]
    with pytest.raises(CallNotFoundError):
        await router.open_channel(ChannelRequest("rtc_unknown"), NoPeer(), CALLER)
    with pytest.raises(ServerFullError):
        await router.open_channel(ChannelRequest(), NoPeer(), CALLER)
    assert router.owners.of(calls[0]) == CALLER.owner


async def test_the_limit_is_the_machines_not_the_nodes() -> None:
    router = opened([CountingNode("a", 2), CountingNode("b", 1)], max_calls=4)
    await router.answer(REQUEST, CALLER)
    with pytest.raises(ServerFullError):
        await router.answer(REQUEST, CALLER)


async def test_the_engines_limit_counts_where_it_is_lower_and_once_it_is_known() -> None:
    engine_calls: list[int | None] = [None]
    node = CountingNode("a", 1)
    router = MediaRouter([node], 3, lambda: engine_calls[0])
    router.open()
    await router.answer(REQUEST, CALLER)
    engine_calls[0] = 2
    assert router.limit.max_calls == 2
    with pytest.raises(ServerFullError, match="engine") as by_engine:
        await router.answer(REQUEST, CALLER)
    with pytest.raises(ServerFullError, match="engine"):
        await router.open_channel(ChannelRequest(), NoPeer(), CALLER)
    assert int(by_engine.value.headers["Retry-After"]) > 0
    engine_calls[0] = 100
    assert router.limit.max_calls == 3
    await router.answer(REQUEST, CALLER)
    with pytest.raises(ServerFullError) as by_server:
        await router.answer(REQUEST, CALLER)
    assert by_server.value.message == "All 3 lines are busy. Try again in 10 s."


async def test_without_a_ready_node_callers_are_asked_to_wait() -> None:
    router = opened([CountingNode("a", is_ready=False)], max_calls=4)
    with pytest.raises(NotReadyError):
        await router.answer(REQUEST, CALLER)
    assert not router.is_ready


async def test_until_every_node_is_ready_none_takes_a_call() -> None:
    """The first of two workers would otherwise get the calls that were meant for both."""
    nodes = [CountingNode("a"), CountingNode("b", is_ready=False)]
    router = MediaRouter(nodes, max_calls=4)
    assert not router.is_ready
    with pytest.raises(NotReadyError):
        await router.answer(REQUEST, CALLER)
    nodes[1].is_ready = True
    router.open()
    assert router.is_ready
    await router.answer(REQUEST, CALLER)
    await router.close(0.0)
    assert not router.is_ready
    with pytest.raises(NotReadyError):
        await router.answer(REQUEST, CALLER)


@pytest.mark.parametrize(
    "error",
    [
        InvalidSdpError("no", param="sdp"),
        ServerFullError("full", retry_after=7),
        NotReadyError("wait", retry_after=3),
        NetworkError("no port"),
        CallNotFoundError("gone"),
        RateLimitedError("slow down", retry_after=4),
    ],
)
def test_refusals_cross_the_process_boundary_unchanged(error: ApiError) -> None:
    received = Failure.of(error).error()
    assert type(received) is type(error)
    assert isinstance(received, ApiError)
    assert (received.message, received.status, received.headers) == (error.message, error.status, error.headers)
    assert received.to_body() == error.to_body()


def test_a_bug_crosses_as_a_bug_without_its_details() -> None:
    received = Failure.of(KeyError("secret")).error()
    assert isinstance(received, RuntimeError)
    assert "secret" not in str(received)


def test_metrics_of_several_processes_add_up() -> None:
    def page(calls: int, rss: float) -> bytes:
        registry = CollectorRegistry()
        Counter("rtc_server_calls_started", "Calls.", registry=registry).inc(calls)
        Gauge("rtc_server_rss_bytes", "Memory.", registry=registry).set(rss)
        return generate_latest(registry)

    pages = [("media-0", page(2, 10)), ("media-1", page(3, 20))]
    families = {family.name: family for family in merge(pages, ["rtc_server_rss_bytes"])}
    (started,) = families["rtc_server_calls_started"].samples
    assert (started.name, started.value) == ("rtc_server_calls_started_total", 5)
    rss = {sample.labels["process"]: sample.value for sample in families["rtc_server_rss_bytes"].samples}
    assert rss == {"media-0": 10, "media-1": 20}


# --- whose calls they are


def test_whoever_is_above_controls_what_is_below() -> None:
    key, browser, other = ("key", "k1"), ("key", "k1", "secret", "a"), ("key", "k1", "secret", "b")
    assert controls(key, key)
    assert controls(key, browser)
    assert controls(browser, browser)
    assert not controls(browser, key)
    assert not controls(browser, other)
    assert not controls(("key", "k"), key)


async def test_a_quota_counts_live_calls_and_frees_those_that_ended() -> None:
    node = CountingNode("a")
    router = opened([node], max_calls=10)
    mine, other = Caller(("key", "k1"), (("k1", 2),)), Caller(("key", "k2"), (("k2", 2),))
    first, _ = [await router.answer(REQUEST, mine) for _ in range(2)]
    with pytest.raises(RateLimitedError) as refused:
        await router.answer(REQUEST, mine)
    assert refused.value.status == 429
    assert int(refused.value.headers["Retry-After"]) > 0
    await router.answer(REQUEST, other)
    await router.hang_up(first.call_id)
    await router.answer(REQUEST, mine)
    assert router.owners.of(first.call_id) == mine.owner
    assert router.owners.of("rtc_unknown") is None


async def test_calls_that_are_being_set_up_count_too() -> None:
    """Two offers at the same moment must not both take the last place; a failed one gives its place back."""
    go = asyncio.Event()

    class SlowNode(CountingNode):
        async def answer(self, request: OfferRequest) -> Answer:
            await go.wait()
            raise InvalidSdpError("no")

    router = opened([SlowNode("a")], max_calls=10)
    caller = Caller(("key", "k1"), (("k1", 1),))
    first = asyncio.create_task(router.answer(REQUEST, caller))
    await asyncio.sleep(0)
    with pytest.raises(RateLimitedError):
        await router.answer(REQUEST, caller)
    go.set()
    with pytest.raises(InvalidSdpError):
        await first
    assert router.owners.count("k1") == 0


async def test_a_node_that_does_not_answer_is_told_from_one_that_has_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtc_server.media.router.STATUS_SECONDS", 0.01)

    class StuckNode(CountingNode):
        async def status(self) -> NodeStatus:
            await asyncio.Event().wait()
            raise AssertionError("cancelled before")

    nodes = [CountingNode("a"), CountingNode("lost", is_ready=False), StuckNode("stuck")]
    assert await MediaRouter(nodes, 10).status() == [NodeStatus((), ()), None, None]


async def test_who_goes_on_with_a_lost_call_gets_the_places_that_are_kept() -> None:
    router = MediaRouter([CountingNode("a")], 2, reserved_calls=1)
    router.open()
    await router.answer(REQUEST, CALLER)
    with pytest.raises(ServerFullError, match="1 more are kept"):
        await router.answer(REQUEST, CALLER)
    fresh = ResumeGrant("rsm_new", ("key", "k1"))
    with pytest.raises(ServerFullError, match="1 more are kept"):
        await router.answer(replace(REQUEST, options=CallOptions(resume=fresh)), CALLER)
    snapshot = CallSnapshot("rtc", "sess", "conv", 1, "realtime", SessionConfig())
    lost = ResumeGrant("rsm_old", ("key", "k1"), snapshot)
    assert await router.answer(replace(REQUEST, options=CallOptions(resume=lost)), CALLER)
    assert router.num_calls == 2


@pytest.mark.parametrize(
    ("after_restart", "live_calls"),
    [
        (((0, 0.0), (3, 50.0)), None),  # 11 gaps in 250 s of speech are few enough
        (((8, 20.0),), 4),  # 16 in 220 s are not
    ],
)
async def test_a_worker_that_begins_anew_is_counted_from_nothing(
    after_restart: tuple[tuple[int, float], ...], live_calls: int | None
) -> None:
    """Its totals fall back to 0: the difference to what was seen before is no news of its replies."""
    node = CountingNode("a", 5)
    router = MediaRouter([node], max_calls=20, underruns_per_minute=3.0)
    for second, (underruns, played_seconds) in enumerate(((8, 200.0), *after_restart)):
        node.underruns, node.played_seconds = underruns, played_seconds
        router.observe(float(second))
    assert router.limit.live_calls == live_calls
