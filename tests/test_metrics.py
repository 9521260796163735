"""What every metric must be: named by its unit, explained, and of few series whatever callers do."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from rtc_server import errors, metrics, process_metrics
from rtc_server.calls.turn_records import STAGES
from rtc_server.errors import ApiError

UNITS = ("_seconds", "_bytes", "_ratio")
COUNTED = (
    *("calls", "started", "ended", "refused", "responses", "speculations", "interruptions", "frames", "underruns"),
    *("restarts", "packets", "packets_in", "packets_out", "blocks", "tasks", "threads", "fds", "ready", "dropped"),
    *("resumed", "recordings", "failures", "webhooks", "legs", "credentials"),
)
"""What metrics without a unit of measure count."""
METRICS = {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_is_named_by_its_unit_and_explained(metric: Any) -> None:
    name = metric._name
    assert name.startswith("rtc_server_")
    assert name.endswith((*UNITS, *COUNTED)), f"{name} names neither its unit nor what it counts"
    assert len(metric._documentation) > 10
    assert metric._documentation.endswith(".")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_labels_are_from_fixed_sets(metric: Any) -> None:
    for label in metric._labelnames:
        assert label == "gpu" or label in metrics.LABELS
    values = 1
    for label in metric._labelnames:
        values *= len(metrics.LABELS.get(label, range(8)))
    assert values <= 40, "too many series"


def test_every_series_that_there_is_has_a_known_label() -> None:
    """Over whatever the tests before this one did."""
    for family in metrics.REGISTRY.collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in ("le", "gpu") or value in metrics.LABELS[label], (sample.name, label, value)


def test_every_refusal_and_every_stage_has_a_series_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApiError)]
    missing = {kind.code for kind in kinds} - metrics.LABELS["code"]
    assert missing == set(), "add these to metrics.LABELS"
    assert set(STAGES) < metrics.LABELS["stage"]


def test_what_nobody_foresaw_is_counted_as_other() -> None:
    assert metrics.bounded("reason", "hangup") == "hangup"
    assert metrics.bounded("reason", "Robert'); DROP TABLE calls") == "other"


def test_the_buckets_have_an_edge_at_every_target() -> None:
    def edges(histogram: Any) -> list[float]:
        return list(histogram._upper_bounds)

    assert {0.05, 0.15, 0.2, 0.5} <= set(edges(metrics.TURN_STAGE))
    assert {0.3, 0.5} <= set(edges(metrics.RESPONSE_LATENCY))
    assert 0.05 in edges(metrics.RTP_ROUND_TRIP)
    assert 0.02 in edges(metrics.PLAYOUT_LATENESS)


def test_the_names_that_stand_for_one_process_exist() -> None:
    assert {metric._name for metric in METRICS.values()} >= set(metrics.OF_PROCESS)


async def test_the_page_tells_this_process() -> None:
    page = process_metrics.page().decode()
    values = dict(line.split(" ") for line in page.splitlines() if line and line[0] != "#" and "{" not in line)
    assert float(values["rtc_server_rss_bytes"]) > 10e6
    assert 3 <= float(values["rtc_server_open_fds"]) < float(values["rtc_server_max_fds"])
    assert float(values["rtc_server_threads"]) >= 1
    assert float(values["rtc_server_asyncio_tasks"]) >= 1
    assert float(values["rtc_server_cpu_seconds_total"]) > 0


def test_a_process_without_an_event_loop_has_a_page_too() -> None:
    assert b"rtc_server_asyncio_tasks 0.0" in process_metrics.page()


async def test_a_loop_that_was_held_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_metrics, "LAG_INTERVAL_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    lags: list[float] = []

    class Probe:
        def observe(self, lag: float) -> None:
            lags.append(lag)
            seen.set()

    monkeypatch.setattr(metrics, "LOOP_LAG", Probe())
    with process_metrics.watching_loop():
        held_until = loop.time() + 0.1
        while loop.time() < held_until:
            pass  # what a bug would do
        await asyncio.wait_for(seen.wait(), 5)
    assert lags[0] >= 0.08


def test_without_a_gpu_there_are_no_series_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")

    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    process_metrics.sample_gpus()
    assert next(iter(metrics.GPU_MEMORY.collect())).samples == []


def test_a_gpu_tells_its_memory_and_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's library is all that is not real here: no GPU, no library."""
    pynvml = pytest.importorskip("pynvml")
    for name, answer in {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": object(),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 << 30, total=80 << 30),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42),
    }.items():
        monkeypatch.setattr(pynvml, name, lambda *arguments, answer=answer: answer)
    try:
        process_metrics.sample_gpus()
        page = metrics.exposition().decode()
        assert 'rtc_server_gpu_memory_used_bytes{gpu="0"} 3.221225472e+09' in page
        assert 'rtc_server_gpu_utilisation_ratio{gpu="0"} 0.42' in page
    finally:
        for gauge in (metrics.GPU_MEMORY, metrics.GPU_MEMORY_USED, metrics.GPU_UTILISATION):
            gauge.clear()
