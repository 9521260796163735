"""A client with two ways to a server, in a box: what happens when one of them goes.

client (10.99.0.2 "wifi", 10.97.0.2 "lte") ==== server (10.96.0.1, reached over both)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.browser.chromium import FLAGS
from tests.support.forwarding import forwarded
from tests.support.namespaces import Namespace, network
from tests.support.server_process import ServerProcess, server_process

SERVER, PAGE_PORT = "10.96.0.1", 8000
PAGE = f"http://{SERVER}:{PAGE_PORT}"
PAGE_FLAGS = (
    *(flag for flag in FLAGS if not flag.startswith("--host-resolver-rules")),
    f"--unsafely-treat-insecure-origin-as-secure={PAGE}",
)
"""For Chromium: a microphone for that page."""


@dataclass(frozen=True, slots=True)
class TwoNetworks:
    """See the module's docstring. The server is at `PAGE` for the client."""

    server: ServerProcess
    client: Namespace
    wifi: str
    """The client's interface that goes."""

    def leave_the_wifi(self) -> None:
        self.client.ip("link", "set", self.wifi, "down")

    def come_back(self) -> None:
        self.client.ip("link", "set", self.wifi, "up")
        self.client.ip("route", "replace", SERVER, "via", "10.99.0.1", "metric", "10")


@contextmanager
def two_networks(backend: str) -> Iterator[TwoNetworks]:
    """The box with a warm server; needs root (`require_namespaces`)."""
    with network() as net:
        at_server, client = net.machine("server"), net.machine("client")
        wifi, _ = net.link(client, "10.99.0.2/24", at_server, "10.99.0.1/24")
        net.link(client, "10.97.0.2/24", at_server, "10.97.0.1/24")
        at_server.ip("addr", "add", f"{SERVER}/32", "dev", "lo")
        client.ip("route", "add", SERVER, "via", "10.99.0.1", "metric", "10")
        client.ip("route", "add", SERVER, "via", "10.97.0.1", "metric", "20")
        with at_server.entered(), server_process(backend, {"webrtc.host_addresses": [SERVER]}) as server:
            port = int(server.url.rpartition(":")[2])
            with forwarded((SERVER, PAGE_PORT), ("127.0.0.1", port)):
                yield TwoNetworks(server, client, wifi)
