"""Pieces of several live replies in one batch: the same sound as alone, all or nothing, and no waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.decoder.batches import batch_sizes, in_batches, in_groups
from model.decoder.block_encoder import EncoderCache
from model.decoder.decoder import Decoder
from model.decoder.live_stream import LiveStream, Piece, decode_together
from model.decoder.live_window import LiveOptions
from model.decoder.source import SourceDraws
from model.decoder.weights import load_decoder
from model.graphs import GraphPool, RecordedFunction
from tests.support.opens2s_fixtures import Fixtures

Sound = NDArray[np.float32]
Schedule = Sequence[tuple[int, bool]]
"""Units of each piece of a reply, and whether it is the last."""
CLOSE_MEL = 1e-5
CLOSE = 5e-4  # of samples whose deviation is 0.06. These random weights make 3e-5 of a mel that is off by 1e-6.
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are recorded on a GPU only")


@pytest.fixture(scope="module")
def decoder(bundled: Fixtures) -> Decoder:
    return load_decoder(bundled.decoder)


class Replies:
    """Several replies that begin `later` rounds after each other; each has a piece in every round until it ends."""

    def __init__(
        self, decoder: Decoder, schedules: Sequence[Schedule], later: int = 0, options: Sequence[LiveOptions] = ()
    ) -> None:
        self.decoder, self.schedules, self.later = decoder, schedules, later
        self.options = options or [LiveOptions()] * len(schedules)
        self.codes = []
        for seed, schedule in enumerate(schedules):
            numbers = np.random.default_rng(seed)
            self.codes.append([numbers.integers(0, decoder.num_codes, size).tolist() for size, _ in schedule])

    def streams(self) -> list[LiveStream]:
        return [LiveStream(self.decoder, options) for options in self.options]

    def alone(self) -> list[list[Sound]]:
        return [
            [stream.decode(codes, is_final) for codes, (_, is_final) in zip(pieces, schedule, strict=True)]
            for stream, pieces, schedule in zip(self.streams(), self.codes, self.schedules, strict=True)
        ]

    def together(self) -> list[list[Sound]]:
        streams, sounds = self.streams(), [list[Sound]() for _ in self.schedules]
        rounds: dict[int, list[int]] = {}
        for index, schedule in enumerate(self.schedules):
            for own in range(len(schedule)):
                rounds.setdefault(own + index * self.later, []).append(index)
        for _, due in sorted(rounds.items()):
            own = {index: len(sounds[index]) for index in due}
            pieces = [Piece(streams[i], self.codes[i][own[i]], self.schedules[i][own[i]][1]) for i in due]
            for index, new in zip(due, decode_together(pieces), strict=True):
                assert new.dtype == torch.float32
                assert new.dim() == 1
                sounds[index].append(new.numpy().copy())
        return sounds


def assert_same(found: Sequence[Sequence[Sound]], expected: Sequence[Sequence[Sound]], atol: float = CLOSE) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [len(sound) for sound in one] == [len(sound) for sound in other]
        for new, known in zip(one, other, strict=True):
            np.testing.assert_allclose(new, known, rtol=0, atol=atol)


class Batches:
    """Counts the rows that the flow and the vocoder were given at once."""

    def __init__(self, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flow, self.vocoder = list[int](), list[int]()
        flow, vocoder = decoder.flow.decoder, decoder.vocoder
        monkeypatch.setattr(flow, "solve", self._counted(flow.solve, self.flow))
        monkeypatch.setattr(vocoder, "spectrum", self._counted(vocoder.spectrum, self.vocoder))

    def _counted(self, function: Callable[..., Tensor], counts: list[int]) -> Callable[..., Tensor]:
        def call(*inputs: Any) -> Tensor:
            counts.append(inputs[0].shape[0])
            return function(*inputs)

        return call


FOUR_PIECES = ((10, False), (10, False), (20, False), (7, True))


@pytest.mark.parametrize("count", [2, 5])
def test_replies_of_equal_pieces_are_one_batch_and_sound_as_alone(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    replies = Replies(decoder, [FOUR_PIECES] * count)
    expected = replies.alone()
    batches = Batches(decoder, monkeypatch)
    assert_same(replies.together(), expected)
    assert batches.flow == batches.vocoder == [count] * 4


@pytest.mark.parametrize("later", [0, 1, 2])
def test_replies_at_different_points_sound_as_alone(decoder: Decoder, later: int) -> None:
    schedules = [
        FOUR_PIECES,
        ((10, False), (20, False), (0, True)),  # an empty end
        ((1, False), (9, False), (50, True)),  # a piece of which nothing is heard
        ((13, False), (4, False), (0, False), (33, True)),  # nothing new in between
        ((0, True),),
    ]
    replies = Replies(decoder, schedules, later)
    assert_same(replies.together(), replies.alone())


def test_long_replies_share_batches_though_their_borders_differ(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the left context windows are of few lengths, wherever the replies are."""
    options = LiveOptions(left_context_frames=60)
    schedules = [((size, False), (20, False), (10, False), (10, False)) for size in (20, 30, 40)]
    replies = Replies(decoder, schedules, options=[options] * 3)
    expected = replies.alone()
    batches = Batches(decoder, monkeypatch)
    assert_same(replies.together(), expected)
    assert batches.flow[-1] == 3
    assert batches.vocoder[-1] == 3


