"""What an engine is doing reaches the metrics and the server as numbers, seldom enough to cost nothing."""

from __future__ import annotations

import numpy as np
import pytest

from model.backends.echo import EchoEngine
from model.interface import AudioDelta, CacheUse, EngineLoad, GenerateRequest
from rtc_server import metrics
from rtc_server.inference.meter import EngineMeter


class Engine(EchoEngine):
    """Says what the test tells it to say."""

    told = EngineLoad()

    def load(self) -> EngineLoad:
        return self.told


def value(name: str, **labels: str) -> float:
    found = metrics.REGISTRY.get_sample_value(name, labels)
    return 0.0 if found is None else found


def sound(seconds: float) -> AudioDelta:
    return AudioDelta("resp", np.zeros(int(16_000 * seconds), np.int16), None, 0.0)


def test_compute_seconds_per_second_of_audio() -> None:
    engine = Engine()
    meter = EngineMeter(engine, 8)
    before = value("rtc_server_engine_compute_seconds_total"), value("rtc_server_engine_audio_seconds_total")
    meter.stepped(0.1, [sound(0.5)])
    meter.stepped(0.1, [sound(0.5)])
    report = meter.report(10.0, 1, 0, is_idle=False)
    assert report is not None
    assert report.real_time_factor == pytest.approx(0.2)
    assert value("rtc_server_engine_compute_seconds_total") - before[0] == pytest.approx(0.2)
    assert value("rtc_server_engine_audio_seconds_total") - before[1] == pytest.approx(1.0)
    assert value("rtc_server_engine_real_time_factor_ratio") == pytest.approx(0.2)
    assert value("rtc_server_engine_max_responses") == 8


def test_an_engine_with_threads_tells_its_own_compute_time() -> None:
    engine = Engine()
    meter = EngineMeter(engine, 8)
    engine.told = EngineLoad(compute_seconds=1.5)
    meter.stepped(0.001, [sound(3.0)])
    report = meter.report(10.0, 1, 0, is_idle=False)
    assert report is not None
    assert report.real_time_factor == pytest.approx(0.5)


def test_reports_are_a_second_apart_and_the_last_one_is_true() -> None:
    engine = Engine()
    meter = EngineMeter(engine, 8)
    times = []
    for step in range(300):
        now = 100.0 + step / 100
        meter.stepped(0.001, [])
        if meter.report(now, 1, 0, is_idle=False) is not None:
            times.append(now)
    assert times == pytest.approx([100.0, 101.0, 102.0], abs=0.02)
    assert meter.report(103.0, 0, 0, is_idle=True) is not None
    assert meter.report(110.0, 0, 0, is_idle=True) is None, "nothing happened since"


def test_batches_caches_and_queues_become_metrics() -> None:
    engine = Engine()
    meter = EngineMeter(engine, 8)
    count = "rtc_server_engine_batch_responses_count"
    before = value(count)
    engine.told = EngineLoad(3, 2, (CacheUse("text", 7, 100), CacheUse("speech", 9, 50)), {1: 4, 3: 2})
    meter.stepped(0.01, [])
    meter.report(1.0, 5, 123, is_idle=False)
    engine.told = EngineLoad(3, 2, engine.told.caches, {1: 5, 3: 2})
    meter.stepped(0.01, [])
    meter.report(3.0, 5, 123, is_idle=False)
    assert value(count) - before == 7
    assert value("rtc_server_engine_responses", state="running") == 3
    assert value("rtc_server_engine_responses", state="waiting") == 2
    assert value("rtc_server_engine_cache_used_blocks", cache="speech") == 9
    assert value("rtc_server_engine_cache_blocks", cache="text") == 100
    assert value("rtc_server_engine_unread_bytes") == 123


def test_echo_tells_what_waits() -> None:
    engine = EchoEngine()
    audio = np.zeros(16_000, np.int16)
    for number in range(70):
        engine.submit(GenerateRequest("call", f"resp_{number}", "turn", (), audio, audio_credit_ms=200))
    engine.step(0.0)
    load = engine.load()
    assert (load.running, load.waiting) == (64, 6)
    assert dict(load.passes) == {64: 1}
