"""`rtc-server cluster`: starts both applications on a Ray cluster, and takes down what it started."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation

from rtc_server import certs, logs
from rtc_server.errors import ConfigError, EngineError
from rtc_server.media.parts import silero_path

from .applications import controller, workers
from .messages import CONTROLLER_APP, NAMESPACE, WORKERS_APP, NodeState
from .options import ClusterOptions

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200 * 1024 * 1024  # of a local cluster: what crosses are turns of at most 1 MB
CLOSE_SECONDS = 30.0
CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """Where the cluster is, and where it listens."""

    address: str
    """Of Ray: "local" starts a cluster on this machine, "auto" finds the one that `ray start` started here."""
    host: str = "127.0.0.1"
    port: int = 21_001
    num_cpus: int | None = None
    """Of a local cluster; None = the machine's."""
    tls: bool = False


def run(options: ClusterOptions, address: ClusterAddress, on_ready: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code. Raises ConfigError and EngineError."""
    settings = options.load()
    if address.address == "local":
        silero_path(settings)  # raises here, before anything is started, when the model file is missing
    logs.configure(settings.logging)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _connect(address)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray has put its own in the place of ours
        signal.signal(number, lambda *_: stop.set())
    try:
        arguments = options.model_dump()
        tls = {}
        if address.tls:
            paths = certs.ensure_certificates(Path(settings.server.certs_dir))
            tls = {"ssl_certfile": str(paths.certificate), "ssl_keyfile": str(paths.private_key)}
        serve.start(
            proxy_location=ProxyLocation.HeadOnly if address.address == "local" else ProxyLocation.EveryNode,
            http_options=HTTPOptions(host=address.host, port=address.port, **tls),
        )
        try:
            serve.run(workers(arguments), name=WORKERS_APP, route_prefix=None)
            serve.run(controller(arguments), name=CONTROLLER_APP, route_prefix="/")
        except RuntimeError as error:  # what Serve says when an application does not become healthy
            raise EngineError("engine_load_failed", str(error)) from error
        _wait_for_nodes(options.media_nodes, stop)
        on_ready(
            f"rtc-server cluster ready: {'https' if address.tls else 'http'}://{address.host}:{address.port}  "
            f"(backend {settings.engine.backend}, {options.media_nodes} media nodes, "
            f"{options.min_workers} to {options.max_workers} workers)"
        )
        stop.wait()
    finally:
        _disconnect()
    return 0


def _connect(address: ClusterAddress) -> None:
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.WARNING}
    if address.address == "local":
        # Ray lowers its workers' priority, for work that has time; ours plays sound every 20 ms.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, num_cpus=address.num_cpus, **common)
        return
    try:
        _reach(address.address)
        ray.init(address=address.address, **common)
    except OSError as error:
        raise ConfigError(
            f"There is no Ray cluster at {address.address!r}: {error}. Start one with `ray start --head`, or leave "
            "--address out for one of this machine alone."
        ) from error


def _reach(address: str) -> None:
    """Ray itself tries for minutes, and logs. Raises OSError."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _wait_for_nodes(num: int, stop: threading.Event) -> None:
    """Until every media node takes calls, or the first ones would all go to the first node."""
    nodes = [ray.get_actor(f"media-{index}", NAMESPACE) for index in range(num)]
    while not stop.wait(POLL_SECONDS):
        states: list[NodeState] = ray.get([node.state.remote() for node in nodes])
        if all(state.is_ready for state in states):
            return


def _disconnect() -> None:
    """Calls end in order, then the workers and what else was started here; a cluster of others goes on."""
    actors = [a for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == NAMESPACE]
    found = {a["name"]: ray.get_actor(a["name"], NAMESPACE) for a in actors}
    with contextlib.suppress(RayError):
        serve.delete(CONTROLLER_APP)
    closing: list[Any] = [actor.close.remote() for name, actor in found.items() if name.startswith("media-")]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
    for actor in found.values():
        ray.kill(actor)
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
