"""Places for calls: whatever happens in whatever order, none is lost and none is given back twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtc_server.calls.leases import Leases

STEPS = st.lists(st.tuples(st.sampled_from(("take", "start", "give_back", "wait")), st.integers(0, 30)), max_size=80)


@given(steps=STEPS)
def test_no_order_of_events_loses_a_place_or_frees_one_twice(steps: list[tuple[str, int]]) -> None:
    """Beside the table runs a plain account of who must hold a place; the two never differ."""
    leases, now = Leases(start_seconds=10.0), 0.0
    taken: list[int] = []
    starting: dict[int, float] = {}
    running: set[int] = set()
    for what, which in steps:
        starting = {lease: until for lease, until in starting.items() if until > now}
        lease = taken[which % len(taken)] if taken else 0  # now and then one that never was
        if what == "take":
            taken.append(leases.take(now))
            assert taken.count(taken[-1]) == 1
            starting[taken[-1]] = now + 10.0
        elif what == "start":
            assert leases.start(lease, now) is (lease in starting)
            if starting.pop(lease, None) is not None:
                running.add(lease)
        elif what == "give_back":
            leases.expire(now)
            assert leases.give_back(lease) is (lease in starting or lease in running)
            assert not leases.give_back(lease)
            starting.pop(lease, None)
            running.discard(lease)
        else:
            now += which
            starting = {lease: until for lease, until in starting.items() if until > now}
            leases.expire(now)
        assert (len(leases), leases.num_running) == (len(starting) + len(running), len(running))
    for lease in taken:
        leases.give_back(lease)
    assert len(leases) == 0


def test_a_place_that_never_held_a_call_is_free_again_after_its_time() -> None:
    leases = Leases(start_seconds=30.0)
    lost, kept = leases.take(0.0), leases.take(20.0)
    assert leases.expire(29.9) == 0
    assert leases.expire(30.0) == 1
    assert not leases.start(lost, 30.0)
    assert leases.start(kept, 49.9)
    assert leases.expire(1e6) == 0  # a call that runs has its own time limit
    assert len(leases) == 1
