"""The replies of a call and their one playout: who has it, who waits for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from model.interface import AudioDelta
from rtc_server.audio.playout import Playout
from rtc_server.audio.resample import StreamResampler

from .responses import Response


class ReplyPlayout:
    """Brings the sound of replies to the playout's rate, one reply after the other."""

    def __init__(self, playout: Playout, engine_sample_rate: int) -> None:
        self._playout = playout
        self._engine_rate = engine_sample_rate
        self._resamplers: dict[str, StreamResampler] = {}  # of the reply that has the playout

    def play(self, response: Response, delta: AudioDelta) -> None:
        """More sound of `response`; kept in `response.unplayed` while another reply has the playout."""
        is_waiting = any(other != response.response_id for other in self._resamplers)
        if is_waiting or response.unplayed:
            response.unplayed.append(delta)
            return
        resampler = self._resamplers.get(response.response_id)
        if resampler is None:
            resampler = StreamResampler(self._engine_rate, self._playout.sample_rate)
            self._resamplers[response.response_id] = resampler
            self._playout.start(response.response_id)
        self._playout.push(response.response_id, resampler.resample(delta.pcm), delta.text_end)

    def play_next(self, responses: Iterable[Response]) -> None:
        """The playout is free: it goes to the first of `responses` that waits for it."""
        for response in responses:
            if not response.is_held and response.unplayed:
                deltas, response.unplayed = response.unplayed, []
                for delta in deltas:
                    self.play(response, delta)
                if response.done is not None:
                    self.finish(response)
                return

    def finish(self, response: Response) -> None:
        """Its last sound has been given to `play`."""
        resampler = self._resamplers.get(response.response_id)
        if resampler is not None:
            self._playout.push(response.response_id, resampler.flush(), None)
        self._playout.finish(response.response_id)

    def forget(self, response: Response) -> None:
        """It is over, or dead."""
        self._resamplers.pop(response.response_id, None)
