"""Barge-in: is a voice during a reply an interruption? Pure; the table at the end of `BargeIn` is the whole story.

The reply is paused at the first voiced frame, long before anybody knows, so that a real interruption is heard to
work at once; what turns out to be a cough or an "mhm" costs the listener a short pause and nothing else.
"""

from __future__ import annotations

import re
from enum import Enum, auto

MIN_INTERRUPTION_MS = 100  # a voice this short is a click even when it was followed by silence

BACKCHANNELS = (
    *("uh huh", "uhhuh", "uh-huh", "mhm", "mm hmm", "mm-hmm", "mmhmm", "mm hm", "mm", "mmm", "hm", "hmm"),
    *("yeah", "yep", "yup", "ok", "okay", "right", "all right", "alright", "sure", "i see", "got it"),
    *("oh", "ah", "aha", "uh", "um", "wow", "cool", "great", "nice"),
)
"""Listener's noises, as `is_backchannel` normalises them. A reply goes on after them, also after several in a row."""

_ONE = "|".join(re.escape(phrase) for phrase in sorted(BACKCHANNELS, key=len, reverse=True))
_SEVERAL = re.compile(rf"(?:{_ONE})(?: (?:{_ONE}))*")


def is_backchannel(transcript: str) -> bool:
    """True when the words only say "I am listening". Case and punctuation do not matter; any other word counts,
    letters of any language included."""
    words = "".join(c if c.isalnum() or c in "'-" else " " for c in transcript.lower())
    return _SEVERAL.fullmatch(" ".join(words.split())) is not None


class Verdict(Enum):
    """What to do with the reply."""

    NONE = auto()
    """Nothing (new): wait."""
    PAUSE = auto()
    """Fall silent, keep everything."""
    RESUME = auto()
    """It was nothing: go on at the same sample."""
    INTERRUPT = auto()
    """The user has taken the turn: drop the reply."""


class BargeIn:
    """Judges one voice at a time, from `voice_onset` (PAUSE) to RESUME or INTERRUPT."""

    def __init__(self, interruption_min_ms: int, gives_transcripts: bool) -> None:
        self._interruption_min_ms = interruption_min_ms
        self._gives_transcripts = gives_transcripts
        self._is_pending = False

    @property
    def is_pending(self) -> bool:
        """A voice is being judged; the reply is paused."""
        return self._is_pending

    # State        Input                                        Verdict
    # ------------ -------------------------------------------- ---------------------------
    # idle         voice_onset                                  PAUSE       -> pending
    # pending      voiced >= interruption_min_ms                INTERRUPT   -> idle
    # pending      voice_dropped (shorter than min_speech_ms)   RESUME      -> idle
    # pending      transcript: empty or backchannel             RESUME      -> idle
    # pending      transcript: words                            INTERRUPT   -> idle
    # pending      speech_ended, engine gives transcripts       NONE        (wait for the transcript)
    # pending      speech_ended, engine gives none              RESUME: shorter than interruption_min_ms
    # pending      transcript_unavailable (the engine failed)   by length:  >= MIN_INTERRUPTION_MS INTERRUPT
    # pending      timed_out                                    RESUME      -> idle
    # idle         anything else                                NONE

    def voice_onset(self) -> Verdict:
        """A voice began while a reply was being made or played."""
        if self._is_pending:
            return Verdict.NONE
        self._is_pending = True
        return Verdict.PAUSE

    def voiced(self, voiced_ms: float) -> Verdict:
        """The voice has lasted `voiced_ms` so far."""
        return self._decide(Verdict.INTERRUPT) if voiced_ms >= self._interruption_min_ms else Verdict.NONE

    def voice_dropped(self) -> Verdict:
        """The voice was too short to be speech."""
        return self._decide(Verdict.RESUME)

    def transcript(self, text: str) -> Verdict:
        """The engine says which words the voice spoke."""
        is_nothing = not text.strip() or is_backchannel(text)
        return self._decide(Verdict.RESUME if is_nothing else Verdict.INTERRUPT)

    def speech_ended(self, voiced_ms: float) -> Verdict:
        """The endpoint was reached before a verdict."""
        if not self._is_pending or self._gives_transcripts:
            return Verdict.NONE
        return self.voiced(voiced_ms) if voiced_ms >= self._interruption_min_ms else self._decide(Verdict.RESUME)

    def transcript_unavailable(self, voiced_ms: float) -> Verdict:
        """No transcript will come: only the length is left to judge by, and missing an interruption is worse."""
        return self._decide(Verdict.INTERRUPT if voiced_ms >= MIN_INTERRUPTION_MS else Verdict.RESUME)

    def timed_out(self) -> Verdict:
        """Nobody decided in time."""
        return self._decide(Verdict.RESUME)

    def reset(self) -> None:
        """The reply is gone: there is nothing to judge."""
        self._is_pending = False

    def _decide(self, verdict: Verdict) -> Verdict:
        if not self._is_pending:
            return Verdict.NONE
        self._is_pending = False
        return verdict
