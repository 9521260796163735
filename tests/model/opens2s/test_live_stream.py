"""A live reply in pieces: its length, its joints, what it keeps and what it refuses."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.decoder import live_batch
from model.decoder.decoder import Decoder
from model.decoder.live_batch import LiveJob
from model.decoder.live_stream import LiveStream
from model.decoder.live_window import LiveOptions
from model.decoder.receptive_field import F0_FRAMES, vocoder_frames
from model.decoder.weights import load_decoder
from tests.support.opens2s_fixtures import Fixtures

Sound = NDArray[np.float32]


@pytest.fixture(scope="module")
def decoder(bundled: Fixtures) -> Decoder:
    return load_decoder(bundled.decoder)


def codes_of(decoder: Decoder, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, decoder.num_codes, count).tolist()


def pieces_of(codes: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """`codes` cut into pieces of `sizes`, the last of which repeats."""
    pieces, given = [], 0
    while given < len(codes):
        size = sizes[min(len(pieces), len(sizes) - 1)]
        pieces.append(codes[given : given + size])
        given += size
    return pieces


def decode(stream: LiveStream, pieces: Sequence[Sequence[int]]) -> list[Sound]:
    return [stream.decode(piece, number == len(pieces) - 1) for number, piece in enumerate(pieces)]


@pytest.mark.parametrize("units", [1, 2, 5, 9, 10, 11, 24, 25, 48, 180])
def test_a_reply_is_as_long_as_its_units_however_it_is_cut(decoder: Decoder, units: int) -> None:
    codes = codes_of(decoder, units)
    samples = decoder.frames(units) * decoder.config.vocoder.frame_samples
    cuts = [(units,), (10,), (10, 20), (24,), (7, 13)] if units < 100 else [(units,), (10, 30), (50,)]
    for sizes in [*cuts, *([(1,), (3,)] if units <= 25 else [])]:
        stream = LiveStream(decoder)
        sounds = decode(stream, pieces_of(codes, sizes))
        assert sum(map(len, sounds)) == samples == stream.num_samples
        assert all(sound.dtype == np.float32 and sound.ndim == 1 for sound in sounds)
        assert float(np.abs(np.concatenate(sounds)).max()) <= 1
        assert stream.num_units == stream.num_heard_units == units


def test_the_end_may_come_without_units(decoder: Decoder) -> None:
    codes = codes_of(decoder, 20)
    with_end = np.concatenate(decode(LiveStream(decoder), [codes[:10], codes[10:], []]))
    assert len(with_end) == decoder.frames(20) * decoder.config.vocoder.frame_samples
    assert len(LiveStream(decoder).decode([], True)) == 0
    stream = LiveStream(decoder)
    assert len(stream.decode(codes[:1], False)) == 0  # all held back
    assert len(stream.decode([], True)) == decoder.frames(1) * decoder.config.vocoder.frame_samples


def test_the_first_block_is_heard_but_for_what_is_held_back(decoder: Decoder) -> None:
    block, options = decoder.config.flow.encoder.block_size, LiveOptions()
    stream = LiveStream(decoder, options)
    sound = stream.decode(codes_of(decoder, block), False)
    frames = decoder.frames(block) - options.hold_back_frames
    assert len(sound) == frames * decoder.config.vocoder.frame_samples > 0
    assert stream.num_units == block
    assert stream.num_heard_units == decoder.config.token_of_frame(frames) < block


def test_the_same_reply_sounds_the_same_twice_and_beside_another(decoder: Decoder) -> None:
    pieces = pieces_of(codes_of(decoder, 35), (10,))
    first = decode(LiveStream(decoder), pieces)
    one, other = LiveStream(decoder), LiveStream(decoder)
    again = []
    for number, piece in enumerate(pieces):
        again.append(one.decode(piece, number == len(pieces) - 1))
        other.decode(codes_of(decoder, 10, seed=number + 1), False)
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_comes_later_changes_nothing_that_was_heard(decoder: Decoder) -> None:
    start = codes_of(decoder, 20)
    heard = []
    for seed in (1, 2):
        stream = LiveStream(decoder)
        sounds = [stream.decode(start[:10], False), stream.decode(start[10:], False)]
        copies = [sound.copy() for sound in sounds]
        stream.decode(codes_of(decoder, 30, seed=seed), True)
        for sound, copy in zip(sounds, copies, strict=True):
            np.testing.assert_array_equal(sound, copy)
        heard.append(np.concatenate(sounds))
    np.testing.assert_array_equal(heard[0], heard[1])


@pytest.mark.parametrize("step", [1, 16])
def test_pieces_of_a_known_mel_join_into_exactly_the_whole(
    decoder: Decoder, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Context, phase, noise and blending of the vocoder are right when nothing of the joints can be found."""
    units = 60
    codes, shape = codes_of(decoder, units), (1, decoder.config.flow.output_size, decoder.frames(units))
    mel = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def given(_: Decoder, jobs: Sequence[LiveJob]) -> list[Tensor]:
        return [mel[:, :, job.window.border : job.window.end] for job in jobs]

    monkeypatch.setattr(live_batch, "_mels", given)  # so that only the vocoder's joints are heard
    enough = vocoder_frames(decoder.config.vocoder) + F0_FRAMES
    options = LiveOptions(left_context_frames=0, hold_back_frames=enough, window_step=step)
    whole = LiveStream(decoder, options).decode(codes, True)
    pieces = np.concatenate(decode(LiveStream(decoder, options), pieces_of(codes, (10, 10, 20, 5))))
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-4)


