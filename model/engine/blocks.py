"""Which blocks of a KV cache belong to whom. Numbers only, no torch; `paged_cache` holds what is in them.

A sequence has a table of blocks. Complete blocks of a prompt are registered under a digest of everything up to their
end; a later prompt that begins alike shares them instead of computing them again. A block that nobody uses stays
*cached* until its room is needed: the longest unused first, and of one prompt its end first. Since blocks are found by
what they hold, a history that was cut at what was heard finds exactly what is still true, and nothing else.

At any time: free + used + cached == total (`check`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

DIGEST_BYTES = 16


def text_key(token: int) -> bytes:
    """What a position that holds a token of the vocabulary is known by."""
    return b"t" + token.to_bytes(4, "little")


def audio_key(digest: bytes, place: int) -> bytes:
    """What the `place`th embedding of an audio is known by; `digest` [16 bytes] is that of its samples."""
    assert len(digest) == DIGEST_BYTES, digest
    return b"a" + digest + place.to_bytes(4, "little")


def block_digests(keys: Sequence[bytes], block_size: int) -> list[bytes]:
    """One digest per complete block of positions with these keys; each covers everything before it too."""
    found: list[bytes] = []
    parent = b""
    for end in range(block_size, len(keys) + 1, block_size):
        parent = hashlib.blake2b(parent + b"".join(keys[end - block_size : end]), digest_size=DIGEST_BYTES).digest()
        found.append(parent)
    return found


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence in order. Changed by its `BlockManager` alone, but for `num_tokens`."""

    blocks: list[int] = field(default_factory=list)
    num_tokens: int = 0
    """Positions that are filled."""


class BlockManager:
    """Blocks 1 to `num_blocks`; number 0 is nobody's: padding writes there."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"{num_blocks} blocks of {block_size} positions are no cache; both must be at least 1.")
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = list(range(num_blocks, 0, -1))
        self._references = [0] * (num_blocks + 1)
        self._by_digest: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}  # the same the other way round
        self._cached: OrderedDict[int, None] = OrderedDict()  # without references, longest unused first
        self.num_evictions = 0
        """Cached blocks that were given to somebody else."""

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free - self.num_cached

    @property
    def num_available(self) -> int:
        """Blocks that can be had at once: free or cached."""
        return self.num_free + self.num_cached

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def match(self, digests: Sequence[bytes]) -> int:
        """Positions of the longest beginning that is there; nothing changes."""
        count = 0
        for digest in digests:
            if digest not in self._by_digest:
                break
            count += 1
        return count * self.block_size

    def open(self, digests: Sequence[bytes] = ()) -> BlockTable:
        """A table that begins with what is there of a prompt with these digests."""
        table = BlockTable()
        for digest in digests:
            block = self._by_digest.get(digest)
            if block is None:
                break
            self._cached.pop(block, None)
            self._references[block] += 1
            table.blocks.append(block)
        table.num_tokens = len(table.blocks) * self.block_size
        return table

    def extend(self, table: BlockTable, num_tokens: int) -> bool:
        """Make room for `num_tokens` positions in all; False, and nothing changes, when there are too few blocks."""
        missing = self.blocks_for(num_tokens) - len(table.blocks)
        if missing > self.num_available:
            return False
        for _ in range(missing):
            block = self._free.pop() if self._free else self._evict()
            self._references[block] = 1
            table.blocks.append(block)
        return True

    def register(self, table: BlockTable, digests: Sequence[bytes]) -> None:
        """The table's first blocks are filled with what these digests stand for, and will not change."""
        assert len(digests) * self.block_size <= table.num_tokens, (len(digests), table)
        for block, digest in zip(table.blocks, digests, strict=False):
            if digest not in self._by_digest and block not in self._digests:
                self._by_digest[digest] = block
                self._digests[block] = digest

    def release(self, table: BlockTable) -> None:
        """Give all of a table's blocks back; registered ones stay cached. The table is empty afterwards."""
        for block in reversed(table.blocks):  # so that the end of a prompt is evicted before its beginning
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._digests:
                self._cached[block] = None
            else:
                self._free.append(block)
        table.blocks.clear()
        table.num_tokens = 0

    def private(self, table: BlockTable) -> list[int]:
        """Those of a table's blocks that nobody else has or can find."""
        return [b for b in table.blocks if self._references[b] == 1 and b not in self._digests]

    def forget(self) -> None:
        """Free everything that is cached."""
        while self._cached:
            self._free.append(self._evict())

    def check(self, tables: Sequence[BlockTable] = ()) -> None:
        """Raises AssertionError unless every block is free, used by exactly these tables, or cached."""
        counts = [0] * (self.num_blocks + 1)
        for table in tables:
            for block in table.blocks:
                counts[block] += 1
        assert counts == self._references, "blocks are held by nobody, or twice"
        held = {block for block in range(1, self.num_blocks + 1) if counts[block]}
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & cached, "a block is both free and cached"
        assert not held & (free | cached), "a block in use is given to others"
        assert len(held) + len(free) + len(cached) == self.num_blocks, "a block is lost"
        assert cached <= self._digests.keys(), "a cached block cannot be found"
        assert {block: digest for digest, block in self._by_digest.items()} == self._digests

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        del self._by_digest[self._digests.pop(block)]
        self.num_evictions += 1
        return block
