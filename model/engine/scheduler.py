"""What the engine does next. Decides by numbers alone: no torch, no clock; tested on virtual time.

Work comes in pieces of milliseconds: a window of audio (*hear*), a part of a prompt (*read*), a *round* of tokens for
everybody who needs some, a batch of pieces of *sound*. One piece of the first three is chosen per step; sound runs
beside it where the device can, and is one more kind of piece where it cannot.

    1  who has enough sound ahead gets nothing
    2  a listener who would run dry if something else came first: what he needs, sound before tokens
    3  the first sound of a newcomer, as soon as its tokens are there
    4  newcomers: hear, then read; after each such piece one round, so that neither waits for all of the other;
       guesses only while no newcomer makes tokens
    5  sound or a round, whichever has the earlier deadline; where sound runs beside rounds, none runs beside a first
       sound unless somebody would miss it

Whoever has not very much ahead takes part in a round or a batch of sound that somebody needs, guesses too: a larger
batch costs little more, and those who are served together need the next piece together. Places are given by arrival;
guesses give up their blocks and places to replies that somebody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from operator import attrgetter

from .blocks import BlockManager
from .costs import Costs
from .sequence import Sequence

MARGIN_SECONDS = 0.12
"""Sound that a listener should still have when his next piece is ready: covers the way to him, and bad luck."""
PATIENT_SECONDS = 1.0
"""Pieces of sound wait for others to be decoded with while their listeners have so much time, and tokens are made."""
CAPACITY_STEPS = 64
"""After so many steps what is known of the costs is looked at again."""
RELAXED_SECONDS = 1.0
"""Whoever waits for his first sound is not kept waiting while everybody else has so much time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step and the whole engine may take."""

    max_sequences: int
    """Replies that have blocks at once, guesses included."""
    max_batch: int
    """Sequences in one round."""
    max_read: int
    """Positions of prompts in one step."""
    units_per_round: int
    is_measured: bool = True
    """As many replies at once as can be made in time by what work was measured to cost; else `max_sequences`."""
    patience: float = 10.0
    """Seconds that a request waits for a place; then it is refused."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a prompt to read."""

    sequence: Sequence
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Step:
    """What is done in one step; at most one of `hear`, `read` and `round`."""

    hear: Sequence | None = None
    read: tuple[Part, ...] = ()
    round: tuple[Sequence, ...] = ()
    sound: tuple[Sequence, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.hear or self.read or self.round or self.sound)


