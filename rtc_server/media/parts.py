"""What the settings say about the parts that a node is built from."""

from __future__ import annotations

from collections.abc import Callable

from model.weights import model_path
from rtc_server.config import Settings
from rtc_server.inference.client import EngineSettings
from rtc_server.paths import models_dir
from rtc_server.turns.vad import VoiceDetector
from rtc_server.turns.vad_factory import create_detector


def engine_settings(settings: Settings, listen_path: str | None = None) -> EngineSettings:
    """The part of the settings that an engine client needs."""
    engine = settings.engine
    options: dict[str, object] = {}
    if engine.backend == "cascade":
        options = {**settings.cascade.model_dump(), "models_dir": str(models_dir(settings))}
    return EngineSettings(
        backend=engine.backend,
        options=options,
        nice=engine.nice,
        cpu_affinity=tuple(engine.cpu_affinity),
        max_pending=engine.max_pending,
        restart_backoff_seconds=engine.restart_backoff_seconds,
        restart_backoff_max_seconds=engine.restart_backoff_max_seconds,
        listen_path=listen_path,
    )


def vad_factory(settings: Settings) -> Callable[[], VoiceDetector]:
    """Makes one voice detector per call. Raises ModelsMissingError when Silero's weights are absent."""
    turns = settings.turns
    silero = None if turns.vad == "webrtcvad" else model_path(models_dir(settings), "silero_vad.onnx")
    return lambda: create_detector(turns.vad, turns.webrtcvad_mode, silero)
