"""WebRTC's voice detector: 2 us a frame, quick, and fooled by noise (5-13 % false alarms at 10 dB SNR)."""

from __future__ import annotations

import webrtcvad

from model.interface import INPUT_SAMPLE_RATE, Pcm16

from .vad import check_length


class WebRtcVoiceDetector:
    """webrtcvad on 20 ms frames. `mode` 0 (lenient) to 3 (strict)."""

    frame_samples = 320

    def __init__(self, mode: int = 2) -> None:
        self._mode = mode
        self._vad = webrtcvad.Vad(mode)

    def probability(self, frame: Pcm16) -> float:
        """See `VoiceDetector`; 1.0 or 0.0."""
        check_length(frame, self.frame_samples)
        return float(self._vad.is_speech(frame.tobytes(), INPUT_SAMPLE_RATE))

    def reset(self) -> None:
        """See `VoiceDetector`."""
        self._vad = webrtcvad.Vad(self._mode)

    def close(self) -> None:
        """See `VoiceDetector`."""
