"""What crosses between the parts of a cluster, beside the engine's own events; and their names in Ray."""

from __future__ import annotations

from dataclasses import dataclass

from model.interface import EngineEvent, EngineInfo

NAMESPACE = "rtc-server"
"""Ray namespace of the named actors."""
WORKERS_APP, WORKERS = "rtc-server-workers", "EngineWorker"
"""Serve application and deployment of the model workers."""
CONTROLLER_APP, CONTROLLER = "rtc-server", "Controller"


@dataclass(frozen=True, slots=True)
class WorkerDescription:
    """A warm worker."""

    info: EngineInfo
    load_seconds: float


@dataclass(frozen=True, slots=True)
class WorkerEvents:
    """Events of one response, in order. The first message of a response has none: it only says who makes it."""

    worker_id: str
    machine: str
    """Ray's id of the machine; `time.monotonic` is comparable only on the same one."""
    sent_at: float
    """The worker's `time.monotonic` when it was sent."""
    events: tuple[EngineEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeState:
    """A media node, as it says itself."""

    name: str
    url: str
    """Its own HTTP address, for the controller; without a slash at the end; "" = it does not listen yet."""
    calls: int
    max_calls: int
    is_ready: bool
