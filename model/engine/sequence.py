"""One reply inside the engine: what it has, what it needs next, and when its listener will miss it. No torch.

    phase      what happens                                            ends when
    queued     waits for a place and for blocks                        the scheduler starts it
    hear       audios of its prompt are encoded, one window a step     all that the cache does not cover are
    read       its prompt is read, part by part                        all of it is; the first text token is there
    generate   text and speech tokens, one round a step                `order` says so
    finished   only sound is left to decode

Sound is cut from speech tokens by `ChunkPlan` as they are made, by nothing but the tokens, so that equal requests sound
equal whatever else the engine does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Literal

from model.decoder.chunks import HEARD_SHARE, ChunkPlan
from model.opens2s.interleave import ReplyOrder

from .blocks import BlockTable

Phase = Literal["queued", "hear", "read", "generate", "finished"]

AHEAD_MS = 500.0
"""Sound that is kept ready beyond the credit, so that it is there when credit comes."""
RIDE_MS = 1_000.0
"""More sound that is made when others need some: they share what a batch costs, and then need none for a while."""
FIRST_SOUND_SECONDS = 0.3
"""What a caller is owed after the request; orders newcomers among each other and behind nobody who is not in need."""


@dataclass(frozen=True, slots=True)
class SoundShape:
    """How speech tokens become sound, as far as it must be known ahead."""

    plan: ChunkPlan
    unit_ms: float
    """Sound of one speech token."""
    held_ms: float
    """Kept back at the end of a piece until the next one."""

    @property
    def first_ms(self) -> float:
        """Sound of the first piece."""
        return self.plan.block_units * self.unit_ms - self.held_ms


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece of sound to decode."""

    units: tuple[int, ...]
    is_final: bool


