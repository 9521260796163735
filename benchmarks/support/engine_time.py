"""The engine's core on virtual time: a runner that only takes time, listeners who play what comes, and callers."""

from __future__ import annotations

import random
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.decoder.chunks import ChunkPlan
from model.engine.blocks import BlockManager
from model.engine.core import BusyError, Ended, EngineCore, Made, Row, SoundMade
from model.engine.costs import LOAD_LIMIT, ROUND_SIZES, Costs
from model.engine.scheduler import Limits, Part
from model.engine.sequence import Cut, Sequence, SoundShape
from model.opens2s.config import Interleaving
from model.opens2s.interleave import ReplyOrder

TEXT, TEXT_END, UNIT, UNIT_END = 5, 1, 7, 2
UNIT_MS = 80.0
HELD_MS = 140.0
SAMPLES_PER_MS = 22
GRANT_MS = 20.0
CREDIT_MS = 1_000.0
PIECE_UNITS = 20
"""Of a piece of sound of usual length, on average."""
POLL_MS = 5.0
"""How often it is looked whether sound is ready, where nothing else is to be done."""
CHECK_EVERY = 25
"""Steps between two looks at every block."""
BLOCK = 16
MAX_TEXT, MAX_UNITS = 256, 512
SHAPE = SoundShape(ChunkPlan(), UNIT_MS, HELD_MS)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, ms: float) -> None:
        self.now += ms / 1000


@dataclass(frozen=True)
class Times:
    """Milliseconds of each kind of work."""

    hear: float = 20.0
    read: float = 10.5
    read_position: float = 0.02
    round: float = 16.0
    round_row: float = 0.35
    sound: float = 52.0
    sound_piece: float = 12.0
    later_sound: float = 1.4
    """Times what a first piece takes."""
    slower_tokens: float = 1.2
    """Times what they take, where sound is decoded beside them."""
    slower_sound: float = 2.0

    def of_round(self, rows: int) -> float:
        return self.round + self.round_row * rows

    def of_sound(self, pieces: int, *, is_first: bool) -> float:
        return (self.sound + self.sound_piece * pieces) * (1.0 if is_first else self.later_sound)

    def costs(self) -> Costs:
        """As measured while warming up."""
        costs = Costs(2, UNIT_MS)
        costs.hear.observe(1, self.hear)
        for positions in (16, 64, 256, 512):
            costs.read.observe(positions, self.read + self.read_position * positions)
        for rows in ROUND_SIZES:
            costs.round.observe(rows, self.of_round(rows))
        for pieces in (1, 2, 4, 8):
            for is_first in (True, False):
                ms = self.of_sound(pieces, is_first=is_first)
                costs.observe_sound(pieces, ms, pieces * PIECE_UNITS * UNIT_MS, is_first=is_first)
        return costs


@dataclass
class Reply:
    """How long a reply turns out to be."""

    num_text: int
    num_units: int


