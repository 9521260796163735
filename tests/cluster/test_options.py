"""What the nodes of a cluster differ in from a server alone; without Ray."""

from __future__ import annotations

import pytest

from rtc_server.config import load_settings
from rtc_server.errors import ConfigError
from rtc_server.inference.ray.options import ClusterOptions, node_settings


@pytest.mark.parametrize(("workers", "ports"), [(0, [50_000, 50_001]), (1, [50_000, 50_001]), (3, [50_000, 50_003])])
def test_nodes_on_one_machine_have_udp_ports_of_their_own(workers: int, ports: list[int]) -> None:
    settings = load_settings(None, {"webrtc.udp_port": 50_000, "server.media_workers": workers})
    assert [node_settings(settings, index, []).webrtc.udp_port for index in range(2)] == ports
    assert node_settings(load_settings(None, {}), 1, []).webrtc.udp_port == 0


def test_ports_that_do_not_exist_are_refused() -> None:
    options = ClusterOptions.of({"media_nodes": 4, "settings": {"webrtc.udp_port": 65_533}})
    with pytest.raises(ConfigError, match=r"webrtc\.udp_port = 65533 leaves no room for the 4 ports"):
        options.load()


def test_a_node_listens_for_the_controller_alone() -> None:
    server = node_settings(load_settings(None, {"server.tls": True, "server.realtime_port": 8765}), 0, []).server
    assert (server.http_port, server.tls, server.realtime_port) == (0, False, 0)


def test_who_needs_a_key_needs_it_behind_the_controller_too() -> None:
    open_to_all = {"server.host": "0.0.0.0", "auth.insecure_no_auth": True}
    limited = node_settings(load_settings(None, open_to_all), 0, ["192.0.2.7", "127.0.0.1"])
    assert limited.limits == load_settings(None, {}).limits
    assert limited.auth.trusted_proxies == ("127.0.0.1", "::1", "192.0.2.7"), "the controller tells who asks"
    here = node_settings(load_settings(None, {}), 0, [])
    assert here.auth.insecure_no_auth