class Sequence:
    """Moved on by the core; read by the scheduler."""

    def __init__(
        self,
        sequence_id: str,
        order: ReplyOrder,
        shape: SoundShape,
        *,
        arrival: float,
        num_prompt: int,
        digests: Items[bytes] = (),
        windows: Items[tuple[int, int]] = (),
        has_speech: bool = True,
        is_held: bool = False,
        max_units: int = 0,
        credit_ms: float = 0.0,
        keeps_nothing: bool = False,
    ) -> None:
        """arrival: seconds by the engine's clock; num_prompt: positions; digests: of the prompt's complete blocks;
        windows: of each audio in the prompt, its last position (exclusive) and how many windows it is to encode;
        keeps_nothing: ends once the prompt is read."""
        self.id = sequence_id
        self.order, self.shape = order, shape
        self.arrival = arrival
        self.num_prompt, self.digests = num_prompt, list(digests)
        self.has_speech, self.is_held, self.keeps_nothing = has_speech, is_held, keeps_nothing
        self.max_units = max_units
        self.phase: Phase = "queued"
        self.text, self.speech = BlockTable(), BlockTable()
        self.is_swapped = False
        """Its keys and values are in the host's memory; it has no blocks."""
        self.num_cached = 0
        """Positions of the prompt that were there already."""
        self.num_bridged = 0
        """Hidden states of the text model that wait for the speech model."""
        self.last_text = 0
        """The text token that is read next."""
        self.last_unit: int | None = None
        """The speech token that is read next; None: the speaker."""
        self._windows = tuple(windows)
        self._to_hear: deque[int] = deque()  # numbers of audios, one entry per window
        self._units: list[int] = []  # not cut yet
        self._num_cut = 0
        self._num_missing: int | None = None  # until the next cut; None: to be computed
        self.cuts: deque[Cut] = deque()
        self.is_decoding = False
        """A piece of its sound is being decoded."""
        self.is_decoded = not has_speech
        self.produced_ms = 0.0
        """Sound that was decoded."""
        self._credit_ms, self._heard_ms = credit_ms, 0.0
        self._updated: float | None = None  # when somebody is known to have heard `_heard_ms`

    # --- the prompt

    def start(self, num_cached: int) -> None:
        """Blocks are there, and `num_cached` positions of the prompt in them."""
        self.num_cached = num_cached
        self._to_hear = deque(
            number for number, (end, count) in enumerate(self._windows) if end > num_cached for _ in range(count)
        )
        self.phase = "hear" if self._to_hear else "read"

    @property
    def next_audio(self) -> int:
        """Number of the audio whose next window is encoded."""
        return self._to_hear[0]

    def heard_window(self, is_complete: bool) -> None:
        """One window was encoded; `is_complete`: no more of this audio are needed. What others had encoded of it may
        be dropped meanwhile, so that it takes more windows than were counted."""
        number = self._to_hear.popleft()
        if not is_complete and number not in self._to_hear:
            self._to_hear.appendleft(number)
        while is_complete and self._to_hear and self._to_hear[0] == number:
            self._to_hear.popleft()
        if not self._to_hear:
            self.phase = "read"

    @property
    def num_unread(self) -> int:
        return self.num_prompt - self.text.num_tokens

    # --- tokens

    @property
    def most_text(self) -> int:
        return self.num_prompt + (0 if self.keeps_nothing else self.order.max_text)

    @property
    def most_speech(self) -> int:
        """Positions of the speech model that it may come to need: speaker, states and units."""
        return 1 + self.order.max_text + self.max_units if self.has_speech and not self.keeps_nothing else 0

    def add_text(self, token: int) -> None:
        self.order.add_text(token)
        self.last_text = token
        if self.has_speech:
            self.num_bridged += 1
        self._look_after()

    def add_unit(self, unit: int, is_sound: bool) -> None:
        """`is_sound`: not a mark, which the decoder must not see."""
        self.order.add_unit(unit)
        self.last_unit = unit
        if is_sound:
            self._units.append(unit)
            self._cut(is_final=False)
        self._look_after()

    def _look_after(self) -> None:
        if self.order.next == "done":
            self.phase = "finished"
            if self.has_speech:
                self._cut(is_final=True)

    def _cut(self, is_final: bool) -> None:
        self._num_missing = None
        count = self._next_cut(len(self._units), is_final)
        if count or is_final:
            self.cuts.append(Cut(tuple(self._units[:count]), is_final))
            del self._units[:count]
            self._num_cut += count

    def _next_cut(self, num_waiting: int, is_final: bool) -> int:
        made_ms = max(0.0, self._num_cut * self.shape.unit_ms - self.shape.held_ms) if self._num_cut else 0.0
        return self.shape.plan.next_units(self._num_cut, num_waiting, (1 - HEARD_SHARE) * made_ms, is_final)

    # --- sound

    @property
    def wants_sound(self) -> bool:
        """A piece of sound can be decoded, and has a place to wait."""
        return self.takes_sound(0.0)

    @property
    def wants_tokens(self) -> bool:
        return self.takes_tokens(0.0)

    def takes_sound(self, extra_ms: float = RIDE_MS) -> bool:
        """As `wants_sound`, with so much more room."""
        if self.is_swapped or self.is_decoding or not self.cuts:
            return False
        return self._has_room(self.produced_ms, extra_ms)

    def takes_tokens(self, extra_ms: float = RIDE_MS) -> bool:
        """As `wants_tokens`, with so much more room."""
        if self.phase != "generate" or self.is_swapped:
            return False
        waiting = sum(len(cut.units) for cut in self.cuts)  # a piece that is still collected must become whole
        return not self.has_speech or self._has_room(self.produced_ms + waiting * self.shape.unit_ms, extra_ms)

    def _has_room(self, made_ms: float, extra_ms: float) -> bool:
        return made_ms <= self._credit_ms + AHEAD_MS + extra_ms

    def add_sound(self, ms: float, is_final: bool, now: float) -> None:
        """A piece was decoded."""
        if not self.produced_ms and ms > 0 and not self.is_held:
            self._updated = now  # it is played from now on
        self.produced_ms += ms
        self.is_decoding = False
        self.is_decoded = is_final

    @property
    def is_over(self) -> bool:
        return self.phase == "finished" and self.is_decoded

    # --- the listener

    def grant(self, ms: float, now: float) -> None:
        """More credit, because so much was played; before there is sound it is room and nothing else."""
        self._credit_ms += ms
        if self.produced_ms:
            self._heard_ms += ms
            self._updated = now

    def release(self, now: float) -> None:
        """Somebody waits for it now."""
        if self.is_held:
            self.is_held = False
            self.arrival = now
            self._updated = now if self.produced_ms else None

    @property
    def deadline(self) -> float:
        """When the listener runs dry, in seconds; of a newcomer, when he should hear something; infinite for a guess
        and where nobody listens."""
        if self.is_held or not self.has_speech:
            return float("inf")
        if self._updated is None:
            return self.arrival + FIRST_SOUND_SECONDS
        return self._updated + (self.produced_ms - self._heard_ms) / 1000

    @property
    def is_playing(self) -> bool:
        """Somebody hears it, and would hear a gap."""
        return self._updated is not None and not self.is_held and not self.is_decoded

    @property
    def is_first(self) -> bool:
        """Nothing was heard of it yet."""
        return self.produced_ms == 0

    def units_after_first(self) -> int:
        """Speech tokens until its second piece can be decoded, at least."""
        return 0 if len(self.cuts) > 1 else max(0, self.shape.plan.block_units - len(self._units))

    def units_missing(self) -> int:
        """Speech tokens until the next piece can be decoded, unless the reply ends before."""
        if self.cuts or self.phase == "finished":
            return 0
        if self._num_missing is None:
            block, waiting = self.shape.plan.block_units, len(self._units)
            to_block = block - (self._num_cut + waiting) % block  # pieces end where a block ends
            choices = range(to_block, self.shape.plan.max_units + block, block)
            self._num_missing = next((n for n in choices if self._next_cut(waiting + n, False)), to_block)
        return self._num_missing
