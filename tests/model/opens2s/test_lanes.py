"""Lanes of fixed size and recorded functions: the same numbers as without them, and given back empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.backends.opens2s.engine import OpenS2SEngine, create
from model.decoder.chunks import HEARD_SHARE, ChunkPlan
from model.decoder.config import RELEASED
from model.decoder.live_window import LiveOptions, LiveWindow, usual_lengths
from model.graphs import RecordedFunction
from model.opens2s.lanes import Lane, LanePool, StaticLane, reaches
from model.opens2s.language_model import LanguageModel
from model.opens2s.model import OpenS2S
from tests.support.engine_contract import Driver
from tests.support.opens2s_small import small_checkpoint
from tests.support.recordings import recording

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are recorded on a GPU only")


def inputs(lm: LanguageModel, lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, lm.config.hidden_size, generator=generator) for length in lengths]


@torch.inference_mode()
def test_a_lane_of_fixed_size_gives_what_a_growing_one_gives(model: OpenS2S) -> None:
    lm = model.llm
    static, growing = StaticLane(lm, 600), Lane(lm)
    for number in range(2):  # the second sequence must not see the first
        for piece in inputs(lm, [250, 1, 1, 5, 255, 1, 80, 1], seed=number):
            torch.testing.assert_close(static.forward(piece), growing.forward(piece), rtol=1e-4, atol=1e-5)
        static.reset()
        growing = Lane(lm)


@torch.inference_mode()
def test_numbers_that_are_not_finite_do_not_outlive_their_sequence(model: OpenS2S) -> None:
    lane = StaticLane(model.llm, 300)
    piece = inputs(model.llm, [5])[0]
    expected = lane.forward(piece)
    lane.reset()
    assert not torch.isfinite(lane.forward(piece * float("nan"))).any()
    lane.reset()
    torch.testing.assert_close(lane.forward(piece), expected)


@torch.inference_mode()
def test_a_full_lane_says_so(model: OpenS2S) -> None:
    lane = StaticLane(model.llm, 20)
    lane.forward(inputs(model.llm, [20])[0])
    with pytest.raises(ValueError, match="21 positions; this lane has 20"):
        lane.forward(inputs(model.llm, [1])[0])


def test_recorded_steps_look_at_ever_more_positions() -> None:
    assert reaches(200) == [200]
    assert reaches(256) == [256]
    assert reaches(1500) == [256, 512, 1024, 1500]


def test_a_pool_hands_out_what_it_has_and_takes_it_back_empty(model: OpenS2S) -> None:
    pool = LanePool(model, 2, 40, 30)
    first, second = pool.take(), pool.take()
    assert first is not None
    assert second is not None
    assert pool.take() is None
    with torch.inference_mode():
        first.llm.forward(inputs(model.llm, [40])[0])
        pool.give_back(first)
        again = pool.take()
        assert again is not None
        again.llm.forward(inputs(model.llm, [40])[0])
    config = model.config.llm
    per_position = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
    assert LanePool.size(model, 3, 10, 0) == 3 * 10 * per_position


def test_a_function_without_recordings_is_the_function() -> None:
    doubled = RecordedFunction(lambda x: x * 2)
    assert doubled(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert not doubled.record(torch.ones(3))  # there is nothing to record on a CPU
    assert (doubled.num_recordings, doubled.num_replays) == (0, 0)


def test_every_piece_of_a_long_reply_has_a_usual_length() -> None:
    plan, options = ChunkPlan(), LiveOptions()
    flow, vocoder = (set(lengths) for lengths in usual_lengths(RELEASED, options, plan))
    assert len(flow) + len(vocoder) < 64  # each is recorded before the server is ready
    for num_units in range(150, 400, 7):
        border = decoded = waiting = 0
        while decoded < num_units:
            waiting += 1
            is_final = decoded + waiting == num_units
            made_ms = border * 256 * 1000 / 22_050
            units = plan.next_units(decoded, waiting, (1 - HEARD_SHARE) * made_ms, is_final)
            decoded, waiting = decoded + units, waiting - units
            window = LiveWindow.plan(RELEASED, options, border, decoded, is_final) if units else None
            if window is not None:
                assert window.end - window.flow_start in flow
                assert window.vocoder_end - window.vocoder_start in vocoder
                border = window.next_border


@needs_gpu
def test_replayed_functions_give_what_plain_ones_give() -> None:
    mixed = RecordedFunction(lambda x, y: torch.tanh(x) @ y)
    x, y = torch.randn(4, 8, device="cuda"), torch.randn(8, 3, device="cuda")
    assert mixed.record(x, y)
    assert not mixed.record(x, y)
    for _ in range(3):
        x, y = torch.randn(4, 8, device="cuda"), torch.randn(8, 3, device="cuda")
        first = mixed(x, y)
        mixed(y.new_zeros(4, 8), y)  # must not change the first result
        torch.testing.assert_close(first, torch.tanh(x) @ y)
    assert mixed.num_replays == 6
    mixed(x[:2], y)  # another shape: not recorded
    assert mixed.num_replays == 6


@needs_gpu
def test_a_reply_of_recorded_steps_is_the_reply_of_plain_ones(tmp_path: Path) -> None:
    options = small_checkpoint(tmp_path) | {"device": "cuda", "dtype": "float32"}
    sounds, texts = [], []
    for is_recorded in (True, False):
        driver = Driver(lambda wake: create(options, wake))
        engine = driver.engine
        assert isinstance(engine, OpenS2SEngine)
        if is_recorded:
            engine.warm_up()
            assert engine._lanes is not None
        key = driver.say(recording("f0_rms"), seed=5)
        if is_recorded:
            assert engine._parts.decoder.flow.decoder.advance.num_replays >= 20
        texts.append(driver.text(key))
        sounds.append(driver.audio(key).astype(np.float32) / 32_768)
        engine.close()
    assert texts[0] == texts[1]
    assert len(sounds[0]) == len(sounds[1])
    assert np.abs(sounds[0] - sounds[1]).max() < 0.02
