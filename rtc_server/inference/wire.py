"""Messages between the server and an engine host, and their framing on a private socket pair.

A frame is a 4-byte big-endian length followed by one pickled message (protocol 5, so PCM is one memcpy;
half a second of PCM costs about 0.1 ms both ways). Pickle is safe here and only here: both ends of the
socket pair belong to this server, and nothing from the network is ever unpickled.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from model.interface import EngineEvent, EngineInfo, EngineLoad, GenerateRequest
from rtc_server.logs import LogStyle
from rtc_server.tracing import TraceStyle

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 64 * 1024 * 1024  # far above a 30 s turn (1 MB) with a long history; a corrupt length stops here


@dataclass(frozen=True, slots=True)
class Configure:
    """First message to a host: which engine to build and how to run it."""

    backend: str
    options: Mapping[str, object]
    nice: int = 0
    cpu_affinity: tuple[int, ...] = ()
    max_pending: int = 64
    listen_path: str | None = None
    huge_pages: bool = True
    log_style: LogStyle = field(default_factory=LogStyle)
    step_timeout_seconds: float = 60.0
    trace_style: TraceStyle = field(default_factory=TraceStyle)


@dataclass(frozen=True, slots=True)
class Submit:
    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    response_id: str


@dataclass(frozen=True, slots=True)
class Grant:
    response_id: str
    audio_ms: int


@dataclass(frozen=True, slots=True)
class Release:
    response_id: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with `Pong` between two steps."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Close the engine and leave."""


@dataclass(frozen=True, slots=True)
class AskMetrics:
    """Answer with `HostMetrics`, before the next step."""


Command: TypeAlias = Configure | Submit | Cancel | Grant | Release | Ping | AskMetrics | Shutdown


@dataclass(frozen=True, slots=True)
class EngineReady:
    """The engine is loaded and warm."""

    info: EngineInfo
    load_seconds: float


@dataclass(frozen=True, slots=True)
class EngineUnavailable:
    """The engine could not be built; the host ends after this."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The engine's loop turns."""


@dataclass(frozen=True, slots=True)
class EngineEvents:
    events: tuple[EngineEvent, ...]


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What the engine is doing, for its supervisor."""

    load: EngineLoad
    real_time_factor: float | None
    """Compute seconds per second of audio generated; None where none was lately."""


@dataclass(frozen=True, slots=True)
class HostMetrics:
    """The host's process in Prometheus text format; empty when it is the supervisor's own."""

    page: bytes


Report: TypeAlias = EngineReady | EngineUnavailable | EngineEvents | EngineReport | HostMetrics | Pong


def encode(message: object) -> bytes:
    """One framed message."""
    body = pickle.dumps(message, protocol=5)
    return HEADER.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages. Feed bytes of any length; complete messages come back in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[object]:
        """Raises ValueError when a frame announces more than MAX_FRAME_BYTES."""
        self._buffer += data
        messages: list[object] = []
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"frame of {length} bytes exceeds the limit of {MAX_FRAME_BYTES}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            messages.append(pickle.loads(memoryview(self._buffer)[HEADER.size : end].tobytes()))
            del self._buffer[:end]
        return messages
