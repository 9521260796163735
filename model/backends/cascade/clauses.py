"""Cuts a reply into clauses while it is being written, so that its sound can start before its text is complete.

Pure, and independent of how the text arrives in pieces: every cut is decided by the text before it and a
bounded look ahead. Offsets count characters of the whole reply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Ending = Literal["sentence", "comma", "none"]

# The first clause decides how soon the reply is heard; the others have time, and longer ones sound better.
FIRST_COMMA_WORDS = 2
FIRST_SOFT_WORDS = 5
FIRST_MAX_WORDS = 8
COMMA_WORDS = 4
SOFT_WORDS = 10
MAX_WORDS = 18

# A phrase begins with one of these words, so a cut before it sounds like a breath, not like a mistake.
_PHRASE_STARTS = re.compile(
    r"(and|or|but|nor|so|yet|because|although|though|while|when|where|which|who|that|if|unless|until|since"
    r"|in|on|at|by|for|from|with|without|about|after|before|over|under|into|through|between|during|of|to"
    r"|is|are|was|were|can|could|will|would|should)",
    re.IGNORECASE,
)
_ABBREVIATIONS = re.compile(r"(mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|eg|ie|no|approx)", re.IGNORECASE)
_WORD = re.compile(r"\w[\w'’-]*")
_CANDIDATE = re.compile(r"(?P<sentence>[.!?…]+)|(?P<comma>[,;:—–])|(?P<newline>\n+)|(?P<space>[ \t]+)")
_CLOSERS = "\"'”’)]"


@dataclass(frozen=True, slots=True)
class Clause:
    """A stretch of the reply that is spoken in one go."""

    text: str
    """Stripped; contains at least one word."""
    start: int
    """Offset of its first character in the reply."""
    end: int
    """Offset behind its last character: this much of the reply is spoken when the clause is."""
    ending: Ending
    """What it ends with; decides the silence after it."""


class ClauseCutter:
    """Feed pieces of text of any length; complete clauses come back in order. `flush` at the end."""

    def __init__(self) -> None:
        self._rest = ""
        self._offset = 0  # of `_rest` in the reply
        self._is_first = True

    def feed(self, text: str) -> list[Clause]:
        """The clauses that `text` completes."""
        self._rest += text
        clauses: list[Clause] = []
        while (cut := self._find_cut()) is not None:
            clauses += self._take(*cut)
        return clauses

    def flush(self) -> list[Clause]:
        """What is left, as at most one clause."""
        ending: Ending = "sentence" if self._rest.rstrip(" \n" + _CLOSERS).endswith((".", "!", "?")) else "none"
        return self._take(len(self._rest), ending)

    def _take(self, length: int, ending: Ending) -> list[Clause]:
        piece, self._rest = self._rest[:length], self._rest[length:]
        start = self._offset + len(piece) - len(piece.lstrip())
        self._offset += length
        if _WORD.search(piece) is None:
            return []  # stray punctuation has no sound
        self._is_first = False
        return [Clause(piece.strip(), start, start + len(piece.strip()), ending)]

    def _find_cut(self) -> tuple[int, Ending] | None:
        """Length of the next clause in `_rest` and its ending; None while that is undecided."""
        text = self._rest
        for match in _CANDIDATE.finditer(text):
            words = len(_WORD.findall(text, 0, match.start()))
            if match["newline"]:
                if words:
                    return match.start(), "sentence"
            elif match["space"]:
                verdict = self._cut_before_space(match, words)
                if verdict is None:
                    return None
                if verdict:
                    return match.start(), "none"
            else:
                end = self._cut_at_punctuation(match, words)
                if end is None:
                    return None
                if end:
                    return end, "sentence" if match["sentence"] else "comma"
        return None

    def _cut_before_space(self, match: re.Match[str], words: int) -> bool | None:
        """None: the next word must be seen first."""
        if words >= (FIRST_MAX_WORDS if self._is_first else MAX_WORDS):
            return True
        if words < (FIRST_SOFT_WORDS if self._is_first else SOFT_WORDS):
            return False
        following = _WORD.match(self._rest, match.end())
        if following is None:
            return False if match.end() < len(self._rest) else None
        if following.end() == len(self._rest):
            return None  # "in" may become "inside"
        return _PHRASE_STARTS.fullmatch(following[0]) is not None

    def _cut_at_punctuation(self, match: re.Match[str], words: int) -> int | None:
        """Where the clause ends; 0: not here; None: the next character must be seen first."""
        text = self._rest
        if words < (1 if match["sentence"] else FIRST_COMMA_WORDS if self._is_first else COMMA_WORDS):
            return 0
        last_word = _WORD.findall(text, 0, match.start())[-1]
        if match[0].startswith("."):
            is_initial = len(last_word) == 1 and last_word.isupper() and last_word != "I"
            if is_initial or _ABBREVIATIONS.fullmatch(last_word):
                return 0
        if self._is_first and last_word.isalpha() and len(last_word) > 1:
            # One token sooner: waiting for the blank costs 20 ms of the time to the first sound. After a word of
            # letters, the only thing that could still follow is another mark, which has no sound.
            return match.start() + 1
        end = match.end()
        while end < len(text) and text[end] in _CLOSERS:
            end += 1
        if end == len(text):
            return None
        return end if text[end].isspace() else 0