def test_streams_of_different_options_sound_as_alone(decoder: Decoder) -> None:
    options = [LiveOptions(), LiveOptions(ode_steps=4), LiveOptions(hold_back_frames=20), LiveOptions(window_step=1)]
    replies = Replies(decoder, [FOUR_PIECES] * 4, options=options)
    assert_same(replies.together(), replies.alone())


def random_replies(decoder: Decoder, seed: int) -> Replies:
    numbers = np.random.default_rng(seed)
    schedules = []
    for _ in range(numbers.integers(2, 6)):
        sizes = numbers.choice([0, 1, 9, 10, 10, 10, 11, 20, 20, 35], numbers.integers(1, 5)).tolist()
        schedules.append([(size, index == len(sizes) - 1) for index, size in enumerate(sizes)])
    contexts = numbers.choice([40, 344], len(schedules)).tolist()
    options = [LiveOptions(left_context_frames=context) for context in contexts]
    return Replies(decoder, schedules, int(numbers.integers(0, 2)), options)


def record_as_if(decoder: Decoder, batches: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every length is taken to be recorded for these batches."""
    for part in (decoder.flow.decoder, decoder.vocoder):
        monkeypatch.setattr(part, "recorded_batches", lambda frames: batches)


@pytest.mark.parametrize("seed", range(3))
def test_any_replies_sound_as_alone(decoder: Decoder, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    replies = random_replies(decoder, seed)
    expected = replies.alone()
    recorded = [size for size in (1, 2, 4, 8) if (seed + 1) & size]
    record_as_if(decoder, set(recorded), monkeypatch)
    assert_same(replies.together(), expected)


@pytest.mark.parametrize("seed", range(10, 13))
def test_what_differs_from_alone_is_rounding_in_larger_batches(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Where every stage computes row by row nothing differs, so that each piece got its own rows."""
    replies = random_replies(decoder, seed)
    expected = replies.alone()
    record_as_if(decoder, {1}, monkeypatch)
    flow, vocoder = decoder.flow, decoder.vocoder
    smooth, encode, pitch, excite = flow.smooth, flow.encode, vocoder.pitch, vocoder.excite

    def encode_rows(codes: Tensor, cache: EncoderCache) -> tuple[Tensor, EncoderCache]:
        pairs = [encode(row, known) for row, known in zip(codes.split(1), cache.rows(len(codes)), strict=True)]
        return torch.cat([encoded for encoded, _ in pairs]), EncoderCache.join([after for _, after in pairs])

    def excite_rows(f0: Tensor, draws: SourceDraws, start: Tensor) -> tuple[Tensor, Tensor]:
        rows = [
            excite(row, SourceDraws(draws.phase, noise), clock)
            for row, noise, clock in zip(f0.split(1), draws.noise.split(1), start.split(1), strict=True)
        ]
        return torch.cat([source for source, _ in rows]), torch.cat([clock for _, clock in rows])

    monkeypatch.setattr(flow, "smooth", lambda x: in_batches(smooth, [1], x))
    monkeypatch.setattr(flow, "encode", encode_rows)
    monkeypatch.setattr(vocoder, "pitch", lambda mel: in_batches(pitch, [1], mel))
    monkeypatch.setattr(vocoder, "excite", excite_rows)
    assert_same(replies.together(), expected, atol=0)


def test_mels_are_those_of_replies_alone(decoder: Decoder) -> None:
    replies = Replies(decoder, [FOUR_PIECES] * 3)
    mels = list[list[Tensor]]()
    for _ in range(2):
        heard = list[Tensor]()
        mels.append(heard)
        streams = [LiveStream(decoder, on_mel=heard.append) for _ in replies.codes]
        for number, (_, is_final) in enumerate(FOUR_PIECES):
            pieces = [Piece(s, codes[number], is_final) for s, codes in zip(streams, replies.codes, strict=True)]
            if len(mels) == 1:
                for piece in pieces:
                    piece.stream.decode(piece.codes, is_final)
            else:
                decode_together(pieces)
    torch.testing.assert_close(mels[1], mels[0], rtol=0, atol=CLOSE_MEL)


def test_batches_are_filled_up_to_a_recorded_size(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = Replies(decoder, [FOUR_PIECES] * 3)
    expected = replies.alone()
    batches = Batches(decoder, monkeypatch)
    record_as_if(decoder, {1, 4}, monkeypatch)
    assert_same(replies.together(), expected)
    assert batches.flow == batches.vocoder == [4] * 4


def test_nothing_is_decoded_of_nothing(decoder: Decoder) -> None:
    assert decode_together([]) == []
    assert [len(sound) for sound in decode_together([Piece(LiveStream(decoder), [], False)])] == [0]


def test_a_bad_code_leaves_every_stream_as_it_was(decoder: Decoder) -> None:
    replies = Replies(decoder, [((10, False), (10, True))] * 3)
    expected = replies.alone()
    streams = replies.streams()
    for stream, codes in zip(streams, replies.codes, strict=True):
        stream.decode(codes[0], False)
    fresh = LiveStream(decoder)
    for place in range(3):
        pieces = [Piece(stream, [1, 2, -1 if index == place else 3], True) for index, stream in enumerate(streams)]
        with pytest.raises(ValueError, match="speech token -1 is not in 0"):
            decode_together([Piece(fresh, [1], False), *pieces])
    assert fresh.num_units == 0
    assert [stream.num_units for stream in streams] == [10] * 3
    pieces = [Piece(stream, codes[1], True) for stream, codes in zip(streams, replies.codes, strict=True)]
    ends = decode_together(pieces)
    assert_same([[end.numpy()] for end in ends], [sounds[1:] for sounds in expected])


def test_one_stream_that_cannot_go_on_leaves_the_others_as_they_were(decoder: Decoder, bundled: Fixtures) -> None:
    good, ended, closed = (LiveStream(decoder) for _ in range(3))
    ended.decode([1], True)
    closed.close()
    for bad, message in ((ended, "final piece"), (closed, "closed")):
        with pytest.raises(RuntimeError, match=message):
            decode_together([Piece(good, [1], False), Piece(bad, [1], False)])
    with pytest.raises(ValueError, match="given twice"):
        decode_together([Piece(good, [1], False), Piece(good, [2], False)])
    with pytest.raises(ValueError, match="different decoders"):
        decode_together([Piece(good, [1], False), Piece(LiveStream(load_decoder(bundled.decoder)), [2], False)])
    assert good.num_units == 0


class HostAccess(TorchDispatchMode):
    """Counts copies between host and device, and refuses what looks at a value of the device."""

    FORBIDDEN = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.num_copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name().split(".")[0] not in self.FORBIDDEN, func
        found = func(*args, **(kwargs or {}))
        given = [value for value in args if isinstance(value, Tensor)]
        if isinstance(found, Tensor):
            self.num_copies += len({tensor.device for tensor in (*given, found)}) > 1
        return found


def test_nothing_waits_for_the_device(decoder: Decoder) -> None:
    """On a device without values: whoever looks at one fails."""
    empty = Decoder(decoder.config, deepcopy(decoder.flow).to("meta"), deepcopy(decoder.vocoder).to("meta"))
    frame = decoder.config.vocoder.frame_samples
    streams = [LiveStream(empty) for _ in range(3)]
    rounds = [[(10, False), (10, False), (20, False)], [(10, False)] * 3, [(0, True), (7, True), (0, False)]]
    heard = [0, 0, 0]
    for number, sizes in enumerate(rounds):
        pieces = [Piece(stream, [1] * size, is_final) for stream, (size, is_final) in zip(streams, sizes, strict=True)]
        with HostAccess() as access:
            sounds = decode_together(pieces)
        assert all(sound.is_meta and sound.dtype == torch.float32 for sound in sounds)
        heard = [before + len(sound) for before, sound in zip(heard, sounds, strict=True)]
        assert heard == [stream.num_samples for stream in streams]
        if number:  # the codes; weights of blends are there once each length occurred
            fades = 2 if number == 1 else 0
            assert access.num_copies == fades + sum(bool(piece.codes) for piece in pieces)
    assert heard[:2] == [decoder.frames(units) * frame for units in (20, 27)]
    with pytest.raises(NotImplementedError, match="meta tensor"):
        LiveStream(empty).decode([1] * 10, False)  # what copies the samples would wait


def test_a_reply_that_ended_holds_nothing_of_the_others(decoder: Decoder) -> None:
    def kept(count: int) -> int:
        streams = [LiveStream(decoder) for _ in range(count)]
        for _ in range(2):
            decode_together([Piece(stream, [1] * 10, False) for stream in streams])
        state = streams[0]._state
        assert state is not None
        tensors = [value for name in state.__slots__ if isinstance(value := getattr(state, name), Tensor)]
        return sum(tensor.untyped_storage().nbytes() for tensor in (*tensors, *state.cache.keys, *state.cache.values))

    assert kept(4) == kept(1)


@pytest.mark.parametrize(
    ("count", "recorded", "expected"),
    [
        (1, [], [1]),
        (7, [], [7]),
        (1, [1], [1]),
        (3, [1], [1, 1, 1]),
        (1, [4], [4]),
        (3, [1, 2, 4], [4]),
        (4, [1, 2, 4], [4]),
        (5, [1, 2, 4], [4, 1]),
        (7, [4, 2, 1], [4, 4]),
        (8, [1, 2, 4], [4, 4]),
    ],
)
def test_batches_have_recorded_sizes(count: int, recorded: list[int], expected: list[int]) -> None:
    assert batch_sizes(count, recorded) == expected


def test_few_rows_are_only_filled_in_the_last_batch() -> None:
    for count, size in product(range(1, 20), range(1, 9)):
        for recorded in ([size], [1, size], [2, size, 5]):
            sizes = batch_sizes(count, recorded)
            assert set(sizes) <= set(recorded)
            assert sum(sizes[:-1]) < count <= sum(sizes)


def test_filling_rows_are_dropped() -> None:
    seen = []

    def total(x: Tensor, y: Tensor) -> Tensor:
        seen.append(len(x))
        return x + y[:, :1]

    x, y = torch.arange(10.0).view(5, 2), torch.arange(15.0).view(5, 3)
    torch.testing.assert_close(in_batches(total, [3], x, y), x + y[:, :1], rtol=0, atol=0)
    assert seen == [3, 3]


def test_groups_keep_the_order_of_their_items() -> None:
    sizes = []

    def doubled(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        return [2 * number for number in numbers]

    assert in_groups([5, 2, 7, 4, 1], lambda number: number % 2, doubled) == [10, 4, 14, 8, 2]
    assert sizes == [3, 2]
    assert in_groups([], lambda number: number, doubled) == []


def test_a_function_of_several_results_may_be_recorded_into_a_shared_pool() -> None:
    pool = GraphPool()
    both = RecordedFunction(lambda x: (x + 1, x * 2), pool)
    assert not both.record(torch.ones(2))
    more, doubled = both(torch.ones(2))
    assert (more.tolist(), doubled.tolist(), both.first_shapes) == ([2, 2], [2, 2], [])


@needs_gpu
def test_recordings_of_one_pool_give_what_plain_functions_give() -> None:
    pool = GraphPool()
    both = RecordedFunction(lambda x: (torch.tanh(x) @ x.T, x.sin().sum(0)), pool)
    one = RecordedFunction(lambda x: x.exp().cumsum(0), pool)
    shapes = [(64, 32), (16, 32), (4, 8)]
    for shape in shapes:
        assert both.record(torch.zeros(shape, device="cuda"))
        assert one.record(torch.zeros(shape, device="cuda"))
    inputs = [torch.randn(shape, device="cuda") for shape in shapes]
    found = [(*both(x), one(x)) for x in inputs]
    for x, (product_, total, passed) in zip(inputs, found, strict=True):
        torch.testing.assert_close(product_, torch.tanh(x) @ x.T)
        torch.testing.assert_close(total, x.sin().sum(0))
        torch.testing.assert_close(passed, x.exp().cumsum(0))
    assert (both.num_replays, one.num_replays) == (3, 3)


@needs_gpu
def test_recorded_batches_on_another_cuda_stream_sound_as_plain_ones_and_wait_for_nothing(
    bundled: Fixtures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # kernels that suit a batch then differ by rounding
    plain, recorded = (load_decoder(bundled.decoder, "cuda") for _ in range(2))
    recorded.record((68, 137, 206), (68, 96), (1, 2, 4))  # windows of three pieces of 10 units
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    sounds = []
    for decoder in (plain, recorded):
        streams = [LiveStream(decoder) for _ in range(3)]
        with torch.cuda.stream(side):
            for number in range(3):
                pieces = [Piece(stream, [1 + seed] * 10, number == 2) for seed, stream in enumerate(streams)]
                torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first chooses kernels
                try:
                    new = decode_together(pieces)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
                sounds.append([sound.cpu().numpy() for sound in new])
    assert_same(sounds[3:], sounds[:3], atol=1e-3)
    assert recorded.flow.decoder.advance.num_replays == 3 * LiveOptions().ode_steps
    assert recorded.vocoder.voice.num_replays == 3
