"""What work costs on this machine, as measured while it serves, and how many listeners it can therefore keep up with.

Plain numbers: no torch, no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

KEEP = 0.9
"""Weight of what was known against one new measurement."""
MAX_JUMP = 4.0
"""A single measurement counts as at most so many times what was expected: a page fault is no trend."""
LOAD_LIMIT = 0.7
"""Share of the time that admitted replies may need; the rest is for newcomers, guesses and bad luck."""
TURN_SECONDS = 4.0
"""How often one caller asks for a reply at most, on average: it is spoken and answered in no less time."""
MAX_SOUND_BATCH = 8
"""Pieces of sound decoded at once, at most."""
LONGEST_SOUND_MS = 170.0
"""A batch of sound has as many pieces as take no longer, but one at least: others wait for it to end."""
SOUND_SHARE = 3
"""Of so many replies at once, one more piece is ready when one is decoded; a cautious guess."""
ROUND_SIZES = (1, 2, 4, 8, 16, 32, 64)
SOUND_SIZES = (1, 2, 4, 8, 16)


class Curve:
    """Milliseconds by size of the work, by averages at fixed sizes with straight lines between them."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._known: dict[int, float] = {}

    @property
    def largest(self) -> int:
        """The largest size that was measured; 0 when none was."""
        return max(self._known, default=0)

    def observe(self, size: int, ms: float) -> None:
        """A piece of work of this size took so long."""
        place = self._sizes[min(bisect_left(self._sizes, size), len(self._sizes) - 1)]
        known = self._known.get(place)
        self._known[place] = ms if known is None else KEEP * known + (1 - KEEP) * min(ms, MAX_JUMP * known)

    def know(self, size: int, ms: float) -> None:
        """A piece of one of the sizes was measured on its own, and takes so long."""
        self._known[size] = ms

    def at(self, size: int) -> float:
        """What a piece of this size will take. 0 while nothing is known; beyond the largest known size in proportion
        to it, which is too much rather than too little."""
        known = sorted(self._known.items())
        if not known:
            return 0.0
        if size <= known[0][0]:
            return known[0][1]
        left, low = known[0]
        for right, measured in known[1:]:
            high = max(measured, low)  # a larger piece is never cheaper, whatever was measured of it
            if size <= right:
                return low + (high - low) * (size - left) / (right - left)
            left, low = right, high
        return low * size / left


@dataclass(slots=True)
class Costs:
    """All kinds of work, each as long as it takes alone.

    Where sound is decoded beside tokens each makes the other slower, but both are done no later than if one had waited
    for the other: what they take alone can be added up."""

    units_per_round: int
    unit_ms: float
    """Sound of one speech token."""
    block_units: int = 10
    """Speech tokens of the first pieces of sound."""
    first_ms: float = 660.0
    """Sound of the first piece."""
    hear: Curve = field(default_factory=lambda: Curve((1,)))
    """Milliseconds of encoding one window of audio."""
    read: Curve = field(default_factory=lambda: Curve((16, 64, 256, 512)))
    """Of prefill, by positions."""
    round: Curve = field(default_factory=lambda: Curve(ROUND_SIZES))
    """Of one round, by sequences."""
    sound: Curve = field(default_factory=lambda: Curve(SOUND_SIZES))
    """Of decoding pieces of usual length, by pieces in one batch."""
    first_sound: Curve = field(default_factory=lambda: Curve(SOUND_SIZES))
    """Of decoding first pieces: one block each, and nothing before it that has to be looked at."""
    piece_ms: float = 0.0
    """Sound of one piece of usual length, on average."""

    def observe_sound(self, pieces: int, ms: float | None, sound_ms: float, *, is_first: bool = False) -> None:
        """A batch of so many pieces with so much sound in all took `ms` to decode, or was not alone (None). `is_first`:
        all began a reply."""
        if ms is not None:
            (self.first_sound if is_first else self.sound).observe(pieces, ms)
        if sound_ms > 0 and not is_first:
            piece_ms = sound_ms / pieces
            self.piece_ms = piece_ms if not self.piece_ms else KEEP * self.piece_ms + (1 - KEEP) * piece_ms

    def of_sound(self, pieces: int, *, is_first: bool = False) -> float:
        """Milliseconds of a batch of so many pieces; of the other kind as long as one was never measured."""
        curve, other = (self.first_sound, self.sound) if is_first else (self.sound, self.first_sound)
        return curve.at(pieces) if curve.largest else other.at(pieces)

    def sound_batch(self, *, is_first: bool = False) -> int:
        """Pieces that one batch of sound may have."""
        # What was never tried is not known to be slow: up to twice the largest batch so far.
        largest = max(1, (self.first_sound if is_first else self.sound).largest)
        pieces = min(MAX_SOUND_BATCH, 2 * largest)
        while pieces > 1 and pieces <= largest and self.of_sound(pieces, is_first=is_first) > LONGEST_SOUND_MS:
            pieces -= 1
        return pieces if self.of_sound(1, is_first=is_first) <= LONGEST_SOUND_MS else 1

    def sound_per_second(self, voices: int) -> float:
        """Milliseconds of decoding per second of one reply's sound, when so many are made at once."""
        if not self.piece_ms:
            return 0.0
        pieces = max(1, min(self.sound_batch(), voices // SOUND_SHARE))
        return self.sound.at(pieces) / pieces * 1000 / self.piece_ms

    def _sound_load(self, voices: int) -> float:
        """Milliseconds of decoding per second; never less for more voices."""
        return max(count * self.sound_per_second(count) for count in range(1, voices + 1))

    def load(self, voices: int) -> float:
        """Share of the time that so many replies at once need, newcomers included: 1 is everything."""
        rounds = 1000 / (self.units_per_round * self.unit_ms) * self.round.at(voices)
        beginning = self.hear.at(1) + self.read.at(64) + self.of_sound(1, is_first=True)
        return (rounds + self._sound_load(voices) + voices * beginning / TURN_SECONDS) / 1000

    def capacity(self, most: int) -> int:
        """How many replies at once are made in time: 1 to `most`."""
        voices = 1
        while voices < most and self.load(voices + 1) <= LOAD_LIMIT and self.burst(voices + 1) <= LOAD_LIMIT:
            voices += 1
        return voices

    def burst(self, voices: int) -> float:
        """Share of the first piece's sound that passes until the second is there, when so many begin together."""
        rounds = -(-self.block_units // self.units_per_round) * self.round.at(voices)
        full, rest = divmod(voices, MAX_SOUND_BATCH)
        batches = [MAX_SOUND_BATCH] * full + [rest] * bool(rest)
        # A second piece has some of the first before it: between a first one and one of usual length.
        sound = sum((self.of_sound(count, is_first=True) + self.of_sound(count)) / 2 for count in batches)
        return (rounds + sound) / self.first_ms
