"""The user's side of a call on its way into the conversation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.interface import Pcm16
from rtc_server.turns.events import SpeechStopped


@dataclass(slots=True)
class UserTurn:
    """One stretch of user speech on its way into the conversation."""

    turn_id: str
    item_id: str
    start_sample: int
    is_announced: bool = False
    """`speech_started` went out; during a reply only once the voice is judged an interruption."""
    stopped: SpeechStopped | None = None
    audio: Pcm16 | None = None
    """The turn's samples, once it stopped."""
    pauses: tuple[int, ...] = ()


@dataclass(slots=True)
class Unanswered:
    """User audio in the conversation that no response has been asked for yet."""

    item_id: str
    audio: Pcm16
    pauses: tuple[int, ...]
    items: tuple[str, ...] = ()
    """All items that it is made of, when it was joined."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """All items that it is made of."""
        return self.items or (self.item_id,)


def joined(parts: Sequence[Unanswered]) -> Unanswered | None:
    """Several stretches as one, pauses shifted along; None when there are none."""
    if not parts:
        return None
    offset = 0
    pauses: list[int] = []
    for part in parts:
        pauses += [offset + pause for pause in part.pauses]
        offset += len(part.audio)
    audio = parts[0].audio if len(parts) == 1 else np.concatenate([part.audio for part in parts])
    items = tuple(item_id for part in parts for item_id in part.item_ids)
    return Unanswered(parts[-1].item_id, audio, tuple(pauses), items)
