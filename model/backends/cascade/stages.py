"""Worker threads of the cascade: one queue of jobs per stage, results handed to the engine's thread.

A worker owns no state of a response; it computes what a job asks for and reports. Queues hold at most one job
per live response, and the engine bounds those.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Job(Protocol):
    """What every stage needs to know about its work."""

    @property
    def is_cancelled(self) -> bool: ...


JobT = TypeVar("JobT", bound=Job)


class Stage(Generic[JobT]):
    """`threads` threads named `name` that run jobs in order, urgent ones first."""

    def __init__(
        self,
        name: str,
        threads: int,
        run: Callable[[JobT], None],
        on_failure: Callable[[JobT, str, Exception], None],
    ) -> None:
        self._name = name
        self._run = run
        self._on_failure = on_failure
        self._urgent: deque[JobT] = deque()
        self._jobs: deque[JobT] = deque()
        self._is_closed = False
        self._busy_seconds = 0.0
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{index}", daemon=True) for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: JobT, *, is_urgent: bool = False) -> None:
        """Queue a job; urgent jobs overtake the others."""
        with self._changed:
            (self._urgent if is_urgent else self._jobs).append(job)
            self._changed.notify()

    def drop_cancelled(self) -> None:
        """Forget cancelled jobs that wait; those that run must look for themselves."""
        with self._changed:
            for queue in (self._urgent, self._jobs):
                waiting = [job for job in queue if not job.is_cancelled]
                queue.clear()
                queue.extend(waiting)

    @property
    def busy_seconds(self) -> float:
        """How long its threads worked on jobs, together."""
        with self._changed:
            return self._busy_seconds

    @property
    def num_waiting(self) -> int:
        """Jobs that no thread has taken yet."""
        with self._changed:
            return len(self._urgent) + len(self._jobs)

    def close(self) -> None:
        """Drop waiting jobs and wait for the running ones, which must have been cancelled."""
        with self._changed:
            self._is_closed = True
            self._urgent.clear()
            self._jobs.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _next(self) -> JobT | None:
        with self._changed:
            while not (self._is_closed or self._urgent or self._jobs):
                self._changed.wait()
            if self._is_closed:
                return None
            return (self._urgent or self._jobs).popleft()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if job.is_cancelled:
                continue
            begun = time.monotonic()
            try:
                self._run(job)
            except Exception as error:  # whatever a model raises ends this response only; the engine reports it
                self._on_failure(job, self._name, error)
            finally:
                with self._changed:
                    self._busy_seconds += time.monotonic() - begun
            del job  # a waiting worker must not keep a turn's audio alive
