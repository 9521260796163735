"""The box itself: who is in which namespace, and that nothing of it stays."""

from __future__ import annotations

import socket
import subprocess

import pytest

from tests.support.namespaces import network, require_namespaces


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


def test_machines_reach_each_other_over_their_cable_and_nobody_else() -> None:
    with network() as net:
        server, phone = net.machine("server"), net.machine("phone")
        net.link(server, "10.99.0.1/24", phone, "10.99.0.2/24")
        with server.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbound:
            inbound.bind(("10.99.0.1", 5000))
            inbound.settimeout(5.0)
            with phone.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbound:
                outbound.sendto(b"hello", ("10.99.0.1", 5000))
            assert inbound.recv(100) == b"hello"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here, pytest.raises(OSError, match="assign"):
            here.bind(("10.99.0.1", 5000))


def test_processes_started_inside_belong_there() -> None:
    with network() as net:
        machine = net.machine("server")
        with machine.entered():
            inside = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        assert inside == machine.run("ip", "-o", "link")
        assert len(inside.splitlines()) == 1


def test_nothing_stays() -> None:
    with network() as net:
        name = net.machine("server").name
    assert name not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def test_a_command_that_fails_says_why() -> None:
    with network() as net, pytest.raises(AssertionError, match="nothere"):
        net.machine("server").ip("link", "set", "nothere", "up")
