"""Long turns on their way to the engine while they are spoken, for engines that want it (`listen_ahead_ms`). Pure.

Owns the one request that is under way ("listen": it makes no reply), and knows how much of the turn was handed over.
Nothing of it is ever shown, counted or measured. Whether a turn is worth it is the core's decision.
"""

from __future__ import annotations

from dataclasses import replace

from model.interface import INPUT_SAMPLE_RATE, EngineEvent, GenerateRequest, ResponseDone

from .intents import CancelRequest, Outbox, SubmitRequest

SAMPLES_PER_MS = INPUT_SAMPLE_RATE // 1000


class ListenAhead:
    """See the module's docstring. `step_ms` is the engine's `listen_ahead_ms`; 0: it never gets such a request."""

    def __init__(self, step_ms: int, outbox: Outbox) -> None:
        self._step = step_ms * SAMPLES_PER_MS
        self._outbox = outbox
        self._turn_id = ""
        self._num_heard = 0  # samples of that turn's audio that were handed over
        self._running: str | None = None

    def is_due(self, turn_id: str, num_samples: int) -> bool:
        """The turn, now so long, has passed another step, and the request for an earlier one has ended. One of an
        earlier turn is cancelled."""
        if not self._step:
            return False
        if turn_id != self._turn_id:
            self.stop()
            self._turn_id = turn_id
        return self._running is None and self._whole_steps(num_samples) > self._num_heard

    def begin(self, request: GenerateRequest) -> None:
        """Hand over what `request` would be answered from if the turn were over, up to the latest step."""
        assert request.audio is not None, "there is something to listen to"
        self._num_heard = self._whole_steps(len(request.audio))
        self._running = request.response_id
        heard = replace(
            request,
            audio=request.audio[: self._num_heard],
            pauses=tuple(pause for pause in request.pauses if pause <= self._num_heard),
            output="listen",
            audio_credit_ms=0,
        )
        self._outbox.add(SubmitRequest(heard))

    def receive(self, event: EngineEvent) -> bool:
        """An engine event of the request that is under way; False when it is of another."""
        if event.response_id != self._running:
            return False
        if isinstance(event, ResponseDone):
            self._running = None
        return True

    def stop(self) -> None:
        """What was handed over is of no use any more, or the call is over."""
        if self._running is not None:
            self._outbox.add(CancelRequest(self._running))
        self._running = None
        self._num_heard = 0

    def _whole_steps(self, num_samples: int) -> int:
        return num_samples // self._step * self._step
