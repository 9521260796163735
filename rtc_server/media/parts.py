"""What the settings say about the parts that a node is built from."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from model.weights import FETCH_COMMAND, SILERO_VAD, SMART_TURN, model_path
from rtc_server.audio.cleaning import is_cleaning_available, load
from rtc_server.config import Settings
from rtc_server.errors import ConfigError
from rtc_server.inference.client import EngineSettings
from rtc_server.logs import LogStyle
from rtc_server.paths import models_dir
from rtc_server.scheduling import engine_environment, thread_placement
from rtc_server.tracing import TraceStyle
from rtc_server.transports.pacer import TICK_SECONDS
from rtc_server.turns.judge import NoTurnJudge, TurnJudgeFactory
from rtc_server.turns.smart_turn import SmartTurn
from rtc_server.turns.vad import VadFactory
from rtc_server.turns.vad_factory import create_vad_factory

from .turn_judges import TurnJudges

log = logging.getLogger(__name__)


def engine_settings(settings: Settings, listen_path: str | None = None) -> EngineSettings:
    """The part of the settings that an engine client needs."""
    engine = settings.engine
    options: dict[str, object] = {}
    if engine.backend == "cascade":
        options = {**settings.cascade.model_dump(), "models_dir": str(models_dir(settings))}
    elif engine.backend == "opens2s":
        options = {**settings.opens2s.model_dump(), "models_dir": str(models_dir(settings))}
    return EngineSettings(
        backend=engine.backend,
        options=options,
        nice=engine.nice,
        cpu_affinity=tuple(engine.cpu_affinity),
        max_pending=engine.max_pending,
        restart_backoff_seconds=engine.restart_backoff_seconds,
        restart_backoff_max_seconds=engine.restart_backoff_max_seconds,
        listen_path=listen_path,
        huge_pages=settings.system.engine_huge_pages,
        environment=engine_environment(settings),
        log_style=LogStyle(settings.logging.level, settings.logging.format),
        trace_style=TraceStyle(**settings.tracing.model_dump()),
        step_timeout_seconds=engine.step_timeout_seconds,
    )


def vad_factory(settings: Settings) -> VadFactory:
    """Makes the voice detectors of a media process. Raises like `silero_path`."""
    turns = settings.turns
    return create_vad_factory(turns.vad, turns.webrtcvad_mode, silero_path(settings), on_waiting=_at_next_tick)


def load_cleaning(settings: Settings) -> None:
    """Load the library that cleans audio, before there are calls that it would hold up. Raises ConfigError where the
    settings want it for sure and it is not installed."""
    check_cleaning(settings)
    if is_cleaning_available():
        load()


def check_cleaning(settings: Settings) -> None:
    """Raises like `load_cleaning`."""
    audio = settings.audio
    if not is_cleaning_available() and (audio.echo_cancellation == "all" or audio.noise_suppression != "off"):
        name = "audio.echo_cancellation" if audio.echo_cancellation == "all" else "audio.noise_suppression"
        raise ConfigError(f"{name} needs a package; install it with: pip install 'rtc-server[cleaning]'")


def turn_judge_factory(settings: Settings) -> TurnJudgeFactory:
    """Makes the turn judges of a media process; the model is loaded with the first question. Without its file, or where
    the settings want none, judges never answer, and turns end by their words."""
    if settings.turns.turn_model == "transcript":
        return NoTurnJudge
    path = model_path(models_dir(settings), SMART_TURN)
    if not path.is_file():
        log.warning("the turn model is missing; semantic_vad goes by the words alone", extra={"fetch": FETCH_COMMAND})
        return NoTurnJudge
    return TurnJudges(lambda: SmartTurn(path), place=thread_placement(settings.system.executor_cpu_affinity))


def silero_path(settings: Settings) -> Path | None:
    """Silero's weights; None when they are not used. Raises ModelsMissingError when they are absent."""
    return None if settings.turns.vad == "webrtcvad" else model_path(models_dir(settings), SILERO_VAD)


def _at_next_tick(flush: Callable[[], None]) -> None:
    """On the pacer's grid, so that voice detection wakes the process no more often than sending does."""
    loop = asyncio.get_running_loop()
    loop.call_at((loop.time() // TICK_SECONDS + 1) * TICK_SECONDS, flush)
