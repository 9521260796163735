"""How large a cluster is and how it scales: the arguments of both applications. Ray is not needed to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.registry import UnknownBackendError, backend_names
from rtc_server.config import Settings, load_settings
from rtc_server.errors import ConfigError
from rtc_server.exposure import exposure

LAST_PORT = 65_535


class ClusterOptions(BaseModel):
    """Arguments of both applications; give both the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = None
    """Settings file; None = as `rtc-server serve` finds it."""
    settings: dict[str, Any] = {}
    """Settings by dotted name, before the file's: {"engine.backend": "opens2s"}."""
    media_nodes: int = Field(2, ge=1, le=1_000)
    """Actors that carry calls, spread over the machines."""
    controllers: int = Field(1, ge=1, le=100)
    """Replicas of the controller."""
    min_workers: int = Field(1, ge=1, le=10_000)
    max_workers: int = Field(1, ge=1, le=10_000)
    """Bounds between which Serve scales the model workers."""
    responses_per_worker: float = Field(8.0, gt=0.0, le=1_000.0)
    """Responses being made, on average, above which there should be more workers."""
    scale_up_seconds: float = Field(10.0, ge=0.0, le=3_600.0)
    """For how long more workers must be wanted."""
    scale_down_seconds: float = Field(300.0, ge=0.0, le=86_400.0)
    """For how long fewer must be; a worker that goes loses its prefix cache, and loading another takes minutes."""
    drain_seconds: float = Field(60.0, ge=0.0, le=3_600.0)
    """What a worker that is scaled away has to finish the responses that it makes."""
    worker_cpus: float = Field(1.0, ge=0.0, le=1_024.0)
    """CPUs that Ray sets aside for each worker."""
    worker_gpus: float = Field(0.0, ge=0.0, le=16.0)
    """GPUs of each worker: 1 for opens2s."""
    page_port: int | None = Field(21_002, ge=0, le=65_535)
    """Port on each machine for the workers' status and metrics; None = no page."""

    @model_validator(mode="after")
    def _bounds(self) -> ClusterOptions:
        if self.max_workers < self.min_workers:
            raise ValueError(f"max_workers {self.max_workers} is less than min_workers {self.min_workers}")
        return self

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> ClusterOptions:
        """Raises ConfigError."""
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "the arguments"
            raise ConfigError(f"{name}: {first['msg']}.") from error

    def load(self) -> Settings:
        """The settings of every process of the cluster. Raises ConfigError, too, where the first process would fail."""
        settings = load_settings(self.config, self.settings)
        exposure(settings)
        num_ports = self.media_nodes * max(1, settings.server.media_workers)
        if settings.webrtc.udp_port and settings.webrtc.udp_port + num_ports - 1 > LAST_PORT:
            raise ConfigError(
                f"webrtc.udp_port = {settings.webrtc.udp_port} leaves no room for the {num_ports} ports of the media "
                f"nodes below {LAST_PORT}; give a lower one, or 0 for free ports."
            )
        if settings.engine.backend not in backend_names():
            raise ConfigError(str(UnknownBackendError(settings.engine.backend)))
        return settings


def node_settings(settings: Settings, index: int, machines: Sequence[str]) -> Settings:
    """Those of the media node of that number. It listens on a free port, without TLS, for the controller, which runs on
    one of the `machines` (addresses) and tells who asks; where
    `webrtc.udp_port` is given each node has the next ones, as several may be on a machine. A server that is open to its
    own machine is open to what such a controller lets in, and as little limited."""
    server = settings.server.model_copy(update={"http_port": 0, "tls": False, "realtime_port": 0})
    proxies = dict.fromkeys((*settings.auth.trusted_proxies, *machines))
    auth, limits = settings.auth.model_copy(update={"trusted_proxies": tuple(proxies)}), settings.limits
    if exposure(settings) == "this machine":
        auth = auth.model_copy(update={"insecure_no_auth": True, "public_metrics": True})
        limits = limits.model_copy(
            update={"calls_per_address": 0, "address_requests_per_minute": 1e6, "address_burst": 100_000}
        )
    webrtc = settings.webrtc
    if webrtc.udp_port:
        offset = index * max(1, settings.server.media_workers)
        webrtc = webrtc.model_copy(update={"udp_port": webrtc.udp_port + offset})
    return settings.model_copy(update={"server": server, "auth": auth, "limits": limits, "webrtc": webrtc})
