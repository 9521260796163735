"""Conversations for measuring engines: who says what for how long and when, from a seed.

Open loop: when a turn is spoken depends on the seed alone, not on how quickly the engine answered the one before, so
that every system gets the same turns at the same times. A call's turn ends when its user has heard the reply before,
thought (exponential), and spoken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16

TEXT_TOKENS_PER_SECOND = 3.3  # of speech: 150 words a minute, 1.3 tokens each
UNIT_MS = 80  # of sound for each speech token


@dataclass(frozen=True, slots=True)
class Mix:
    """How long things take: (shortest, mean, longest) in seconds."""

    utterance: tuple[float, float, float] = (1.0, 3.0, 6.0)
    reply: tuple[float, float, float] = (2.0, 6.0, 10.0)
    think: float = 1.5
    """Mean seconds from the end of a reply to the user's next word."""

    @property
    def cycle(self) -> float:
        """Mean seconds from one turn to the next."""
        return self.utterance[1] + self.reply[1] + self.think


TALK = Mix()
SHORT_TALK = Mix((1.0, 1.4, 2.0), (1.5, 2.0, 3.0), 0.3)
"""For trying the tool."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance and how long its reply shall be."""

    due: float
    """Second of the run in which the utterance has ended and the reply is asked for."""
    utterance_ms: int
    reply_ms: int
    """The reply is over once so much sound was made. Whole speech tokens."""
    seed: int
    """Of the utterance's sound and of the reply's sampling."""

    @property
    def max_text(self) -> int:
        """Text tokens of the reply."""
        return max(1, round(self.reply_ms / 1000 * TEXT_TOKENS_PER_SECOND))

    @property
    def num_units(self) -> int:
        return self.reply_ms // UNIT_MS

    def utterance(self) -> Pcm16:
        """Noise whose loudness moves as that of syllables does, 16 kHz."""
        random = np.random.default_rng(self.seed)
        samples = self.utterance_ms * INPUT_SAMPLE_RATE // 1000
        syllables = 1.0 + np.sin(np.arange(samples) * (2 * np.pi * 4.0 / INPUT_SAMPLE_RATE))
        pcm: Pcm16 = (random.standard_normal(samples) * syllables * 2_000).astype(np.int16)
        return pcm


Script = tuple[Turn, ...]
"""The turns of one call."""


def plan(num_calls: int, seconds: float, mix: Mix, seed: int) -> list[Script]:
    """Calls whose turns are due within `seconds`. They begin spread over one cycle; each has a turn at least."""
    calls = []
    for call in range(num_calls):
        random = np.random.default_rng((seed, call))
        due = float(random.uniform(0.0, min(mix.cycle, seconds)))
        turns = [_turn(due, mix, random)]
        while True:
            wait = turns[-1].reply_ms / 1000 + float(random.exponential(mix.think))
            following = _turn(0.0, mix, random)
            due += wait + following.utterance_ms / 1000
            if due >= seconds:
                break
            turns.append(replace(following, due=due))
        calls.append(tuple(turns))
    return calls


def plan_back_to_back(num_calls: int, num_turns: int, mix: Mix, seed: int) -> list[Script]:
    """Calls with so many turns each, all due at once: for the greatest throughput."""
    randoms = [np.random.default_rng((seed, call, 1)) for call in range(num_calls)]
    return [tuple(_turn(0.0, mix, random) for _ in range(num_turns)) for random in randoms]


def _turn(due: float, mix: Mix, random: np.random.Generator) -> Turn:
    utterance_ms = round(_length(random, mix.utterance) * 1000)
    reply_ms = round(_length(random, mix.reply) * 1000 / UNIT_MS) * UNIT_MS
    return Turn(due, utterance_ms, reply_ms, int(random.integers(1 << 31)))


def _length(random: np.random.Generator, lengths: tuple[float, float, float]) -> float:
    """A beta distribution over the range, with the mean."""
    least, mean, most = lengths
    place = (mean - least) / (most - least)
    return least + (most - least) * float(random.beta(4 * place, 4 * (1 - place)))
