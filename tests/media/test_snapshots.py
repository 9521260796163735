"""Lost sessions: how long they wait, how many, who gets them, and in which order they are written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from rtc_server.calls.snapshot import CallSnapshot, resume_key
from rtc_server.errors import CallNotFoundError, InvalidSdpError, ResumeNotFoundError
from rtc_server.media.owners import Owner, account
from rtc_server.media.resumption import Claim, Resumption
from rtc_server.media.snapshot_store import LocalSnapshotStore, SnapshotWriter
from rtc_server.media.snapshots import SavedSession, SnapshotTable
from rtc_server.realtime.session import SessionConfig

OWNER, OTHER = ("key", "a"), ("key", "b")


def saved(size: int = 10, owner: Owner = OWNER) -> SavedSession:
    return SavedSession(owner, bytes(size))


# --- the table


def test_a_session_waits_until_its_time_is_over() -> None:
    table = SnapshotTable(90.0)
    table.put("x", saved(), 100.0)
    assert table.take("x", OWNER, 189.9) == saved()
    table.put("x", saved(), 100.0)
    assert table.take("x", OWNER, 190.0) is None
    assert (len(table), table.num_bytes) == (0, 0)


def test_a_session_that_is_put_again_waits_longer() -> None:
    table = SnapshotTable(90.0)
    table.put("x", saved(1), 100.0)
    table.put("x", saved(2), 150.0)
    assert table.num_bytes == 2
    assert table.take("x", OWNER, 230.0) == saved(2)


def test_it_is_taken_once_and_only_by_its_owner() -> None:
    table = SnapshotTable(90.0)
    table.put("x", saved(), 0.0)
    assert table.take("x", OTHER, 1.0) is None, "and it stays"
    assert table.take("x", OWNER, 1.0) == saved()
    assert table.take("x", OWNER, 1.0) is None


def test_a_session_that_is_over_for_good_is_gone() -> None:
    table = SnapshotTable(90.0)
    table.put("x", saved(), 0.0)
    table.drop("x")
    table.drop("x")
    assert table.take("x", OWNER, 1.0) is None
    assert table.num_bytes == 0


def test_the_oldest_make_room_by_number_and_by_size() -> None:
    table = SnapshotTable(90.0, max_snapshots=3, max_bytes=100)
    for number, name in enumerate("abcd"):
        table.put(name, saved(), float(number))
    assert len(table) == 3
    assert table.take("a", OWNER, 5.0) is None
    table.put("big", saved(85), 5.0)
    assert table.num_bytes <= 100
    assert table.take("d", OWNER, 6.0) is not None, "the latest stays beside it"
    table.put("huge", saved(101), 7.0)
    assert table.take("huge", OWNER, 7.0) is None, "larger than all that may be kept"


def test_what_has_waited_too_long_takes_no_room() -> None:
    table = SnapshotTable(90.0)
    table.put("a", saved(), 0.0)
    table.put("b", saved(), 100.0)
    assert len(table) == 1


def test_a_browser_stands_for_the_key_of_its_secret() -> None:
    assert account(("key", "a", "secret", "s1")) == account(("key", "a")) == ("key", "a")
    assert account(("anonymous", "secret", "s1")) == ("anonymous",)


# --- writing


class SlowStore(LocalSnapshotStore):
    """Waits until it is let go on."""

    def __init__(self) -> None:
        super().__init__(90.0)
        self.go_on = asyncio.Event()
        self.written: list[tuple[str, SavedSession | None]] = []

    async def put(self, key: str, saved: SavedSession) -> None:
        await self.go_on.wait()
        self.written.append((key, saved))

    async def drop(self, key: str) -> None:
        await self.go_on.wait()
        self.written.append((key, None))


async def test_while_a_store_is_slow_the_latest_of_each_session_counts() -> None:
    store = SlowStore()
    async with asyncio.TaskGroup() as tasks:
        writer = SnapshotWriter(store, tasks)
        writer.write("a", OWNER, b"1")
        await asyncio.sleep(0)
        for data in (b"2", b"3", None):
            writer.write("a", OWNER, data)
        writer.write("b", OWNER, b"1")
        store.go_on.set()
    assert store.written == [("a", SavedSession(OWNER, b"1")), ("a", None), ("b", SavedSession(OWNER, b"1"))]


# --- going on


@dataclass
class Place:
    """A server without HTTP: what is handed over by calls that still run."""

    resumption: Resumption
    store: LocalSnapshotStore
    running: dict[str, bytes | None] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    async def hand_over(self, call_id: str) -> bytes | None:
        if call_id not in self.running:
            raise CallNotFoundError(f"There is no call '{call_id}'.")
        self.ended.append(call_id)
        return self.running.pop(call_id)

    async def try_to_go_on(self, token: str, owner: Owner = OWNER, call_id: str = "rtc_2") -> Claim:
        async with self.resumption.claim(token, owner, "echo") as claim:
            claim.started(call_id)
        await asyncio.sleep(0)  # the writer
        return claim


def snapshot(call_id: str = "rtc_1", expires_at: int = 2_000, model: str = "echo", session_id: str = "sess") -> bytes:
    session = SessionConfig(model=model)
    return CallSnapshot(call_id, session_id, "conv", expires_at, "realtime", session).to_bytes()


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    store = LocalSnapshotStore(90.0)
    async with asyncio.TaskGroup() as tasks:
        made: list[Place] = []
        writer = SnapshotWriter(store, tasks)
        resumption = Resumption(store, writer, lambda call_id: made[0].hand_over(call_id), lambda: 1_000.0)
        made.append(Place(resumption, store))
        yield made[0]


async def test_a_token_is_long_and_known_to_the_store_only_as_a_hash() -> None:
    async with place() as server:
        first, second = server.resumption.new(("key", "a", "secret", "s")), server.resumption.new(OWNER)
        assert first.token != second.token
        assert len(first.token) > 40
        assert first.token not in first.key
        assert first.token not in repr(first)
        assert first.owner == OWNER


async def test_the_session_of_a_lost_call_goes_on_and_its_token_stays() -> None:
    async with place() as server:
        await server.store.put(resume_key("t"), SavedSession(OWNER, snapshot()))
        claim = await server.try_to_go_on("t", ("key", "a", "secret", "new"))
        assert claim.grant.snapshot is not None
        assert (claim.grant.token, claim.grant.snapshot.session_id) == ("t", "sess")
        again = await server.try_to_go_on("t", OWNER, "rtc_3")
        assert again.grant.snapshot is not None
        assert again.grant.snapshot.call_id == "rtc_2", "the call that has it since"


async def test_a_call_that_still_runs_is_ended_and_knows_best() -> None:
    async with place() as server:
        await server.store.put(resume_key("t"), SavedSession(OWNER, snapshot()))
        server.running["rtc_1"] = snapshot(session_id="latest")
        claim = await server.try_to_go_on("t")
        assert server.ended == ["rtc_1"]
        assert claim.grant.snapshot is not None
        assert claim.grant.snapshot.session_id == "latest"


@pytest.mark.parametrize("token", ["t" * 129, "unknown", "", "\udcff"])
async def test_an_unknown_token_is_refused(token: str) -> None:
    async with place() as server:
        with pytest.raises(ResumeNotFoundError, match="Start a new call"):
            await server.try_to_go_on(token)


async def test_somebody_elses_token_is_refused_in_the_same_words_and_stays_good() -> None:
    async with place() as server:
        await server.store.put(resume_key("t"), SavedSession(OWNER, snapshot()))
        server.running["rtc_1"] = None
        with pytest.raises(ResumeNotFoundError) as stolen:
            await server.try_to_go_on("t", OTHER)
        with pytest.raises(ResumeNotFoundError) as unknown:
            await server.try_to_go_on("unknown", OTHER)
        assert (stolen.value.message, stolen.value.to_body()) == (unknown.value.message, unknown.value.to_body())
        assert server.ended == [], "a thief ends no call"
        await server.try_to_go_on("t")


async def test_a_call_that_cannot_be_made_leaves_the_session_for_the_next_try() -> None:
    async with place() as server:
        await server.store.put(resume_key("t"), SavedSession(OWNER, snapshot()))
        server.running["rtc_1"] = snapshot(session_id="latest")
        with pytest.raises(InvalidSdpError):
            async with server.resumption.claim("t", OWNER, "echo"):
                raise InvalidSdpError("No audio.")
        await asyncio.sleep(0)
        claim = await server.try_to_go_on("t")
        assert claim.grant.snapshot is not None
        assert claim.grant.snapshot.session_id == "latest"


@pytest.mark.parametrize("data", [b"", snapshot(expires_at=1_000), snapshot(model="another")])
async def test_a_session_that_cannot_go_on_here_is_refused(data: bytes) -> None:
    async with place() as server:
        await server.store.put(resume_key("t"), SavedSession(OWNER, data))
        with pytest.raises(ResumeNotFoundError):
            await server.try_to_go_on("t")


async def test_a_process_that_stands_still_does_not_keep_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtc_server.media.resumption.HAND_OVER_SECONDS", 0.0)
    async with place() as server:
        await server.store.put(resume_key("t"), SavedSession(OWNER, snapshot()))
        server.running["rtc_1"] = snapshot(session_id="latest")
        monkeypatch.setattr(server, "hand_over", lambda call_id: asyncio.Event().wait())
        claim = await server.try_to_go_on("t")
        assert claim.grant.snapshot is not None
        assert claim.grant.snapshot.session_id == "sess"