def flux(sound: Sound, decoder: Decoder, lowest_hz: float) -> NDArray[np.float64]:
    """Mean change of the log spectrum above `lowest_hz` between windows of a frame's length, a quarter of it apart."""
    size = decoder.config.vocoder.frame_samples
    windows = np.lib.stride_tricks.sliding_window_view(sound, size)[:: size // 4] * np.hanning(size)
    magnitude = np.abs(np.fft.rfft(windows))[:, int(lowest_hz * size / decoder.sample_rate) :]
    return np.abs(np.diff(np.log(magnitude + 1e-3), axis=0)).mean(1)


def at_borders(values: NDArray[np.float64], sounds: Sequence[Sound], hop: int) -> NDArray[np.float64]:
    """The values of all windows that touch a joint."""
    borders = np.cumsum([len(sound) for sound in sounds])[:-1] // hop
    return values[np.concatenate([np.arange(border - 4, border + 1) for border in borders])]


@pytest.mark.parametrize("lowest_hz", [0, 7000])
def test_no_joint_can_be_found_in_the_spectrum(decoder: Decoder, lowest_hz: float) -> None:
    hop = decoder.config.vocoder.frame_samples // 4
    joints, elsewhere, broken = [], [], []
    for seed in range(3):
        codes = codes_of(decoder, 60, seed)
        whole = flux(LiveStream(decoder).decode(codes, True), decoder, lowest_hz)
        sounds = decode(LiveStream(decoder), pieces_of(codes, (10,)))
        at_joints = at_borders(flux(np.concatenate(sounds), decoder, lowest_hz), sounds, hop)
        assert at_joints.max() <= 1.1 * whole.max()
        joints.append(at_joints.mean())
        elsewhere.append(whole.mean())
        # what the measure is worth: it finds a joint where one frame is silent
        silent = np.zeros(4 * hop, np.float32)
        gaps = np.concatenate([np.concatenate((sound[: -len(silent)], silent)) for sound in sounds])
        broken.append(at_borders(flux(gaps, decoder, lowest_hz), sounds, hop).mean())
    assert np.mean(joints) <= 1.05 * np.mean(elsewhere) < np.mean(broken)


def test_no_joint_clicks(decoder: Decoder) -> None:
    """A step between two samples shows in the second difference."""
    size = decoder.config.vocoder.frame_samples
    codes = codes_of(decoder, 60)
    sounds = decode(LiveStream(decoder), pieces_of(codes, (10,)))
    whole = LiveStream(decoder).decode(codes, True)
    bend, typical = (np.abs(np.diff(sound.astype(np.float64), 2)) for sound in (np.concatenate(sounds), whole))
    borders = np.cumsum([len(sound) for sound in sounds])[:-1]
    at_joints = [bend[border - 4 : border + 4].max() for border in borders]
    # The vocoder works in frames, so joints are compared with the other borders of frames.
    others = [typical[border - 4 : border + 4].max() for border in range(size, len(typical) - size, size)]
    assert np.mean(at_joints) < 1.25 * np.mean(others)
    assert max(at_joints) <= max(others)


def tensors_of(stream: LiveStream) -> list[weakref.ref[Tensor]]:
    """References to the tensors that one stream owns."""
    state = stream._state
    assert state is not None
    found = [value for name in state.__slots__ if isinstance(value := getattr(state, name), Tensor)]
    return [weakref.ref(value) for value in (*found, *state.cache.keys, *state.cache.values)]


def test_closing_frees_every_tensor_and_ends_the_stream(decoder: Decoder) -> None:
    stream = LiveStream(decoder)
    decode_open = [stream.decode(piece, False) for piece in pieces_of(codes_of(decoder, 30), (10,))]
    owned = tensors_of(stream)
    assert len(owned) > 8
    assert all(reference() is not None for reference in owned)
    stream.close()
    stream.close()
    gc.collect()
    assert not [reference for reference in owned if reference() is not None]
    with pytest.raises(RuntimeError, match="closed"):
        stream.decode([1], False)
    with pytest.raises(RuntimeError, match="closed"):
        stream.decode([], True)
    assert all(len(sound) for sound in decode_open)


def test_a_long_reply_keeps_no_more_than_a_short_one_but_for_the_encoder(decoder: Decoder) -> None:
    def kept(units: int) -> int:
        stream = LiveStream(decoder, LiveOptions(left_context_frames=60))
        for piece in pieces_of(codes_of(decoder, units), (20,)):
            stream.decode(piece, False)
        state = stream._state
        assert state is not None
        parts = (state.encoded, state.mel, state.held, state.source, state.tail, state.clock)
        return sum(part.untyped_storage().nbytes() for part in parts)

    assert kept(140) <= 1.05 * kept(60)


def test_nothing_follows_the_final_piece(decoder: Decoder) -> None:
    stream = LiveStream(decoder)
    stream.decode([1, 2, 3], True)
    with pytest.raises(RuntimeError, match="final piece"):
        stream.decode([1], False)


@pytest.mark.parametrize("bad", [-1, 10**9])
def test_a_code_that_is_no_speech_token_is_refused_and_changes_nothing(decoder: Decoder, bad: int) -> None:
    codes = codes_of(decoder, 20)
    expected = decode(LiveStream(decoder), [codes[:10], codes[10:]])
    stream = LiveStream(decoder)
    first = stream.decode(codes[:10], False)
    with pytest.raises(ValueError, match=f"speech token {bad} is not in 0"):
        stream.decode([0, bad], True)
    assert stream.num_units == 10
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(stream.decode(codes[10:], True), expected[1])


def test_a_measurement_can_listen_to_the_mel(decoder: Decoder) -> None:
    frames: list[int] = []
    stream = LiveStream(decoder, on_mel=lambda mel: frames.append(mel.shape[2]))
    sounds = decode(stream, pieces_of(codes_of(decoder, 25), (10,)))
    assert [count * decoder.config.vocoder.frame_samples for count in frames] == [len(sound) for sound in sounds]


def test_a_stream_runs_in_bfloat16(bundled: Fixtures) -> None:
    half = load_decoder(bundled.decoder, dtype=torch.bfloat16)
    sounds = np.concatenate(decode(LiveStream(half), pieces_of(codes_of(half, 25), (10,))))
    assert len(sounds) == half.frames(25) * half.config.vocoder.frame_samples
    assert np.isfinite(sounds).all()
    assert sounds.std() > 0
