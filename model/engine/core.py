"""The loop around scheduler and runner: sequences come in, tokens and sound go out, and whatever ends is freed.

No torch in here: a `Runner` computes. `benchmarks` and tests drive the same core with a runner that only takes time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Items
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .blocks import BlockManager
from .costs import Costs
from .scheduler import Limits, Part, Scheduler, Step
from .sequence import Cut, Sequence

NOT_FINITE = -1
"""In place of a token: the model gave numbers that are none."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one sequence does in a round: maybe one text token, then `num_units` speech tokens."""

    sequence: Sequence
    has_text: bool
    num_units: int


@dataclass(frozen=True, slots=True)
class Made:
    """What a row gave. Units after the end of a group are guesses that the core drops."""

    text: int | None
    units: tuple[int, ...]


class Pending(Protocol):
    """Work that was launched."""

    def result(self) -> list[Made]:
        """Wait for it. One `Made` per row."""


class Runner(Protocol):
    """Everything that computes. Calls are made in the order of the steps; all but `collect` may only launch."""

    @property
    def sound_is_beside(self) -> bool:
        """Sound is decoded while other work goes on."""

    def close(self, sequence: Sequence) -> None:
        """Free what belongs to a sequence, but for its blocks."""

    def begin(self, sequence: Sequence) -> None:
        """It has a place from now on."""

    def leave(self, sequence: Sequence) -> None:
        """It gave its place to another; it will `begin` again, or be swapped in."""

    def hear(self, sequence: Sequence) -> bool:
        """Encode the next window of its audio `sequence.next_audio`; True when the audio needs no more."""

    def read(self, parts: Items[Part]) -> list[int]:
        """Read parts of prompts; for each the text token after it (of use where the prompt ends there)."""

    def round(self, rows: Items[Row]) -> Pending: ...

    def start_sound(self, jobs: Items[tuple[Sequence, Cut]]) -> None:
        """Begin to decode; one batch at a time."""

    def collect_sound(self, wait: bool) -> list[NDArray[np.float32]] | None:
        """Samples of each job of the batch that was started; None while it is not ready. `wait`: there is nothing else
        to do for a millisecond."""

    def swap_out(self, sequence: Sequence) -> None:
        """Copy its keys and values to the host; its tables are released next."""

    def swap_in(self, sequence: Sequence) -> None:
        """Copy them back into its new tables."""

    def scrub(self, text: Items[int], speech: Items[int]) -> None:
        """These blocks may hold numbers that are not finite: make them harmless."""


@dataclass(frozen=True, slots=True)
class Started:
    sequence: Sequence


@dataclass(frozen=True, slots=True)
class TextMade:
    sequence: Sequence
    token: int


@dataclass(frozen=True, slots=True)
class SoundMade:
    sequence: Sequence
    samples: NDArray[np.float32]
    is_final: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """Last of a sequence. Its memory is free."""

    sequence: Sequence
    error: Exception | None = None


Output: TypeAlias = Started | TextMade | SoundMade | Ended


class BusyError(Exception):
    """There was no place for a sequence in time, or it is larger than the engine."""


class NotFiniteError(FloatingPointError):
    """The model gave numbers that are not finite."""


@dataclass(slots=True)
class CoreStats:
    """Counts since the engine began."""

    steps: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    """Rounds by number of sequences."""
    sound_batches: Counter[int] = field(default_factory=Counter)
    """Batches of sound by number of pieces."""
    preemptions: int = 0
    busy_seconds: float = 0.0
    tokens: int = 0


