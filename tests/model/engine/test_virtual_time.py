"""The scheduler over minutes of calls, on virtual time: who is heard is never kept waiting, whatever else comes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.support.engine_time import BLOCK, Listener, Reply, Times, World, any_times, reply, talk
from model.engine.blocks import block_digests, text_key
from model.engine.core import SoundMade

MODES = pytest.mark.parametrize("sound_is_beside", [True, False], ids=["gpu", "cpu"])
WORKLOADS = range(100)
OVERLOADS = range(25)
SIXTEEN = Times()  # about what one H100 takes
SECONDS = 20.0


@MODES
def test_below_capacity_nobody_runs_dry_and_nobody_is_refused(sound_is_beside: bool) -> None:
    num_replies = 0
    for seed in WORKLOADS:
        generator = random.Random(seed)
        world = World(any_times(generator), sound_is_beside=sound_is_beside, seed=seed)
        capacity = world.core.scheduler.capacity
        talk(world, generator, max(1, round(0.75 * capacity)), SECONDS)
        assert not world.gaps(), (seed, capacity)
        assert {listener.outcome for listener in world.listeners.values()} == {"done"}, seed
        num_replies += len(world.listeners)
    assert num_replies > 10 * len(WORKLOADS)


@MODES
def test_overload_keeps_newcomers_waiting_and_never_those_who_listen(sound_is_beside: bool) -> None:
    num_refused = 0
    for seed in OVERLOADS:
        generator = random.Random(seed)
        world = World(any_times(generator), sound_is_beside=sound_is_beside, patience=1.0, seed=seed)
        talk(world, generator, 2 * world.core.scheduler.capacity + 1, SECONDS)
        assert not world.gaps(), seed
        refused = [listener for listener in world.listeners.values() if listener.outcome == "refused"]
        assert all(listener.produced_ms == 0 for listener in refused), "who was begun is served to the end"
        num_refused += len(refused)
    assert num_refused


@MODES
def test_a_storm_of_interruptions_leaves_all_blocks_free(sound_is_beside: bool) -> None:
    generator = random.Random(1)
    world = World(SIXTEEN, sound_is_beside=sound_is_beside)
    for _ in range(120):  # a minute, every call interrupts every 500 ms
        listeners = [world.ask(reply(generator), is_held=generator.random() < 0.3) for _ in range(16)]
        world.run_until(world.clock.now + 0.5)
        for listener in listeners:
            world.cancel(listener)
    world.run_until(world.clock.now + 0.2)
    core = world.core
    core.check()
    assert not core.sequences
    assert (core.text.num_free, core.speech.num_free) == (core.text.num_blocks, core.speech.num_blocks)
    assert not world.runner.open
    assert not world.runner.swapped


@MODES
def test_an_interrupted_reply_is_silent_from_the_next_step_on(sound_is_beside: bool) -> None:
    world = World(SIXTEEN, sound_is_beside=sound_is_beside)
    first, second = world.ask(Reply(40, 100)), world.ask(Reply(40, 100))
    world.run_until(1.0)
    core, used = world.core, world.core.text.num_used
    assert first.produced_ms > 0
    world.cancel(first)
    assert core.text.num_used < used
    for _ in range(30):
        outputs = core.step(world.clock.now)
        assert all(output.sequence is second.sequence for output in outputs)


def test_sixteen_callers_on_one_gpu_hear_the_first_sound_soon() -> None:
    generator = random.Random(3)
    world = World(SIXTEEN, seed=3)
    talk(world, generator, 16, 120.0, pause=4.0)
    assert not world.gaps()
    waits = world.waits_ms()
    assert len(waits) > 100
    assert np.percentile(waits, 50) < 350
    assert np.percentile(waits, 95) < 900


def test_a_long_prompt_comes_in_parts_between_the_rounds_of_others() -> None:
    world = World(SIXTEEN, text_blocks=4_000)
    talking = [world.ask(Reply(40, 100)) for _ in range(4)]
    world.run_until(1.5)
    slow = world.ask(Reply(4, 12), num_prompt=8_000, windows=6)
    world.finish()
    assert not world.gaps()
    assert slow.first_sound is not None
    assert all(listener.outcome == "done" for listener in [*talking, slow])
    one_piece = SIXTEEN.read + 512 * SIXTEEN.read_position
    assert world.longest_step_ms < 1.2 * max(one_piece, SIXTEEN.of_round(5), SIXTEEN.of_sound(5, is_first=False))


def test_guesses_make_tokens_but_wait_for_credit_and_are_not_hurried() -> None:
    world = World(SIXTEEN)
    guess = world.ask(Reply(40, 100), is_held=True)
    world.run_until(3.0)
    assert 0 < guess.produced_ms < 6_000
    assert guess.sequence.deadline == float("inf")
    begun = world.clock.now
    world.release(guess)
    assert guess.first_sound == begun, "it was there already"
    world.finish()
    assert not world.gaps()


def test_a_reply_that_somebody_waits_for_takes_the_place_of_a_guess() -> None:
    world = World(SIXTEEN, max_sequences=2)
    guesses = [world.ask(Reply(40, 100), is_held=True) for _ in range(2)]
    world.run_until(1.0)
    asked = world.ask(Reply(4, 12))
    world.finish_one(asked)
    assert world.core.stats.preemptions == 1
    assert asked.first_sound is not None
    assert asked.first_sound - asked.asked < 0.4
    for guess in guesses:
        world.release(guess)
    world.finish()
    assert not world.gaps()
    assert all(guess.outcome == "done" for guess in guesses)


def test_guesses_live_on_the_blocks_that_nobody_else_needs() -> None:
    """Room for the worst case of one reply: guesses are put aside when blocks run out, and go on later."""
    worst = -(-(45 + 256) // BLOCK), -(-(1 + 256 + 512) // BLOCK)
    world = World(SIXTEEN, text_blocks=worst[0] + 3, speech_blocks=worst[1])
    generator = random.Random(5)
    guesses: list[Listener] = []
    for _ in range(40):
        guesses += [world.ask(reply(generator), is_held=True) for _ in range(2)]
        world.ask(reply(generator, 3.0))
        world.run_until(world.clock.now + 2.0)
        if generator.random() < 0.5:
            world.release(guesses.pop(0))
        while len(guesses) > 8:
            world.cancel(guesses.pop(0))
    for guess in guesses:
        world.release(guess)
    world.finish()
    assert world.core.stats.preemptions > 0
    assert not world.gaps()
    assert not world.core.text.num_used


def test_what_a_call_said_before_is_not_read_again() -> None:
    world = World(SIXTEEN)
    keys = [text_key(number) for number in range(200)]
    first = world.ask(Reply(4, 12), num_prompt=120, digests=block_digests(keys[:120], BLOCK))
    world.finish()
    assert first.sequence.num_cached == 0
    second = world.ask(Reply(4, 12), num_prompt=200, digests=block_digests(keys, BLOCK))
    world.finish()
    assert second.sequence.num_cached == 112  # whole blocks of the 120 positions
    cut = [*keys[:70], *(text_key(9_000 + number) for number in range(60))]  # heard as far as there, then interrupted
    third = world.ask(Reply(4, 12), num_prompt=130, digests=block_digests(cut, BLOCK))
    world.finish()
    assert third.sequence.num_cached == 64
    world.core.check()


def test_a_request_larger_than_the_engine_is_refused_at_once() -> None:
    world = World(SIXTEEN, text_blocks=20)
    large = world.ask(Reply(4, 12), num_prompt=400)
    world.run_until(0.1)
    assert large.outcome == "refused"


def test_sound_of_a_guess_is_decoded_while_a_listener_who_has_enough_will_be_late() -> None:
    """He has no room for more yet, and what he then needs takes longer than what he has."""
    world = World(Times(sound=3_000.0))
    guess, listener = (world.ask(Reply(40, 100), is_held=is_held).sequence for is_held in (True, False))
    guess.phase = listener.phase = "generate"
    guess.is_decoding = True
    listener.add_sound(2_000.0, is_final=False, now=world.clock.now)
    assert not listener.wants_tokens
    assert listener.takes_tokens()
    step = world.core.scheduler.schedule(world.clock.now, [guess, listener], is_sound_busy=True)
    assert not step.sound


def test_an_idle_engine_has_no_work() -> None:
    world = World(SIXTEEN)
    listener = world.ask(Reply(40, 100), is_held=True)
    for _ in range(1_000):
        if not world.core.has_work:
            break
        for output in world.core.step(world.clock.now):
            if isinstance(output, SoundMade):
                listener.receive(len(output.samples), world.clock.now, output.is_final)
    assert not world.core.has_work, "a guess with enough sound waits for somebody to hear it"
