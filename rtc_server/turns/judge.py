"""Does the user sound done? The interface between a call and whatever listens, and the listener that never answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from model.interface import Pcm16

WINDOW_MS = 8_000
"""How much of the end of a turn is listened to: what Smart Turn was trained on."""

TurnModel: TypeAlias = Callable[[Pcm16], float]
"""The end of a turn, int16 mono 16 kHz, with the silence after it -> probability that the user is done. Takes tens of
milliseconds."""


class TurnJudge(Protocol):
    """Answers one call, one question at a time. Used on the event loop; computes elsewhere."""

    def ask(self, audio: Pcm16, on_answer: Callable[[float], None]) -> None:
        """Is the turn that ends with `audio` (`TurnDetector.heard`, taken in the pause) complete?

        `on_answer` gets the probability later, on the event loop, never from within `ask`; at most once, and not after
        another `ask`, `cancel` or `close`. It is not called at all when there is no model, when it failed or when too
        many questions wait: what is decided without an answer must be right by itself."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more: speech went on, or the turn is over."""

    def close(self) -> None:
        """The call is over. Idempotent."""


TurnJudgeFactory: TypeAlias = Callable[[], TurnJudge]
"""Makes the judge of one call. Cheap: the model is loaded when somebody first asks."""


class NoTurnJudge:
    """Never answers. A `TurnJudge`."""

    def ask(self, audio: Pcm16, on_answer: Callable[[float], None]) -> None:
        """See `TurnJudge`."""

    def cancel(self) -> None:
        """See `TurnJudge`."""

    def close(self) -> None:
        """See `TurnJudge`."""
