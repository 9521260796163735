"""Messages between the signaling process and a media worker, framed as on the engine's socket (`inference.wire`).

Pickle is safe here: both ends of the socket pair belong to this server, and nothing from the network is unpickled
before it was validated and turned into one of these dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtc_server import errors
from rtc_server.config import Settings
from rtc_server.errors import ApiError, RetryableError


@dataclass(frozen=True, slots=True)
class ConfigureWorker:
    """First message to a worker."""

    settings: Settings
    index: int
    engine_path: str
    """The engine's Unix-domain socket."""


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """The worker's engine connection came or went, a call ended, or a second is over in which replies were played."""

    is_ready: bool
    ended: tuple[str, ...] = ()
    """Calls that are over."""
    underruns: int = 0
    """As in `NodeLoad`."""
    played_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SnapshotChanged:
    """A session as it stands, for the store (`calls.snapshot_timer.SaveSnapshot`)."""

    key: str
    owner: tuple[str, ...]
    data: bytes | None
    """None: it is over for good."""


@dataclass(frozen=True, slots=True)
class Request:
    """Call `method` of the worker's node with `arguments`."""

    number: int
    method: str
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a request, or what went wrong."""

    number: int
    result: object = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ChannelData:
    """One message on a channel, in either direction. Channels are numbered by signaling."""

    channel: int
    data: str | bytes


@dataclass(frozen=True, slots=True)
class ChannelRead:
    """The other side is done with a message: the call has worked on it (`size` is its weight), or it has reached the
    client (its length)."""

    channel: int
    size: int


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel is over. From signaling: the client is gone. From a worker: with the close code for the client."""

    channel: int
    code: int = 1000
    reason: str = ""
    is_lost: bool = False
    """From signaling: the client did not say that it goes."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that can be sent."""

    kind: str
    """Class name in `rtc_server.errors`; "" for a bug."""
    message: str
    param: str | None = None
    retry_after: int | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What another process has to know of `error`."""
        if isinstance(error, RetryableError):
            return cls(type(error).__name__, error.message, error.param, error.retry_after)
        if isinstance(error, ApiError):
            return cls(type(error).__name__, error.message, error.param)
        return cls("", f"{type(error).__name__} in a media worker")

    def error(self) -> Exception:
        """The same error again, for the process that asked."""
        kind = getattr(errors, self.kind, None) if self.kind else None
        if not (isinstance(kind, type) and issubclass(kind, ApiError)):
            return RuntimeError(self.message)
        if not issubclass(kind, RetryableError):
            return kind(self.message, param=self.param)
        if kind is errors.NetworkError:
            return errors.NetworkError(self.message)
        return kind(self.message, retry_after=self.retry_after or 1)