class Scheduler:
    """Who is next. It owns the queue and gives out places; blocks are opened and freed by the core."""

    def __init__(
        self, limits: Limits, costs: Costs, text: BlockManager, speech: BlockManager, *, sound_is_beside: bool
    ) -> None:
        self._limits, self.costs = limits, costs
        self._text, self._speech = text, speech
        self._sound_is_beside = sound_is_beside
        self._did_begin = False  # the last piece was hear or read
        self._capacity = self._capacity_step = self._steps = 0
        self._crowd = 1  # sequences that a round may have at present
        self.is_measuring = False
        """While it is found out what work costs: as many replies at once as there is memory for, and one piece of work
        at a time."""

    @property
    def capacity(self) -> int:
        """Replies that are made at once so that all are in time, as far as is known by now."""
        if self.is_measuring or not self._limits.is_measured:
            return self._limits.max_sequences
        if not self._capacity or self._steps - self._capacity_step >= CAPACITY_STEPS:
            self._capacity = self.costs.capacity(self._limits.max_sequences)
            self._capacity_step = self._steps
        return self._capacity

    # --- places

    def is_too_late(self, sequence: Sequence, now: float) -> bool:
        """It waited for a place for too long."""
        return sequence.phase == "queued" and now - sequence.arrival > self._limits.patience

    def fits_at_all(self, sequence: Sequence) -> bool:
        """It could be served if it were alone."""
        return (
            self._text.blocks_for(sequence.most_text) <= self._text.num_blocks
            and self._speech.blocks_for(sequence.most_speech) <= self._speech.num_blocks
        )

    def next_to_start(self, live: Iterable[Sequence]) -> Sequence | None:
        """The queued sequence whose turn it is, if there is a place for it: those that somebody waits for first."""
        live = list(live)
        queued = [s for s in live if s.phase == "queued" or s.is_swapped]
        for sequence in sorted(queued, key=lambda s: (s.is_held, s.arrival)):
            return sequence if self._has_place(sequence, live) else None
        return None

    def to_give_way(self, live: Items[Sequence]) -> Sequence | None:
        """The guess that must give its blocks and its place to a reply that waits for them; None when none waits, or
        it could not be started all the same."""
        waiting = [s for s in live if (s.phase == "queued" or s.is_swapped) and not s.is_held]
        first = min(waiting, key=attrgetter("arrival"), default=None)
        if first is None or self._has_place(first, live) or not self._may_be_served(first, live):
            return None
        return max((s for s in self._started(live) if s.is_held), key=attrgetter("arrival"), default=None)

    def victim(self, live: Iterable[Sequence], needy: Sequence) -> Sequence | None:
        """Who gives up its blocks so that `needy` can go on: the latest guess, or the latest of all where there is no
        guess: one that was released had a place without being counted. It may be `needy` itself."""
        owners = [s for s in self._started(live) if s.text.blocks or s.speech.blocks]
        return max(owners, key=attrgetter("is_held", "arrival"), default=None)

    def _started(self, live: Iterable[Sequence]) -> list[Sequence]:
        return [s for s in live if s.phase != "queued" and not s.is_swapped and not s.is_over]

    def _may_be_served(self, sequence: Sequence, live: Iterable[Sequence]) -> bool:
        """Replies that somebody waits for never run out of blocks or time: their worst cases fit together."""
        served = [s for s in self._started(live) if not s.is_held and s is not sequence]
        if len(served) >= self.capacity:
            return False
        everybody = [*served, sequence]
        return (
            sum(self._text.blocks_for(s.most_text) for s in everybody) <= self._text.num_blocks
            and sum(self._speech.blocks_for(s.most_speech) for s in everybody) <= self._speech.num_blocks
        )

    def _has_place(self, sequence: Sequence, live: Iterable[Sequence]) -> bool:
        started = self._started(live)
        if len(started) >= self._limits.max_sequences:
            return False
        if not sequence.is_held and not self._may_be_served(sequence, started):
            return False
        text, speech = sequence.num_prompt, sequence.order.max_text if sequence.has_speech else 0
        if sequence.is_swapped:
            text, speech = sequence.text.num_tokens, sequence.speech.num_tokens
        return (
            self._text.blocks_for(text + 1) <= self._text.num_available
            and self._speech.blocks_for(speech + 1) <= self._speech.num_available
            and (not sequence.is_held or len(started) < max(1, self.capacity))
        )

    # --- pieces of work

    def schedule(self, now: float, live: Iterable[Sequence], is_sound_busy: bool = False) -> Step:
        """The next step; empty when there is nothing to do. `is_sound_busy`: a batch of sound is being decoded."""
        self._steps += 1
        started = self._started(live)
        step = self._step(now, started, is_sound_busy)
        if step.is_empty and not is_sound_busy:  # a newcomer's sound may have been put off for others; not for nothing
            step = Step(sound=tuple(self._sound(started, now, float("inf"))))
        self._did_begin = bool(step.hear or step.read)
        return step

    def _step(self, now: float, group: list[Sequence], is_sound_busy: bool) -> Step:
        self._crowd = min(max(1, len(group)), self._limits.max_batch)
        tokens = self._round(group)
        beginning = [s for s in group if s.phase in ("hear", "read")]
        slack = self._slack(group, now)
        sound = [] if is_sound_busy else self._sound(group, now, slack)
        may_begin = self._may_begin(beginning, tokens, slack)
        if self._sound_is_beside:
            if self._lets_sound_alone(group, now, slack, sound):
                return Step(sound=tuple(sound))
            main = self._begin(beginning) if may_begin else Step(round=tokens)
            return Step(main.hear, main.read, main.round, tuple(sound))
        if slack < self._longest_piece(beginning):
            in_need = [s for s in group if s.is_playing and (s.wants_sound or s.wants_tokens)]
            neediest = min(in_need, key=attrgetter("deadline"), default=None)
            if neediest is not None and neediest.wants_sound:
                return Step(sound=tuple(self._sound(group, now, slack, neediest)))
            if neediest is not None:
                return Step(round=self._round(group, neediest))
        if sound and sound[0].is_first:
            return Step(sound=tuple(sound))
        if may_begin:
            return self._begin(beginning)
        if sound and (not tokens or sound[0].deadline <= min(s.deadline for s in tokens)):
            return Step(sound=tuple(sound))
        return Step(round=tokens) if tokens else Step(sound=tuple(sound))

    def _lets_sound_alone(self, group: Items[Sequence], now: float, slack: float, sound: Items[Sequence]) -> bool:
        """Nothing runs beside the sound that is decoded or begins with this step (`sound`), which is ready much sooner
        then: a first sound, as long as nobody misses a round, or that of whoever is in need most."""
        decoded = [s for s in group if s.is_decoding or s in sound]
        if self.is_measuring or not decoded:
            return bool(decoded)
        if slack < 0:
            playing = [s for s in group if s.is_playing and (s in decoded or s.takes_sound() or s.takes_tokens())]
            neediest = min(playing, key=attrgetter("deadline"))  # there is one: somebody has too little time
            return neediest in decoded or bool(neediest.cuts)
        newcomers = [s for s in decoded if s.is_first]
        if not newcomers or any(s.is_first and not s.is_held and s.wants_tokens and s not in decoded for s in group):
            return False  # or somebody makes his first tokens
        return self._slack(group, now, newcomers) >= 0

    def _may_begin(self, beginning: list[Sequence], tokens: tuple[Sequence, ...], slack: float) -> bool:
        """A newcomer's prompt comes next, and not a round."""
        if not beginning:
            return False
        if not tokens:
            return True
        are_guesses = all(s.is_held for s in beginning)
        if (self._did_begin or are_guesses) and any(s.is_first and not s.is_held for s in tokens):
            return False
        return slack >= self._longest_piece(beginning)

    def _begin(self, beginning: list[Sequence]) -> Step:
        reading = sorted((s for s in beginning if s.phase == "read"), key=attrgetter("deadline", "arrival"))
        if not reading:
            return Step(hear=min(beginning, key=attrgetter("deadline", "arrival")))
        room = self._limits.max_read
        parts: list[Part] = []
        for sequence in reading[: self._limits.max_batch]:
            count = min(room, sequence.num_unread)
            if count:
                parts.append(Part(sequence, sequence.text.num_tokens, count))
                room -= count
        return Step(read=tuple(parts))

    def _round(self, group: Iterable[Sequence], first: Sequence | None = None) -> tuple[Sequence, ...]:
        """Who takes part in a round: nobody, unless somebody wants tokens."""
        group = list(group)
        if not any(s.wants_tokens for s in group):
            return ()
        taking = sorted((s for s in group if s.takes_tokens()), key=lambda s: (s is not first, s.deadline, s.arrival))
        return tuple(taking[: self._limits.max_batch])

    def _sound(self, group: Items[Sequence], now: float, slack: float, first: Sequence | None = None) -> list[Sequence]:
        """Whose sound is decoded together: nobody's, unless somebody wants some."""
        if not any(s.wants_sound for s in group):
            return []
        taking = sorted(
            (s for s in group if s.takes_sound()), key=lambda s: (s is not first, not s.is_first, s.deadline)
        )
        most = self._sound_batch()
        newcomers = [s for s in taking if s.is_first][: self._sound_batch(is_first=True)]
        if first is None and newcomers:
            # They do not wait for others' longer pieces; but once they are heard they must be served in time too.
            while newcomers and self._slack(group, now, newcomers) < 0 and slack < RELAXED_SECONDS:
                newcomers.pop()
            if newcomers:
                return newcomers
            taking = [s for s in taking if not s.is_first]
        soonest = min((s.deadline for s in taking[:most]), default=0.0)
        if first is None and len(taking) < most and soonest - now > PATIENT_SECONDS and self._round(group):
            return []  # more pieces will be ready before anybody needs his
        while most > 1 and now + self.costs.of_sound(most) / 1000 + MARGIN_SECONDS > soonest:
            most -= 1  # he cannot wait for so many others
        return taking[:most]

    def _sound_batch(self, *, is_first: bool = False) -> int:
        return min(self.costs.sound_batch(is_first=is_first), self._limits.max_batch)

    def _slack(self, group: Items[Sequence], now: float, newcomers: Items[Sequence] = ()) -> float:
        """Seconds that other work may take before somebody runs dry who is heard, if all are served by earliest
        deadline: each needs his rounds, which are shared, and his sound after that of those before him. `newcomers`
        are counted as if their first sound were decoded now."""
        costs, most = self.costs, self._sound_batch()
        decoding = [s for s in group if s.is_decoding]
        begun = decoding or newcomers  # what has begun comes first, and takes no longer than all of it
        delay = costs.of_sound(len(begun), is_first=all(s.is_first for s in begun)) / 1000 if begun else 0.0
        slack = min((s.deadline - now - delay for s in decoding if s.is_playing), default=float("inf"))
        needs = [
            (s.deadline, s.units_missing())
            for s in group
            if s.is_playing and not s.is_decoding and (s.takes_sound() or s.takes_tokens())
        ]
        if newcomers:
            first_ms = newcomers[0].shape.first_ms
            needs += [(now + delay + first_ms / 1000, s.units_after_first()) for s in newcomers]
        rounds = 0
        for pieces, (deadline, units) in enumerate(sorted(needs), 1):
            rounds = max(rounds, -(-units // self._limits.units_per_round))
            full, rest = divmod(pieces, most)
            sound = full * costs.of_sound(most) + (costs.of_sound(rest) if rest else 0.0)
            if self._sound_is_beside:  # it is collected, and begun, between two rounds
                sound += -(-pieces // most) * costs.round.at(self._crowd)
            ahead = (rounds * costs.round.at(self._crowd) + sound) / 1000
            slack = min(slack, deadline - now - delay - ahead)
        return slack - MARGIN_SECONDS

    def _longest_piece(self, beginning: Iterable[Sequence]) -> float:
        """Seconds of the piece that newcomers want next."""
        costs = self.costs
        pieces = [
            costs.hear.at(1) if s.phase == "hear" else costs.read.at(min(s.num_unread, self._limits.max_read))
            for s in beginning
        ]
        return max([*pieces, costs.round.at(self._crowd), costs.of_sound(self._sound_batch())]) / 1000
