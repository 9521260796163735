"""Blocks: none is lost or given twice, what is shared stays, and what is found is what was asked for."""

from __future__ import annotations

import random

import pytest

from model.engine.blocks import BlockManager, BlockTable, audio_key, block_digests, text_key

SIZE = 4


def prompt(*tokens: int) -> list[bytes]:
    """Digests of a prompt of text tokens."""
    return block_digests([text_key(token) for token in tokens], SIZE)


def read(manager: BlockManager, *tokens: int) -> BlockTable:
    """A table with a prompt in it, as the engine makes one: what is there is shared, the rest is computed."""
    digests = prompt(*tokens)
    table = manager.open(digests)
    assert manager.extend(table, len(tokens))
    table.num_tokens = len(tokens)
    manager.register(table, digests)
    return table


def counts(manager: BlockManager) -> tuple[int, int, int]:
    return manager.num_free, manager.num_used, manager.num_cached


def test_a_table_takes_as_many_blocks_as_its_positions_need() -> None:
    manager = BlockManager(10, SIZE)
    table = manager.open()
    for positions, blocks in ((0, 0), (1, 1), (4, 1), (5, 2), (5, 2), (3, 2), (12, 3)):
        assert manager.extend(table, positions)
        assert len(table.blocks) == blocks
    assert counts(manager) == (7, 3, 0)
    assert 0 not in table.blocks, "padding writes there"
    assert len(set(table.blocks)) == 3
    manager.check([table])


def test_what_does_not_fit_changes_nothing() -> None:
    manager = BlockManager(4, SIZE)
    first = read(manager, *range(8))
    second = manager.open()
    assert manager.extend(second, 4)
    before = counts(manager), list(first.blocks), list(second.blocks)
    assert not manager.extend(second, 13)
    assert (counts(manager), first.blocks, second.blocks) == before
    manager.release(first)
    assert not manager.extend(second, 17)
    assert manager.match(prompt(*range(8))) == 8, "not even what is cached"
    assert manager.num_evictions == 0
    assert manager.extend(second, 16)
    assert manager.num_evictions == 2
    manager.check([second])