class TimedRunner:
    """A `core.Runner` whose work takes as long as `times` says, give or take a tenth."""

    def __init__(self, clock: Clock, times: Times, *, sound_is_beside: bool, seed: int = 0) -> None:
        self.clock, self.times, self.sound_is_beside = clock, times, sound_is_beside
        self.replies: dict[str, Reply] = {}
        self.open: set[str] = set()
        self.swapped: set[str] = set()
        self.num_windows: dict[str, int] = {}
        self._heard: dict[str, list[int]] = {}
        self._random = random.Random(seed)
        self._units: dict[str, int] = {}
        self._sounds: list[NDArray[np.float32]] = []
        self._sound_left_ms = 0.0
        """Of the batch that is being decoded, if nothing ran beside it."""

    def close(self, sequence: Sequence) -> None:
        self.open.discard(sequence.id)
        self.swapped.discard(sequence.id)

    def begin(self, sequence: Sequence) -> None:
        self.open.add(sequence.id)

    def leave(self, sequence: Sequence) -> None:
        self.open.discard(sequence.id)

    def swap_out(self, sequence: Sequence) -> None:
        self.swapped.add(sequence.id)

    def swap_in(self, sequence: Sequence) -> None:
        self.swapped.remove(sequence.id)
        self.open.add(sequence.id)

    def scrub(self, text: Items[int], speech: Items[int]) -> None:
        raise AssertionError("nothing here is not finite")

    def hear(self, sequence: Sequence) -> bool:
        self._spend(self.times.hear)
        heard = self._heard.setdefault(sequence.id, [])
        heard.append(sequence.next_audio)
        return heard.count(sequence.next_audio) >= self.num_windows.get(sequence.id, 1)

    def read(self, parts: Items[Part]) -> list[int]:
        self._spend(self.times.read + self.times.read_position * sum(part.count for part in parts))
        return [self._text(part.sequence) for part in parts]

    def round(self, rows: Items[Row]) -> TimedRound:
        assert all(row.sequence.id in self.open for row in rows)
        self._spend(self.times.of_round(len(rows)))
        made = []
        for row in rows:
            units = [self._unit(row.sequence, number, row.has_text) for number in range(row.num_units)]
            made.append(Made(self._text(row.sequence) if row.has_text else None, tuple(units)))
        return TimedRound(made)

    def start_sound(self, jobs: Items[tuple[Sequence, Cut]]) -> None:
        self._sounds = []
        for sequence, cut in jobs:
            before = self._units.get(sequence.id, 0)
            after = self._units[sequence.id] = before + len(cut.units)
            end = after * UNIT_MS - (0.0 if cut.is_final else HELD_MS)
            start = max(0.0, before * UNIT_MS - HELD_MS) if before else 0.0
            self._sounds.append(np.zeros(round(max(0.0, end - start) * SAMPLES_PER_MS), np.float32))
        ms = self.times.of_sound(len(jobs), is_first=all(sequence.is_first for sequence, _ in jobs))
        ms *= self._random.uniform(0.9, 1.1)
        if self.sound_is_beside:
            self._sound_left_ms = ms
        else:
            self.clock.spend(ms)

    def collect_sound(self, wait: bool) -> list[NDArray[np.float32]] | None:
        if self._sound_left_ms > 0:
            if wait:
                ms = min(POLL_MS, self._sound_left_ms)
                self.clock.spend(ms)
                self._sound_left_ms -= ms
            return None
        return self._sounds

    def _text(self, sequence: Sequence) -> int:
        return TEXT_END if sequence.order.num_text + 1 >= self.replies[sequence.id].num_text else TEXT

    def _unit(self, sequence: Sequence, number: int, has_text: bool) -> int:
        order, reply = sequence.order, self.replies[sequence.id]
        is_finished = order.is_text_finished or (has_text and order.num_text + 1 >= reply.num_text)
        return UNIT_END if is_finished and order.num_units + number + 1 >= reply.num_units else UNIT

    def _spend(self, ms: float) -> None:
        """On the device, where sound may be decoded beside it: each makes the other slower."""
        ms *= self._random.uniform(0.9, 1.1)
        if self._sound_left_ms > 0:
            ms *= self.times.slower_tokens
            self._sound_left_ms -= ms / self.times.slower_sound
        self.clock.spend(ms)


@dataclass
class TimedRound:
    made: list[Made]

    def result(self) -> list[Made]:
        return self.made


@dataclass
class Listener:
    """Plays one reply from its first sound on, and counts the gaps."""

    sequence: Sequence
    asked: float
    started: float | None = None
    """When playing began, moved back by every gap."""
    first_sound: float | None = None
    produced_ms: float = 0.0
    granted_ms: float = 0.0
    gaps_ms: list[float] = field(default_factory=list)
    is_final: bool = False
    outcome: str = ""

    def receive(self, ms: float, now: float, is_final: bool) -> None:
        if ms > 0 and self.started is None and not self.sequence.is_held:
            self._begin(now)
        elif self.started is not None:
            dry = (now - self.started) * 1000 - self.produced_ms
            if dry > 1e-6 and ms > 0:
                self.gaps_ms.append(dry)
                self.started += dry / 1000
        self.produced_ms += ms
        self.is_final = is_final

    def release(self, now: float) -> None:
        self.asked = now
        if self.produced_ms:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self.started = now
        self.first_sound = now

    def play(self, now: float) -> None:
        """Grant what was heard, in pieces of 20 ms."""
        if self.started is None:
            return
        heard = min(self.produced_ms, (now - self.started) * 1000)
        if heard - self.granted_ms >= GRANT_MS:
            self.sequence.grant(heard - self.granted_ms, now)
            self.granted_ms = heard


