"""A carrier's address translation that forgets a phone, and gives it another address in mid-call.

phone (10.1.0.2) ---- carrier (10.2.0.2, then 10.2.0.3) ---- server (10.2.0.1)
"""

from __future__ import annotations

from pathlib import Path

from tests.support.forwarding import forwarded
from tests.support.namespaces import network, require_namespaces
from tests.support.phone import phone, phone_files
from tests.support.server_process import server_process

SERVER, FIRST, SECOND = "10.2.0.1", "10.2.0.2/24", "10.2.0.3/24"


def test_a_phone_that_comes_from_another_address_keeps_its_call(tmp_path: Path) -> None:
    """Its next check comes from there, and media follows; if that took 1.2 s, an ICE restart would help."""
    require_namespaces("iptables", "sysctl")
    files = phone_files(tmp_path)
    with network() as net:
        server, carrier, client = net.machine("server"), net.machine("carrier"), net.machine("phone")
        net.link(client, "10.1.0.2/24", carrier, "10.1.0.1/24")
        outside, _ = net.link(carrier, FIRST, server, f"{SERVER}/24")
        carrier.ip("addr", "add", SECOND, "dev", outside)
        client.ip("route", "add", "default", "via", "10.1.0.1")
        carrier.run("sysctl", "-w", "net.ipv4.ip_forward=1", f"net.ipv4.conf.{outside}.promote_secondaries=1")
        carrier.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", outside, "-j", "MASQUERADE")
        settings = {"webrtc.host_addresses": [SERVER], "turns.vad": "webrtcvad"}
        with server.entered(), server_process("echo", settings) as running:
            port = int(running.url.rpartition(":")[2])
            with forwarded((SERVER, 8_000), ("127.0.0.1", port)):
                with client.entered(), phone(files, f"http://{SERVER}:8000") as caller:
                    caller.do("start")
                    before = caller.do("report")
                    carrier.ip("addr", "del", FIRST, "dev", outside)  # and with it what was translated to it
                    caller.do("packet")
                    caller.write("Am I still there?")
                    caller.do("event", type="response.done", count=1)
                    after = caller.do("report")
                running.wait_for_calls(0)
    assert after["url"] == before["url"]
    assert after["state"] == "live"