def test_a_prompt_that_begins_alike_shares_whole_blocks_alone() -> None:
    manager = BlockManager(10, SIZE)
    first = read(manager, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    other = prompt(1, 2, 3, 4, 5, 6, 7, 99, 9)
    assert manager.match(other) == 4
    second = manager.open(other)
    assert second.blocks == first.blocks[:1]
    assert second.num_tokens == 4
    assert manager.extend(second, 9)
    assert not set(second.blocks[1:]) & set(first.blocks)
    assert manager.num_used == 3 + 2
    manager.check([first, second])


def test_shared_blocks_outlive_whoever_made_them() -> None:
    manager = BlockManager(6, SIZE)
    first = read(manager, *range(8))
    second = read(manager, *range(8), 50)
    shared = list(first.blocks)
    manager.release(first)
    assert first == BlockTable()
    assert manager.num_cached == 0
    third = manager.open()
    assert not manager.extend(third, 4 * SIZE), "the shared ones are not to be had"
    assert manager.extend(third, 3 * SIZE)
    assert not set(third.blocks) & set(shared)
    manager.check([second, third])
    manager.release(second)
    assert manager.num_cached == 2
    assert manager.open(prompt(*range(8))).blocks == shared


def test_the_longest_unused_goes_first_and_of_a_prompt_its_end() -> None:
    manager = BlockManager(7, SIZE)
    old, new = read(manager, *range(12)), read(manager, *range(100, 112))
    manager.release(old)
    manager.release(new)
    manager.release(manager.open(prompt(*range(4))))  # the beginning of the old one is used again
    taken = manager.open()
    left = []
    for positions in range(SIZE, 8 * SIZE, SIZE):
        assert manager.extend(taken, positions)
        left.append((manager.match(prompt(*range(12))), manager.match(prompt(*range(100, 112)))))
    assert left == [(12, 12), (8, 12), (4, 12), (4, 8), (4, 4), (4, 0), (0, 0)]
    assert manager.num_evictions == 6


def test_looking_for_a_prompt_does_not_keep_it() -> None:
    manager = BlockManager(2, SIZE)
    for start in (0, 100):
        manager.release(read(manager, *range(start, start + 4)))
    assert manager.match(prompt(0, 1, 2, 3)) == 4
    assert manager.extend(manager.open(), 4)
    assert manager.match(prompt(0, 1, 2, 3)) == 0


def test_what_was_evicted_cannot_be_found() -> None:
    manager = BlockManager(2, SIZE)
    manager.release(read(manager, *range(8)))
    taken = manager.open()
    assert manager.extend(taken, 8)
    assert manager.match(prompt(*range(8))) == 0
    assert manager.open(prompt(*range(8))).blocks == []
    manager.release(taken)
    assert counts(manager) == (2, 0, 0)


def test_two_who_read_the_same_at_once_keep_both_copies_and_one_is_found() -> None:
    manager = BlockManager(8, SIZE)
    digests = prompt(*range(8))
    first, second = manager.open(digests), manager.open(digests)
    for table in (first, second):
        assert manager.extend(table, 8)
        table.num_tokens = 8
        manager.register(table, digests)
        manager.register(table, digests)
    assert not set(first.blocks) & set(second.blocks)
    assert manager.private(first) == []
    assert manager.private(second) == second.blocks
    manager.check([first, second])
    manager.release(second)
    assert counts(manager) == (6, 2, 0)
    manager.release(first)
    assert counts(manager) == (6, 0, 2)


def test_private_blocks_are_those_that_nobody_else_can_see() -> None:
    manager = BlockManager(8, SIZE)
    first = read(manager, *range(10))
    assert manager.private(first) == first.blocks[2:]
    second = manager.open(prompt(*range(8)))
    assert manager.private(second) == []


def test_forgetting_frees_what_is_cached_and_nothing_in_use() -> None:
    manager = BlockManager(8, SIZE)
    used = read(manager, *range(8))
    manager.release(read(manager, *range(100, 112)))
    manager.forget()
    assert counts(manager) == (6, 2, 0)
    assert manager.match(prompt(*range(100, 112))) == 0
    assert manager.match(prompt(*range(8))) == 8
    manager.check([used])


def test_blocks_without_room_are_refused() -> None:
    for sizes in ((0, 16), (4, 0)):
        with pytest.raises(ValueError, match="no cache"):
            BlockManager(*sizes)


@pytest.mark.parametrize("spoil", ["lost", "twice", "unfindable"])
def test_the_check_sees_what_is_wrong(spoil: str) -> None:
    manager = BlockManager(6, SIZE)
    table = read(manager, *range(6))
    manager.release(read(manager, *range(100, 104)))
    manager.check([table])
    if spoil == "lost":
        manager._free.pop()
    elif spoil == "twice":
        manager._free.append(table.blocks[0])
    else:
        manager._by_digest.clear()
    with pytest.raises(AssertionError):
        manager.check([table])


# --- digests


def test_a_digest_depends_on_everything_before_it() -> None:
    tokens = list(range(12))
    digests = prompt(*tokens)
    assert len(digests) == 3
    assert len(prompt(*tokens[:11])) == 2
    for place in range(12):
        other = prompt(*tokens[:place], 77, *tokens[place + 1 :])
        changed = [one != two for one, two in zip(digests, other, strict=True)]
        assert changed == [number >= place // SIZE for number in range(3)]
    assert prompt(*tokens[4:]) != digests[1:], "the same tokens elsewhere are something else"


def test_different_prompts_never_match() -> None:
    """Every beginning of every prompt has one digest, and no two have the same."""
    numbers = random.Random(0)
    found: dict[bytes, tuple[bytes, ...]] = {}
    sound = [bytes([number] * 16) for number in range(3)]
    for _ in range(2_000):
        keys = [
            text_key(numbers.randrange(3)) if numbers.random() < 0.6 else audio_key(numbers.choice(sound), place)
            for place in range(numbers.randrange(4, 17))
        ]
        for number, digest in enumerate(block_digests(keys, SIZE)):
            begin = tuple(keys[: (number + 1) * SIZE])
            assert found.setdefault(digest, begin) == begin
    assert len(set(found.values())) == len(found)


def test_text_and_audio_are_never_taken_for_each_other() -> None:
    """Keys of a prompt are joined, so what stands in one must not look like several."""
    keys = [text_key(0), text_key(151_669), *(audio_key(bytes(16), place) for place in (0, 1, 300))]
    keys.append(audio_key(b"t" * 16, 0))
    assert len(set(keys)) == len(keys)
    for one in keys:
        for other in keys:
            assert one == other or not one.startswith(other), "no key begins another: a joined list is read one way"


# --- at random


@pytest.mark.parametrize("seed", range(6))
def test_at_random_no_block_is_lost_and_every_block_holds_what_it_is_found_by(seed: int) -> None:
    """The model beside it: what each block was last filled with, which must be what its digest stands for."""
    numbers = random.Random(seed)
    manager = BlockManager(numbers.randrange(6, 24), SIZE)
    filled: dict[int, bytes | None] = {}  # block -> digest of what is in it, None: something private
    live: list[tuple[BlockTable, list[bytes]]] = []
    for _ in range(1_500):
        action = numbers.choice(["open", "open", "grow", "release", "forget" if numbers.random() < 0.05 else "grow"])
        if action == "open":
            tokens = [numbers.randrange(2) if place % SIZE == 0 else 0 for place in range(numbers.randrange(1, 25))]
            digests = prompt(*tokens)
            available, matched = manager.num_available, manager.match(digests)
            table = manager.open(digests)
            assert table.num_tokens == matched == len(table.blocks) * SIZE
            assert [filled[block] for block in table.blocks] == digests[: len(table.blocks)]
            needed = manager.blocks_for(len(tokens)) - len(table.blocks)
            is_there = manager.num_available >= needed
            assert manager.extend(table, len(tokens)) == is_there
            if not is_there:
                manager.release(table)
                assert manager.num_available == available
                assert manager.match(digests) == matched
                continue
            held = {block for other, _ in live for block in other.blocks}
            own = table.blocks[matched // SIZE :]
            assert not held & set(own), "a block in use was given to somebody else"
            for number, block in enumerate(table.blocks):
                if block in own:
                    filled[block] = digests[number] if number < len(digests) else None
            table.num_tokens = len(tokens)
            if numbers.random() < 0.8:  # the others are preempted before all was read
                manager.register(table, digests)
                assert manager.match(digests) == len(digests) * SIZE
            live.append((table, digests))
        elif action == "grow" and live:
            table, _ = numbers.choice(live)
            before = list(table.blocks)
            room = manager.num_available
            wanted = len(before) * SIZE + numbers.randrange(0, 2 * SIZE)
            if manager.extend(table, wanted):
                assert table.blocks[: len(before)] == before
                filled |= dict.fromkeys(table.blocks[len(before) :])
            else:
                assert table.blocks == before
                assert manager.blocks_for(wanted) - len(before) > room
        elif action == "release" and live:
            table, _ = live.pop(numbers.randrange(len(live)))
            manager.release(table)
        elif action == "forget":
            manager.forget()
            assert manager.num_cached == 0
        manager.check([table for table, _ in live])
        assert manager.num_free + manager.num_used + manager.num_cached == manager.num_blocks
        assert manager.num_used == len({block for table, _ in live for block in table.blocks})
    for table, _ in live:
        manager.release(table)
    manager.check()
    assert manager.num_used == 0
    assert manager.num_evictions > 0


@pytest.mark.parametrize("seed", range(3))
def test_at_random_eviction_follows_the_order_of_last_use(seed: int) -> None:
    """Prompts without a common beginning: the one that was used longest ago loses blocks first, from its end."""
    numbers = random.Random(seed)
    manager = BlockManager(16, SIZE)
    last_use: list[int] = []  # numbers of prompts, longest unused first
    for _ in range(300):
        number = numbers.randrange(7)
        tokens = [number] * numbers.choice([4, 8, 12])
        table = read(manager, *tokens)
        manager.release(table)
        last_use = [one for one in last_use if one != number] + [number]
        lengths = {one: manager.match(prompt(*[one] * 12)) for one in last_use}
        missing = [one for one in last_use if lengths[one] == 0]
        assert missing == last_use[: len(missing)], "one that was used later is gone before"
        last_use = last_use[len(missing) :]
        places = {digest: place for place, digest in enumerate(prompt(*[number] * 12))}
        order = [places.get(manager._digests[block], 99) for block in manager._cached]
        used = [place for place in order if place < len(tokens) // SIZE]
        assert used == sorted(used, reverse=True), "the beginning is kept longest"
        manager.check()
