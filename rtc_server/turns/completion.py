"""Is the user done? From how the last words sound and from what they are, to the silence that ends the turn. Pure.

Two weak witnesses: a turn model that heard the sound (`smart_turn`), and the transcript of the reply that was begun in
the pause. Each errs often; their mean is better than either (docs/experiments.md). Either may be missing or late; with
neither, the wait is as long as the eagerness allows.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Eagerness: TypeAlias = Literal["low", "medium", "high", "auto"]

LONGEST_WAIT_MS: dict[Eagerness, int] = {"low": 8_000, "medium": 4_000, "high": 2_000, "auto": 4_000}
"""What OpenAI documents for each eagerness."""
SHORTEST_WAIT_MS: dict[Eagerness, int] = {"low": 500, "medium": 350, "high": 250, "auto": 350}
"""For a turn that is surely over. Both witnesses have spoken by then, and a pause inside a sentence lasts as long."""
CURVE = (
    2.0  # 1: nearly a second for a plain end, so noisy are the witnesses; 3: three times as many pauses cut as with 2
)

NO_WORDS = 0.5
HESITATION = 0.05
DANGLING = 0.1
LOOSE_END = 0.35
SENTENCE = 0.9

_HESITATIONS = frozenset({"um", "uh", "er", "erm", "uhm", "hm", "hmm", "mm", "mmm"})
_DANGLING = frozenset(
    {
        *("a", "an", "the", "my", "your", "our", "their", "its", "every", "very", "mr", "mrs", "ms", "dr"),
        *("and", "or", "but", "nor", "because", "although", "though", "unless", "until", "while", "whereas", "if"),
        *("of", "to", "from", "with", "without", "into", "onto", "upon", "between", "among", "during", "than", "as"),
        *("whether", "per", "via", "i", "i'm", "i'd", "i'll", "i've", "he's", "she's", "we're", "we'll", "we've"),
        *("they're", "they'll", "they've", "you're", "you'll", "you've"),
    }
)
"""Words that hardly ever end an English sentence."""
_LOOSE = frozenset(
    {
        *("about", "for", "in", "on", "at", "by", "over", "under", "through", "after", "before", "like", "so", "then"),
        *("when", "where", "which", "that", "this", "these", "those", "he", "she", "we", "they", "not", "more", "most"),
        *("is", "are", "was", "were", "be", "been", "am", "do", "does", "did", "have", "has", "had", "can", "could"),
        *("will", "would", "shall", "should", "may", "might", "must", "some", "any", "just", "really", "maybe"),
        *("also", "well"),
    }
)
"""Words that end one now and then ("What are you thinking about?", "Yes, I do.")."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_MARKS = ".!?\u3002\uff01\uff1f\u061f\u0964"
_OPEN_MARKS = ",;:-\u2013\u2014\u2026\u3001\uff0c\u060c"


def wait_ms(eagerness: Eagerness, probability: float | None) -> int:
    """The silence that ends a turn which is complete with `probability`; None = nobody has judged (yet).

    Falls as the probability rises. Raises ValueError outside 0 to 1."""
    longest, shortest = LONGEST_WAIT_MS[eagerness], SHORTEST_WAIT_MS[eagerness]
    if probability is None:
        return longest
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"a probability is a number from 0 to 1, not {probability}")
    doubt: float = (1.0 - probability) ** CURVE
    return shortest + round((longest - shortest) * doubt)


def transcript_completion(text: str) -> float:
    """How much these words look like a finished turn, 0 to 1. Words and marks at their end decide: English words, the
    sentence marks of many scripts. Recognisers put a full stop wherever the sound ends, so words count before marks."""
    text = text.strip()
    words = _WORD.findall(text.lower())
    if not words:
        return NO_WORDS
    last = words[-1].replace("\u2019", "'")
    if last in _HESITATIONS:
        return HESITATION
    if last in _DANGLING:
        return DANGLING
    if last in _LOOSE or text[-1] in _OPEN_MARKS or text.endswith("..."):
        return LOOSE_END
    return SENTENCE if text.rstrip("\"'\u201d\u2019)\u300d")[-1:] in tuple(_SENTENCE_MARKS) else NO_WORDS


def completion(sound: float | None, words: float | None) -> float | None:
    """The two witnesses together: their mean, the one that is there, or None."""
    if sound is None or words is None:
        return words if sound is None else sound
    return (sound + words) / 2