class EngineCore:
    """Owner of all sequences and of both block managers."""

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        costs: Costs,
        text: BlockManager,
        speech: BlockManager,
        *,
        is_sound: Callable[[int], bool],
        sample_rate: int,
        clock: Callable[[], float],
    ) -> None:
        """is_sound: tells speech tokens from marks; clock: seconds, the one of `now`."""
        self._runner, self._limits = runner, limits
        self.text, self.speech, self.costs = text, speech, costs
        self._is_sound, self._sample_rate, self._clock = is_sound, sample_rate, clock
        self.scheduler = Scheduler(limits, costs, text, speech, sound_is_beside=runner.sound_is_beside)
        self._live: dict[str, Sequence] = {}
        self._decoding: list[tuple[Sequence, Cut]] = []  # in the order of the batch that is being decoded
        self._decoding_since = 0.0
        self._decoding_error: Exception | None = None  # it could not be started
        self._is_decoding_alone = True  # nothing else ran since the batch was begun
        self._lost: list[Output] = []  # ended while memory was moved; told at the end of the step
        self.stats = CoreStats()

    # --- sequences

    def __len__(self) -> int:
        return len(self._live)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        return tuple(self._live.values())

    @property
    def has_work(self) -> bool:
        """A step would do something."""
        if self._decoding:
            return True
        for sequence in self._live.values():
            if sequence.phase in ("hear", "read") or sequence.is_over or sequence.wants_tokens or sequence.wants_sound:
                return True
            if sequence.phase == "queued" and not self.scheduler.fits_at_all(sequence):
                return True  # to be refused
        live = self.sequences
        return self.scheduler.next_to_start(live) is not None or self.scheduler.to_give_way(live) is not None

    def add(self, sequence: Sequence) -> None:
        """It is worked on from the next step on."""
        assert sequence.id not in self._live, sequence.id
        self._live[sequence.id] = sequence

    def abort(self, sequence: Sequence) -> None:
        """Nothing of it comes out any more, and its memory is free. Unknown ones are ignored."""
        if self._live.get(sequence.id) is sequence:
            self._free(sequence)

    def clear(self) -> None:
        """Abort everything, forget every cached block."""
        for sequence in self.sequences:
            self._free(sequence)
        if self._decoding:
            with suppress(Exception):
                while self._runner.collect_sound(wait=True) is None:
                    pass
            self._decoding = []
        self.text.forget()
        self.speech.forget()

    def check(self) -> None:
        """Raises AssertionError when a block is lost, in either cache."""
        self.text.check([s.text for s in self._live.values()])
        self.speech.check([s.speech for s in self._live.values()])

    # --- one step

    def step(self, now: float) -> list[Output]:
        """One bounded piece of work, and what came of it."""
        begun = self._clock()
        self.stats.steps += 1
        outputs = self._collect(wait=False)
        outputs += self._end_those_over()  # their places are free before they are given out
        outputs += self._give_places(now)
        step = self.scheduler.schedule(now, self._live.values(), bool(self._decoding))
        if step.is_empty:
            if self._decoding:
                outputs += self._collect(wait=True)
        else:
            outputs += self._run(step)
            if not self._runner.sound_is_beside:
                outputs += self._collect(wait=True)
        outputs += self._end_those_over()
        outputs += self._lost
        self._lost = []
        if not self._live:
            self.check()
        self.stats.busy_seconds += self._clock() - begun
        return outputs

    def _end_those_over(self) -> list[Output]:
        over = [sequence for sequence in self.sequences if sequence.is_over]
        for sequence in over:
            self._free(sequence)
        return [Ended(sequence) for sequence in over]

    def _give_places(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for sequence in self.sequences:
            if sequence.phase == "queued" and not self.scheduler.fits_at_all(sequence):
                outputs.append(self._refuse(sequence, "The request is larger than the engine's memory."))
            elif self.scheduler.is_too_late(sequence, now):
                outputs.append(self._refuse(sequence, "The engine had no place for the request in time."))
        while (guess := self.scheduler.to_give_way(self.sequences)) is not None:
            self._preempt(guess)
        while (first := self.scheduler.next_to_start(self._live.values())) is not None:
            sequence = first
            if sequence.is_swapped:
                self._resume(sequence)
                continue
            # The last position is always computed: what follows it comes from its hidden state.
            sequence.text = self.text.open(sequence.digests[: (sequence.num_prompt - 1) // self.text.block_size])
            sequence.start(sequence.text.num_tokens)
            outputs += self._guarded([sequence], partial(self._begin, sequence))
        return outputs

    def _begin(self, sequence: Sequence) -> list[Output]:
        self._runner.begin(sequence)
        return [Started(sequence)]

    def _refuse(self, sequence: Sequence, reason: str) -> Ended:
        self._free(sequence)
        return Ended(sequence, BusyError(reason))

    def _run(self, step: Step) -> list[Output]:
        outputs: list[Output] = []
        pending: Pending | None = None
        rows: list[Row] = []
        begun = self._clock()
        is_alone = not self._decoding and not step.sound
        if step.hear or step.read or step.round:
            self._is_decoding_alone = False
        if step.hear is not None:
            outputs += self._guarded([step.hear], partial(self._hear, step.hear, is_alone))
        elif step.read:
            parts = [part for part in step.read if self._room_for_part(part)]
            # Not those that gave way to another.
            parts = [part for part in parts if part.sequence.phase == "read" and self._is_live(part)]
            outputs += self._read(parts, is_alone)
        elif step.round:
            rows = [row for s in step.round if self._room_for(row := self._row(s))]
            rows = [row for row in rows if not row.sequence.is_swapped and self._is_live(row)]  # likewise
            if rows:
                pending = self._launch(rows)
        if step.sound:
            self._start_sound([s for s in step.sound if s.id in self._live])
            self._is_decoding_alone = not (step.hear or step.read or rows)
        if rows:
            outputs += self._finish_round(rows, pending)
            if is_alone:
                self.costs.round.observe(len(rows), (self._clock() - begun) * 1000)
        return outputs

    def _is_live(self, work: Row | Part) -> bool:
        return self._live.get(work.sequence.id) is work.sequence

    # --- hear and read

    def _hear(self, sequence: Sequence, is_alone: bool) -> list[Output]:
        begun = self._clock()
        sequence.heard_window(self._runner.hear(sequence))
        if is_alone:
            self.costs.hear.observe(1, (self._clock() - begun) * 1000)
        return []

    def _read(self, parts: list[Part], is_alone: bool) -> list[Output]:
        if not parts:
            return []
        begun = self._clock()
        try:
            tokens = self._runner.read(parts)
        except Exception as error:
            if len(parts) == 1:
                return [self._fail(parts[0].sequence, error)]
            return [output for part in parts for output in self._read([part], is_alone)]  # one of them is to blame
        if is_alone:
            self.costs.read.observe(sum(part.count for part in parts), (self._clock() - begun) * 1000)
        outputs: list[Output] = []
        for part, token in zip(parts, tokens, strict=True):
            sequence = part.sequence
            if token == NOT_FINITE:
                outputs.append(self._fail(sequence, NotFiniteError("The model gave numbers that are not finite.")))
                continue
            sequence.text.num_tokens = part.start + part.count
            if sequence.num_unread:
                continue
            self.text.register(sequence.text, sequence.digests)
            if sequence.keeps_nothing:
                self._free(sequence)
                outputs.append(Ended(sequence))
                continue
            sequence.phase = "generate"
            outputs += self._add_text(sequence, token)
        return outputs

    # --- tokens

    def _row(self, sequence: Sequence) -> Row:
        order = sequence.order
        has_text = order.next == "text"
        fills_group = not has_text or order.due == 1
        num_units = 0
        if sequence.has_speech and fills_group:
            left = sequence.max_units - order.num_units
            num_units = min(
                left, self._limits.units_per_round if has_text else min(order.due, self._limits.units_per_round)
            )
        return Row(sequence, has_text, num_units)

    def _room_for_part(self, part: Part) -> bool:
        if part.sequence.phase != "read":  # it gave way to one before it, and has no blocks to extend
            return False
        return self._make_room(part.sequence, part.start + part.count, 0)

    def _room_for(self, row: Row) -> bool:
        sequence = row.sequence
        if sequence.is_swapped:
            return False
        speech = sequence.speech.num_tokens + 1 + sequence.num_bridged + row.has_text + row.num_units
        return self._make_room(sequence, sequence.text.num_tokens + row.has_text, speech if row.num_units else 0)

    def _launch(self, rows: list[Row]) -> Pending | None:
        """None when it raised."""
        try:
            return self._runner.round(rows)
        except Exception:  # whatever a model raises; `_finish_round` tries the rows one by one and tells whose it is
            return None

    def _finish_round(self, rows: list[Row], pending: Pending | None) -> list[Output]:
        try:
            made = (pending or self._runner.round(rows)).result()
        except Exception as error:
            if len(rows) == 1:
                return [self._fail(rows[0].sequence, error)]
            return [output for row in rows for output in self._finish_round([row], None)]  # one of them is to blame
        self.stats.rounds[len(rows)] += 1
        return [output for row, tokens in zip(rows, made, strict=True) for output in self._apply(row, tokens)]

    def _apply(self, row: Row, made: Made) -> list[Output]:
        """What a row gave, up to where its group ended; what was made beyond is forgotten: its place in the cache is
        written again."""
        sequence, outputs = row.sequence, list[Output]()
        if NOT_FINITE in (made.text, *made.units):
            return [self._fail(sequence, NotFiniteError("The model gave numbers that are not finite."))]
        if made.text is not None:
            sequence.text.num_tokens += 1
            outputs += self._add_text(sequence, made.text)
        for unit in made.units:
            if sequence.order.next != "unit":
                break
            sequence.speech.num_tokens += 1 + sequence.num_bridged  # the unit before (or the speaker), and its states
            sequence.num_bridged = 0
            sequence.add_unit(unit, self._is_sound(unit))
            self.stats.tokens += 1
        return outputs

    def _add_text(self, sequence: Sequence, token: int) -> list[Output]:
        sequence.add_text(token)
        self.stats.tokens += 1
        return [TextMade(sequence, token)]

    # --- sound

    def _start_sound(self, sequences: list[Sequence]) -> None:
        jobs = [(sequence, sequence.cuts.popleft()) for sequence in sequences if sequence.takes_sound()]
        if not jobs:
            return
        for sequence, _ in jobs:
            sequence.is_decoding = True
        self._decoding, self._decoding_since, self._decoding_error = jobs, self._clock(), None
        try:
            self._runner.start_sound(jobs)
        except Exception as error:  # those it was for end when it is collected: they may be in a round now
            self._decoding_error = error

    def _collect(self, wait: bool) -> list[Output]:
        if not self._decoding:
            return []
        jobs = self._decoding
        try:
            if self._decoding_error is not None:
                raise self._decoding_error
            sounds = self._runner.collect_sound(wait)
        except Exception as error:  # all of a batch were moved on, or not: nobody can tell
            self._decoding = []
            return [self._fail(sequence, error) for sequence, _ in jobs if self._live.get(sequence.id) is sequence]
        if sounds is None:
            return []
        self._decoding = []
        now = self._clock()
        lengths = [len(samples) * 1000 / self._sample_rate for samples in sounds]
        ms = (now - self._decoding_since) * 1000 if self._is_decoding_alone else None
        is_first = all(sequence.is_first for sequence, _ in jobs)
        self.costs.observe_sound(len(jobs), ms, sum(lengths), is_first=is_first)
        self.stats.sound_batches[len(jobs)] += 1
        outputs: list[Output] = []
        for (sequence, cut), samples, ms in zip(jobs, sounds, lengths, strict=True):
            if self._live.get(sequence.id) is sequence:
                sequence.add_sound(ms, cut.is_final, now)
                outputs.append(SoundMade(sequence, samples, cut.is_final))
        return outputs

    # --- memory

    def _make_room(self, sequence: Sequence, text: int, speech: int) -> bool:
        """Blocks for so many positions; guesses give theirs where there are too few. False: it had to give way."""
        while not (self.text.extend(sequence.text, text) and self.speech.extend(sequence.speech, speech)):
            victim = self.scheduler.victim(self._live.values(), sequence)
            assert victim is not None, "alone it fits"
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, guess: Sequence) -> None:
        """Take its blocks and its place. What it made so far waits on the host."""
        self.stats.preemptions += 1
        if guess.phase in ("hear", "read"):
            guess.phase = "queued"  # what it read so far is not much
            guess.arrival = self._clock()  # its patience begins anew
        else:
            try:
                self._runner.swap_out(guess)
            except Exception as error:  # no memory on the host, say: this one ends
                self._lost.append(self._fail(guess, error))
                return
            guess.is_swapped = True
        self._runner.leave(guess)
        text, speech = guess.text.num_tokens, guess.speech.num_tokens
        self.text.release(guess.text)
        self.speech.release(guess.speech)
        if guess.is_swapped:
            guess.text.num_tokens, guess.speech.num_tokens = text, speech

    def _resume(self, sequence: Sequence) -> None:
        has_room = self.text.extend(sequence.text, sequence.text.num_tokens) and self.speech.extend(
            sequence.speech, sequence.speech.num_tokens
        )
        assert has_room, "the scheduler looked"
        sequence.is_swapped = False
        try:
            self._runner.swap_in(sequence)
        except Exception as error:
            self._lost.append(self._fail(sequence, error))

    def _fail(self, sequence: Sequence, error: Exception) -> Ended:
        text, speech = self.text.private(sequence.text), self.speech.private(sequence.speech)
        self._free(sequence)
        with suppress(Exception):  # a device that is lost tells whoever comes next
            self._runner.scrub(text, speech)
        return Ended(sequence, error)

    def _free(self, sequence: Sequence) -> None:
        """The one place where a sequence's memory is given back, whatever ended it."""
        del self._live[sequence.id]
        self.text.release(sequence.text)
        self.speech.release(sequence.speech)
        self._runner.close(sequence)

    def _guarded(self, sequences: list[Sequence], work: Callable[[], list[Output]]) -> list[Output]:
        try:
            return work()
        except Exception as error:  # whatever a model raises ends this sequence and no other
            return [self._fail(sequence, error) for sequence in sequences]
