"""Makes the voice detectors that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .vad import VadFactory, VoiceDetector
from .vad_gated import GatedVoiceDetector
from .vad_silero import SileroBatch
from .vad_webrtc import WebRtcVoiceDetector

GATE_MODE = 0  # webrtcvad's most lenient: in noise it opens too often rather than too late (docs/experiments.md)


def create_vad_factory(
    kind: str,
    webrtcvad_mode: int,
    silero_model_path: Path | None,
    on_waiting: Callable[[Callable[[], None]], None] | None = None,
) -> VadFactory:
    """`kind` is "silero", "webrtcvad" or "gated" (webrtcvad in front of Silero). For `on_waiting` see `SileroBatch`.

    Raises ValueError for another kind, or when Silero is wanted without its model file."""
    if kind == "webrtcvad":
        return lambda on_answer: WebRtcVoiceDetector(webrtcvad_mode)
    if kind not in ("silero", "gated"):
        raise ValueError(f"turns.vad '{kind}' is not known; use silero, webrtcvad or gated")
    if silero_model_path is None:
        raise ValueError(f"turns.vad '{kind}' needs the Silero model file")
    batch = SileroBatch(silero_model_path, on_waiting)
    if kind == "silero":
        return batch.stream
    return lambda on_answer: GatedVoiceDetector(WebRtcVoiceDetector(GATE_MODE), batch.stream(on_answer))


def create_detector(kind: str, webrtcvad_mode: int, silero_model_path: Path | None) -> VoiceDetector:
    """One detector by itself, which answers at once. Raises like `create_vad_factory`."""
    return create_vad_factory(kind, webrtcvad_mode, silero_model_path)(lambda: None)
