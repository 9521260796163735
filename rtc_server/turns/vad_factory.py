"""Makes the voice detector that the settings name."""

from __future__ import annotations

from pathlib import Path

from .vad import VoiceDetector
from .vad_gated import GatedVoiceDetector
from .vad_silero import SileroVoiceDetector
from .vad_webrtc import WebRtcVoiceDetector


def create_detector(kind: str, webrtcvad_mode: int, silero_model_path: Path | None) -> VoiceDetector:
    """`kind` is "silero", "webrtcvad" or "gated" (webrtcvad in front of Silero).

    Raises ValueError for another kind, or when Silero is wanted without its model file."""
    if kind == "webrtcvad":
        return WebRtcVoiceDetector(webrtcvad_mode)
    if kind not in ("silero", "gated"):
        raise ValueError(f"turns.vad '{kind}' is not known; use silero, webrtcvad or gated")
    if silero_model_path is None:
        raise ValueError(f"turns.vad '{kind}' needs the Silero model file")
    silero = SileroVoiceDetector(silero_model_path)
    return silero if kind == "silero" else GatedVoiceDetector(WebRtcVoiceDetector(webrtcvad_mode), silero)
