"""What an engine host knows of its engine's work: its metrics, and the report that the server gets once a second."""

from __future__ import annotations

from collections.abc import Sequence

from model.interface import AudioDelta, EngineEvent, EngineLoad, ReportsLoad, SpeechEngine
from rtc_server import metrics

from .wire import EngineReport

REPORT_SECONDS = 1.0
"""At most one report in so long; one more when the engine comes to rest."""

_STATES = {state: metrics.ENGINE_RESPONSES.labels(state) for state in ("running", "waiting")}


class EngineMeter:
    """Belongs to one engine, on its thread. `now` and all durations are seconds."""

    def __init__(self, engine: SpeechEngine, max_responses: int) -> None:
        self._engine = engine
        self._sample_rate = engine.info.sample_rate
        self._reported_at = 0.0
        self._is_stale = True
        self._step_seconds = 0.0
        self._audio_seconds = 0.0
        self._passes: dict[int, int] = {}
        self._counted_compute = self._counted_audio = 0.0
        metrics.ENGINE_MAX_RESPONSES.set(max_responses)

    def stepped(self, seconds: float, events: Sequence[EngineEvent]) -> None:
        """A step that had work took so long, and these came of it."""
        self._is_stale = True
        self._step_seconds += seconds
        metrics.ENGINE_STEP.observe(seconds)
        for event in events:
            if isinstance(event, AudioDelta):
                self._audio_seconds += len(event.pcm) / self._sample_rate

    def report(self, now: float, num_responses: int, unread_bytes: int, *, is_idle: bool) -> EngineReport | None:
        """None while the last report is recent, or still true."""
        if not self._is_stale or (now - self._reported_at < REPORT_SECONDS and not is_idle):
            return None
        self._is_stale = False
        self._reported_at = now
        engine = self._engine
        load = engine.load() if isinstance(engine, ReportsLoad) else EngineLoad(running=num_responses)
        _STATES["running"].set(load.running)
        _STATES["waiting"].set(load.waiting)
        metrics.ENGINE_UNREAD.set(unread_bytes)
        for size, count in load.passes.items():
            for _ in range(count - self._passes.get(size, 0)):
                metrics.ENGINE_BATCH.observe(size)
        self._passes = dict(load.passes)
        for cache in load.caches:
            metrics.ENGINE_CACHE_USED.labels(cache.name).set(cache.used_blocks)
            metrics.ENGINE_CACHE_BLOCKS.labels(cache.name).set(cache.blocks)
        return EngineReport(load, self._real_time_factor(load))

    def _real_time_factor(self, load: EngineLoad) -> float | None:
        """Compute seconds per second of audio since the last report that had any."""
        compute_seconds = self._step_seconds if load.compute_seconds is None else load.compute_seconds
        compute, audio = compute_seconds - self._counted_compute, self._audio_seconds - self._counted_audio
        if not audio:
            return None
        metrics.ENGINE_COMPUTE_SECONDS.inc(max(0.0, compute))
        metrics.ENGINE_AUDIO_SECONDS.inc(audio)
        self._counted_compute, self._counted_audio = compute_seconds, self._audio_seconds
        metrics.ENGINE_REAL_TIME_FACTOR.set(compute / audio)
        return compute / audio