class World:
    """One core, its clock and everybody who listens."""

    def __init__(
        self,
        times: Times,
        *,
        sound_is_beside: bool = True,
        max_sequences: int = 16,
        text_blocks: int = 2_000,
        speech_blocks: int = 2_000,
        patience: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.clock = Clock()
        self.runner = TimedRunner(self.clock, times, sound_is_beside=sound_is_beside, seed=seed)
        self.core = EngineCore(
            self.runner,
            Limits(max_sequences, max_sequences, 512, 2, patience=patience),
            times.costs(),
            BlockManager(text_blocks, BLOCK),
            BlockManager(speech_blocks, BLOCK),
            is_sound=lambda unit: unit == UNIT,
            sample_rate=SAMPLES_PER_MS * 1000,
            clock=self.clock,
        )
        self.listeners: dict[str, Listener] = {}
        self._count = self._num_steps = 0
        self.longest_step_ms = 0.0

    def ask(
        self, reply: Reply, *, num_prompt: int = 45, is_held: bool = False, digests: Items[bytes] = (), windows: int = 1
    ) -> Listener:
        self._count += 1
        order = ReplyOrder(
            Interleaving(1, 2),
            max_text=MAX_TEXT,
            max_units=MAX_UNITS,
            text_ends=frozenset([TEXT_END]),
            unit_ends=frozenset([UNIT_END]),
        )
        sequence = Sequence(
            f"r{self._count}",
            order,
            SHAPE,
            arrival=self.clock.now,
            num_prompt=num_prompt,
            digests=digests,
            windows=[(num_prompt - 5, windows)],
            is_held=is_held,
            max_units=MAX_UNITS,
            credit_ms=CREDIT_MS,
        )
        self.runner.replies[sequence.id] = reply
        self.runner.num_windows[sequence.id] = windows
        listener = self.listeners[sequence.id] = Listener(sequence, self.clock.now)
        self.core.add(sequence)
        return listener

    def release(self, listener: Listener) -> None:
        if not listener.outcome or listener.outcome == "done":
            listener.sequence.release(self.clock.now)
            listener.release(self.clock.now)

    def cancel(self, listener: Listener) -> None:
        if not listener.outcome:
            listener.outcome = "cancelled"
            self.core.abort(listener.sequence)

    def run_until(self, moment: float) -> None:
        """Step until the clock has passed `moment`."""
        while self.clock.now < moment:
            for listener in self.listeners.values():
                if not listener.outcome:
                    listener.play(self.clock.now)
            if not self.core.has_work:
                self.clock.now = min(moment, self.clock.now + GRANT_MS / 1000)
                continue
            begun = self.clock.now
            outputs = self.core.step(begun)
            self.longest_step_ms = max(self.longest_step_ms, (self.clock.now - begun) * 1000)
            for output in outputs:
                listener = self.listeners[output.sequence.id]
                match output:
                    case SoundMade(samples=samples, is_final=is_final):
                        listener.receive(len(samples) / SAMPLES_PER_MS, self.clock.now, is_final)
                    case Ended(error=None):
                        listener.outcome = "done"
                    case Ended(error=BusyError()):
                        listener.outcome = "refused"
                    case Ended(error=error):
                        raise AssertionError("nothing fails here") from error
            self._num_steps += 1
            if not self._num_steps % CHECK_EVERY:
                self.core.check()

    def finish(self, patience: float = 120.0) -> None:
        """Step until nobody waits for anything."""
        limit = self.clock.now + patience
        while any(not listener.outcome for listener in self.listeners.values()):
            assert self.clock.now < limit, [(s.id, s.phase) for s in self.core.sequences]
            self.run_until(self.clock.now + 0.1)

    def finish_one(self, listener: Listener) -> None:
        while not listener.outcome:
            self.run_until(self.clock.now + 0.02)

    def gaps(self) -> list[float]:
        return [gap for listener in self.listeners.values() for gap in listener.gaps_ms]

    def waits_ms(self) -> list[float]:
        """From question to first sound, of all that were heard."""
        return [
            (listener.first_sound - listener.asked) * 1000
            for listener in self.listeners.values()
            if listener.first_sound is not None
        ]


def reply(generator: random.Random, mean_seconds: float = 6.0) -> Reply:
    """A reply of 1 to about 20 s, with one text token for 2.5 units, as speech has them."""
    units = round(min(max(generator.expovariate(1 / mean_seconds), 1.0), 20.0) * 12.5)
    return Reply(max(2, round(units / 2.5)), units)


def any_times(generator: random.Random) -> Times:
    """Some machine, slow or fast, on which at least one reply can be made in time."""
    while True:
        times = Times(
            hear=generator.uniform(1, 40),
            read=generator.uniform(1, 40),
            read_position=generator.uniform(0, 0.1),
            round=generator.uniform(2, 40),
            round_row=generator.uniform(0, 4),
            sound=generator.uniform(5, 100),
            sound_piece=generator.uniform(1, 40),
            later_sound=generator.uniform(1, 2.5),
            slower_tokens=generator.uniform(1, 1.5),
            slower_sound=generator.uniform(1, 2.5),
        )
        costs = times.costs()
        if max(costs.load(1), costs.burst(1)) <= LOAD_LIMIT:
            return times


@dataclass
class Caller:
    """Asks, listens to the end, thinks, asks again."""

    next_question: float
    listener: Listener | None = None


def talk(world: World, generator: random.Random, num_callers: int, seconds: float, pause: float = 1.0) -> None:
    """So many callers for so long, who leave but a short pause after each reply; then everybody is heard out."""
    callers = [Caller(generator.uniform(0, 3)) for _ in range(num_callers)]
    while world.clock.now < seconds:
        for caller in callers:
            now, listener = world.clock.now, caller.listener
            if listener is not None and listener.outcome:
                end = (listener.started or now) + listener.produced_ms / 1000 if listener.outcome == "done" else now
                caller.listener = None
                caller.next_question = max(now, end) + generator.uniform(pause / 2, 2 * pause)
            if caller.listener is None and caller.next_question <= now:
                caller.listener = world.ask(reply(generator))
        world.run_until(world.clock.now + GRANT_MS / 1000)
    world.finish()
