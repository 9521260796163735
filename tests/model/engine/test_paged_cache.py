"""Blocks of keys and values: the numbers of a cache of one's own, wherever the blocks are and whoever is beside."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model.engine.paged_cache import PagedKvCache
from model.opens2s.kv_cache import KvCache
from model.opens2s.language_model import LanguageModel
from model.opens2s.model import OpenS2S

CPU = torch.device("cpu")
SIZE = 8
BLOCKS = 40
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def lm(model: OpenS2S) -> LanguageModel:
    return model.llm


def inputs(lm: LanguageModel, length: int, seed: int = 0) -> Tensor:
    """Embeddings [length, hidden]."""
    return torch.randn(length, lm.config.hidden_size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def expected(lm: LanguageModel, embeds: Tensor) -> Tensor:
    """Hidden states [length, hidden] with a cache of one's own."""
    hidden: Tensor = lm(embeds[None], KvCache(lm.config, CPU, torch.float32).begin(len(embeds)))
    return hidden[0]


class Paged:
    """Sequences in one paged cache whose blocks are drawn at random; what is in them at first is loud, but finite."""

    def __init__(self, lm: LanguageModel, lengths: Sequence[int], seed: int = 0) -> None:
        self.lm = lm
        self.cache = PagedKvCache(lm.config, BLOCKS, SIZE, CPU, torch.float32)
        generator = torch.Generator().manual_seed(seed)
        for tensor in (self.cache.k, self.cache.v):
            tensor.copy_(1e3 * torch.randn(tensor.shape, generator=generator))
        free = (1 + torch.randperm(BLOCKS, generator=generator)).tolist()
        self.tables = [[free.pop() for _ in range(-(-length // SIZE))] for length in lengths]
        self.filled = [0] * len(lengths)

    @torch.inference_mode()
    def forward(
        self, pieces: dict[int, Tensor], *, length: int = 0, rows: int = 0, blocks: int = 0
    ) -> dict[int, Tensor]:
        """Append a piece [T, hidden] to each of these sequences; their hidden states. `length`, `rows`, `blocks`: so
        many positions, rows and blocks per table at least, filled up with padding."""
        length = max(length, *(len(piece) for piece in pieces.values()))
        rows = max(rows, len(pieces))
        ends = {number: self.filled[number] + len(piece) for number, piece in pieces.items()}
        blocks = max(blocks, *(-(-end // SIZE) for end in ends.values()))
        embeds = torch.randn(rows, length, self.lm.config.hidden_size)
        tables, starts, counts = torch.zeros(rows, blocks).long(), torch.zeros(rows).long(), torch.zeros(rows).long()
        for row, (number, piece) in enumerate(pieces.items()):
            shown = self.tables[number][:blocks]
            tables[row] = shown[0]
            tables[row, : len(shown)] = torch.tensor(shown)
            starts[row], counts[row] = self.filled[number], len(piece)
            embeds[row, : len(piece)] = piece
        hidden = self.lm(embeds, self.cache.at(tables, starts, counts, length))
        self.filled = [ends.get(number, filled) for number, filled in enumerate(self.filled)]
        return {number: hidden[row, : len(piece)] for row, (number, piece) in enumerate(pieces.items())}


LENGTHS = (1, 7, 8, 9, 30, 63)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "padding", [{}, {"length": 70}, {"rows": 9}, {"blocks": 16}, {"length": 70, "rows": 16, "blocks": 32}], ids=str
)
def test_rows_of_different_lengths_are_what_they_are_alone(
    lm: LanguageModel, seed: int, padding: dict[str, int]
) -> None:
    torch.manual_seed(seed)
    paged = Paged(lm, LENGTHS, seed)
    embeds = {number: inputs(lm, length, number) for number, length in enumerate(LENGTHS)}
    for number, hidden in paged.forward(embeds, **padding).items():
        torch.testing.assert_close(hidden, expected(lm, embeds[number]), **CLOSE)


@pytest.mark.parametrize("seed", range(4))
def test_a_prompt_may_be_read_in_parts_and_others_come_and_go(lm: LanguageModel, seed: int) -> None:
    """Parts of any size, in batches of whoever is drawn, with padding as it comes."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(most: int) -> int:
        return int(torch.randint(0, most + 1, (1,), generator=generator))

    paged = Paged(lm, LENGTHS, seed)
    embeds = [inputs(lm, length, number) for number, length in enumerate(LENGTHS)]
    found: list[list[Tensor]] = [[] for _ in LENGTHS]
    while any(filled < length for filled, length in zip(paged.filled, LENGTHS, strict=True)):
        pieces = {}
        for number, (filled, length) in enumerate(zip(paged.filled, LENGTHS, strict=True)):
            if filled < length and drawn(2):
                size = 1 + drawn(min(12, length - filled - 1))
                pieces[number] = embeds[number][filled : filled + size]
        if pieces:
            padding = {"length": drawn(15), "rows": drawn(8), "blocks": drawn(12)}
            for number, hidden in paged.forward(pieces, **padding).items():
                found[number].append(hidden)
    for number, parts in enumerate(found):
        torch.testing.assert_close(torch.cat(parts), expected(lm, embeds[number]), **CLOSE)


def test_where_the_blocks_are_makes_no_difference_at_all(lm: LanguageModel) -> None:
    found = []
    for seed in range(3):
        torch.manual_seed(0)
        paged = Paged(lm, LENGTHS, seed)
        embeds = {number: inputs(lm, length, number) for number, length in enumerate(LENGTHS)}
        found.append(paged.forward(embeds))
    for number in range(len(LENGTHS)):
        assert torch.equal(found[0][number], found[1][number])
        assert torch.equal(found[0][number], found[2][number])


def test_a_shared_beginning_is_read_once(lm: LanguageModel) -> None:
    prompt, first, second = inputs(lm, 2 * SIZE), inputs(lm, 5, 1), inputs(lm, 9, 2)
    paged = Paged(lm, (21, 25))
    paged.forward({0: prompt})
    paged.tables[1][:2] = paged.tables[0][:2]
    paged.filled[1] = len(prompt)
    found = paged.forward({0: first, 1: second})
    for number, rest in enumerate((first, second)):
        torch.testing.assert_close(found[number], expected(lm, torch.cat((prompt, rest)))[len(prompt) :], **CLOSE)


def test_what_is_guessed_beyond_the_end_is_written_again(lm: LanguageModel) -> None:
    right, wrong, rest = inputs(lm, 6), inputs(lm, 9, 1), inputs(lm, 4, 2)
    paged = Paged(lm, (20,))
    paged.forward({0: right})
    paged.forward({0: wrong})
    paged.filled[0] = len(right)
    torch.testing.assert_close(paged.forward({0: rest})[0], expected(lm, torch.cat((right, rest)))[6:], **CLOSE)


def test_a_sequence_goes_on_from_copies_in_other_blocks(lm: LanguageModel) -> None:
    begin, rest = inputs(lm, 19), inputs(lm, 3, 1)
    paged, other = Paged(lm, (24,), seed=1), Paged(lm, (24,), seed=2)
    paged.forward({0: begin})
    k, v = paged.cache.copy_out(paged.tables[0])
    paged.cache.k.fill_(7.0)
    paged.cache.v.fill_(7.0)
    before = other.cache.k.clone()
    other.cache.copy_in(other.tables[0], k, v)
    untouched = [block for block in range(BLOCKS + 1) if block not in other.tables[0]]
    assert torch.equal(other.cache.k[:, untouched], before[:, untouched])
    other.filled[0] = len(begin)
    torch.testing.assert_close(other.forward({0: rest})[0], expected(lm, torch.cat((begin, rest)))[19:], **CLOSE)


def test_nothing_can_be_copied(lm: LanguageModel) -> None:
    """A reply whose speech has not begun has no blocks there."""
    cache = PagedKvCache(lm.config, 4, SIZE, CPU, torch.float32)
    k, v = cache.copy_out([])
    assert k.shape == v.shape == (lm.config.num_layers, 0, SIZE, lm.config.num_kv_heads, lm.config.head_dim)
    cache.copy_in([], k, v)
    assert not cache.k.any()


def test_blocks_that_are_not_finite_are_good_again_once_they_are_zeroed(lm: LanguageModel) -> None:
    paged = Paged(lm, (20, 60))
    spoilt = paged.tables[0]
    paged.forward({0: inputs(lm, 20) * float("nan")}, length=40)
    assert not torch.isfinite(paged.cache.k[:, spoilt[-1]]).all()
    paged.cache.zero(spoilt)
    assert torch.isfinite(paged.cache.k).all(), "what padding wrote is gone too"
    assert torch.isfinite(paged.cache.v).all()
    paged.filled[0] = 0
    embeds = {0: inputs(lm, 20), 1: inputs(lm, 60, 1)}
    for number, hidden in paged.forward(embeds, length=70, rows=4, blocks=12).items():
        torch.testing.assert_close(hidden, expected(lm, embeds[number]), **CLOSE)


def test_bytes_are_counted_as_they_are(lm: LanguageModel) -> None:
    cache = PagedKvCache(lm.config, 9, SIZE, CPU, torch.float32)
    size = PagedKvCache.bytes_per_block(lm.config, SIZE, torch.float32)
    assert cache.k.nbytes + cache.v.nbytes == (9 + 1) * size


@pytest.mark.parametrize("padding", [{}, {"length": 40}, {"length": 64, "rows": 9, "blocks": 12}], ids=str)
@pytest.mark.parametrize("bad", range(3))
def test_a_row_that_is_not_finite_spoils_no_other(lm: LanguageModel, padding: dict[str, int], bad: int) -> None:
    """Not even through what padding writes in the same pass."""
    lengths = (20, 5, 60)
    paged = Paged(lm, lengths)
    embeds = {number: inputs(lm, length, number) for number, length in enumerate(lengths)}
    found = paged.forward(embeds | {bad: embeds[bad] * float("nan")}, **padding)
    assert not torch.isfinite(found.pop(bad)).any()
    for number, hidden in found.items():
        torch.testing.assert_close(hidden, expected(lm, embeds[number]), **CLOSE)
