"""In which order a reply's text and speech tokens are made: M text, N speech, and so on; then speech alone.

The rules of the reference's generation loop, as a state machine without tensors:

    state                     next     on text token                    on speech token
    text of a group is due    text     group full, end of text, or      -
                                       budget used: speech is due
    speech of a group is due  unit     -                                group full, end of speech, or
                                                                        budget used: text is due
    text is finished          unit     -                                end of speech or budget used: done
    budget of speech is used  text     where speech would be due: done  -

An end of speech inside a group ends that group alone, and stays in the sequence.
"""

from __future__ import annotations

from typing import Literal

from .config import Interleaving

Step = Literal["text", "unit", "done"]


class ReplyOrder:
    """What comes next in one reply."""

    def __init__(
        self,
        interleaving: Interleaving,
        *,
        max_text: int,
        max_units: int,
        text_ends: frozenset[int],
        unit_ends: frozenset[int],
        has_speech: bool = True,
    ) -> None:
        """Raises ValueError when there is no room for a single text token. Without speech only text is made."""
        if max_text < 1:
            raise ValueError(f"max_text is {max_text}; a reply has at least one text token.")
        self._interleaving = interleaving
        self.max_text, self._max_units = max_text, max_units
        self._has_speech = has_speech
        self._text_ends, self._unit_ends = text_ends, unit_ends
        self._in_group = 0
        self.num_text = 0
        """Text tokens so far, the one that ended the text included."""
        self.num_units = 0
        """Speech tokens so far, ends included."""
        self.is_text_finished = False
        self.hit_text_limit = False
        """The text ended because its budget was used."""
        self.hit_unit_limit = False
        """The speech ended because its budget was used."""
        self.next: Step = "text"

    @property
    def due(self) -> int:
        """How many tokens of kind `next` follow in a row, unless one of them ends it earlier; 0 when done."""
        if self.next == "done":
            return 0
        if self.next == "text":
            group = self._interleaving.num_text - self._in_group if self._has_speech else self.max_text
            return min(group, self.max_text - self.num_text)
        left = self._max_units - self.num_units
        return left if self.is_text_finished else min(left, self._interleaving.num_units - self._in_group)

    def add_text(self, token: int) -> None:
        """A text token was made."""
        assert self.next == "text", self.next
        self.num_text += 1
        self._in_group += 1
        is_end = token in self._text_ends
        self.hit_text_limit = not is_end and self.num_text >= self.max_text
        self.is_text_finished = is_end or self.hit_text_limit
        if not self._has_speech:
            self.next = "done" if self.is_text_finished else "text"
        elif self.is_text_finished or self._in_group == self._interleaving.num_text:
            self._in_group = 0
            self.next = "unit" if self.num_units < self._max_units else "done"

    def add_unit(self, unit: int) -> None:
        """A speech token was made."""
        assert self.next == "unit", self.next
        self.num_units += 1
        self._in_group += 1
        is_end = unit in self._unit_ends
        is_over = self.num_units >= self._max_units
        self.hit_unit_limit = is_over and not (is_end and self.is_text_finished)
        if self.is_text_finished:
            self.next = "done" if is_end or is_over else "unit"
        elif is_end or is_over or self._in_group == self._interleaving.num_units:
            self._in_group = 0
            self.next = "text"
