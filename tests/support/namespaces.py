"""Machines in a box: network namespaces joined by veth pairs, for tests that need real addresses and links.

The calling thread enters a namespace with `entered()`; sockets that it makes and processes that it starts meanwhile
belong there. Needs root (`require_namespaces` skips without).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CLONE_NEWNET = 0x4000_0000
OWN_NAMESPACE = "/proc/thread-self/ns/net"
NAMESPACES = Path("/run/netns")
COMMAND_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Namespace:
    """One machine. Its name is unique on this computer."""

    name: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is on that machine meanwhile. Sockets keep the namespace they were made in."""
        with open(OWN_NAMESPACE, "rb") as before:
            _set_namespace(str(NAMESPACES / self.name))
            try:
                yield
            finally:
                _set_namespace(before)

    def ip(self, *arguments: str) -> None:
        """`ip` there, such as `ip("link", "set", "eth0", "down")`. Raises AssertionError with what it printed."""
        _ip("-n", self.name, *arguments)

    def run(self, *command: str, timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> str:
        """A command there; its standard output. Raises AssertionError when it fails."""
        return _run("ip", "netns", "exec", self.name, *command, timeout_seconds=timeout_seconds)


class Network:
    """Machines and the cables between them; all are gone after `network()`."""

    def __init__(self) -> None:
        self._suffix = uuid.uuid4().hex[:6]
        self._cleanup = ExitStack()
        self._num_links = 0

    def machine(self, name: str) -> Namespace:
        """A new machine with a loopback interface and nothing else."""
        namespace = Namespace(f"{name}-{self._suffix}")
        _ip("netns", "add", namespace.name)
        self._cleanup.callback(_ip, "netns", "del", namespace.name)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def link(self, one: Namespace, address: str, other: Namespace, other_address: str) -> tuple[str, str]:
        """A cable with an address such as "10.99.0.1/24" at either end. Returns the names of both interfaces."""
        names = [f"v{self._suffix}{self._num_links}{end}" for end in "ab"]
        self._num_links += 1
        _ip("link", "add", names[0], "netns", one.name, "type", "veth", "peer", "name", names[1], "netns", other.name)
        for machine, name, its_address in zip((one, other), names, (address, other_address), strict=True):
            machine.ip("addr", "add", its_address, "dev", name)
            machine.ip("link", "set", name, "up")
        return names[0], names[1]

    def close(self) -> None:
        """Remove all of it. Whatever still runs in there keeps its namespace until it ends."""
        self._cleanup.close()


@contextmanager
def network() -> Iterator[Network]:
    """`with network() as net: server, phone = net.machine("server"), net.machine("phone")`."""
    net = Network()
    try:
        yield net
    finally:
        net.close()


def require_namespaces(*programs: str) -> None:
    """Skip the test, saying why, where namespaces cannot be made or one of `programs` is not installed."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    missing = [program for program in ("ip", *programs) if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (scripts/setup.sh --test as root installs it)")
    probe = Namespace(f"probe-{uuid.uuid4().hex[:6]}")
    try:
        _ip("netns", "add", probe.name)
    except AssertionError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    _ip("netns", "del", probe.name)


def _set_namespace(where: str | object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with ExitStack() as stack:
        file = stack.enter_context(open(where, "rb")) if isinstance(where, str) else where
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:  # type: ignore[attr-defined]
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(where))


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str, timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout
