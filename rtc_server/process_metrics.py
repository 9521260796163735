"""What is read rather than counted: this process's memory, files, threads and CPU time, how late its event loop is, and
the machine's GPUs. The metrics themselves are declared in `metrics`."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from rtc_server import metrics

LAG_INTERVAL_SECONDS = 0.5

_counted_cpu_seconds = 0.0


def page() -> bytes:
    """This process's metrics in Prometheus text format, its own figures read now."""
    global _counted_cpu_seconds
    process = psutil.Process()
    with process.oneshot():
        times = process.cpu_times()
        metrics.THREADS.set(process.num_threads())
        metrics.RSS_BYTES.set(process.memory_info().rss)
    metrics.OPEN_FILES.set(process.num_fds())
    metrics.MAX_FILES.set(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    cpu_seconds = times.user + times.system
    metrics.CPU_SECONDS.inc(max(0.0, cpu_seconds - _counted_cpu_seconds))
    _counted_cpu_seconds = cpu_seconds
    try:
        metrics.ASYNCIO_TASKS.set(len(asyncio.all_tasks()))
    except RuntimeError:  # the engine's process has no event loop
        metrics.ASYNCIO_TASKS.set(0)
    return metrics.exposition()


class LoopLag:
    """Observes how late this event loop runs its timers: one timer, from `start` to `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._loop.call_later(LAG_INTERVAL_SECONDS, self._observe)

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _observe(self) -> None:
        assert self._timer is not None
        metrics.LOOP_LAG.observe(max(0.0, self._loop.time() - self._timer.when()))
        self.start()


@contextmanager
def watching_loop() -> Iterator[None]:
    """`LoopLag` on the running loop."""
    lag = LoopLag()
    lag.start()
    try:
        yield
    finally:
        lag.stop()


def sample_gpus() -> None:
    """Read memory and utilisation of NVIDIA's GPUs. Where there is none, or nvidia-ml-py is not installed, there are no
    series. Takes milliseconds: not for an event loop."""
    try:
        import pynvml
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
            metrics.GPU_MEMORY_USED.labels(str(index)).set(memory.used)
            metrics.GPU_MEMORY.labels(str(index)).set(memory.total)
            rates = pynvml.nvmlDeviceGetUtilizationRates(device)
            metrics.GPU_UTILISATION.labels(str(index)).set(rates.gpu / 100)
    except pynvml.NVMLError:  # a GPU that is lost, or shares (MIG) that do not tell: what is known stands
        return
    finally:
        pynvml.nvmlShutdown()
