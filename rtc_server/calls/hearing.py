"""What a call hears, before anybody judges it: without our own echo, and without noise for the voice detector.

Which of it is done follows the settings, the kind of the call and the session's `audio.input.noise_reduction`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.interface import Pcm16
from rtc_server.audio.cleaning import EMPTY, EchoCanceller, is_cleaning_available
from rtc_server.config import Settings
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.base import MediaTransport
from rtc_server.turns.echo_guard import EchoGuard
from rtc_server.turns.vad import VoiceDetector
from rtc_server.turns.vad_quiet import QuietVoiceDetector


class Hearing:
    """`sent` follows the frame clock, `heard` the input."""

    def __init__(
        self,
        settings: Settings,
        session: SessionConfig,
        vad: VoiceDetector,
        transport: MediaTransport,
        *,
        is_telephone: bool,
    ) -> None:
        self.vad = QuietVoiceDetector(vad)
        """What turns are cut by."""
        self._playout_rate = transport.playout_sample_rate
        self._guard = EchoGuard(self._playout_rate) if settings.turns.echo_guard else None
        # Over a WebSocket sound comes and goes faster than it is heard: an echo has no place in time.
        self._is_real_time = not transport.carries_audio_in_events
        wanted = settings.audio.echo_cancellation
        is_wanted = wanted == "all" or (wanted == "telephone" and is_telephone)
        self._cancels_by_default = is_wanted and is_cleaning_available()
        self._canceller: EchoCanceller | None = None
        self._left_over = EMPTY
        self.update(session)

    @property
    def is_echo(self) -> Callable[[Pcm16], bool] | None:
        """Recognises an echo that is left in the latest input; None = nobody looks."""
        return None if self._guard is None else self._guard.is_echo

    @property
    def cancels_echo(self) -> bool:
        """The server's own voice is taken out of the input."""
        return self._canceller is not None

    def update(self, session: SessionConfig) -> None:
        """Follow the session. What is being cancelled goes on where nothing changes."""
        wanted = session.audio.input.noise_reduction
        self.vad.suppresses_noise = wanted is not None
        is_far = wanted is not None and wanted.type == "far_field"
        cancels = self._is_real_time and (self._cancels_by_default or is_far)
        if cancels and self._canceller is None:
            self._canceller = EchoCanceller(self._playout_rate)
        elif not cancels and self._canceller is not None:
            self._left_over = self._canceller.close()
            self._canceller = None

    def sent(self, pcm: Pcm16) -> None:
        """The next frame that left, int16 mono at the playout rate."""
        if self._guard is not None:
            self._guard.sent(pcm)
        if self._canceller is not None:
            self._canceller.sent(pcm)

    def heard(self, pcm: Pcm16) -> Pcm16:
        """The next input, int16 mono 16 kHz, as the rest of the call hears it: at most 20 ms of it wait inside."""
        if self._canceller is not None:
            return self._canceller.clean(pcm)
        if len(self._left_over):
            pcm, self._left_over = np.concatenate([self._left_over, pcm]), EMPTY
        return pcm
