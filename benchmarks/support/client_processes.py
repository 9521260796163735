"""Callers in processes of their own, so that they do not share an interpreter with whoever measures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from benchmarks.support.machine import ROOT
from benchmarks.support.server import BenchmarkError


class ClientProcesses:
    """They run; see `client_processes`."""

    def __init__(self, clients: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
        self._clients = clients

    @property
    def are_running(self) -> bool:
        return any(process.poll() is None for process, _ in self._clients)

    def results(self) -> list[dict[str, Any]]:
        """The last line of each, as JSON, once all have ended. Raises BenchmarkError when one has failed."""
        results = []
        for process, output in self._clients:
            output.seek(0)
            lines = output.read().splitlines()
            if process.returncode != 0 or not lines:
                raise BenchmarkError(f"A client process failed with exit code {process.returncode}.")
            results.append(json.loads(lines[-1]))
        return results


@contextmanager
def client_processes(modules: Iterable[Sequence[str]]) -> Iterator[ClientProcesses]:
    """`python -m` each of them with its arguments. They end by themselves, or are killed on the way out."""
    with ExitStack() as stack:
        clients = []
        for arguments in modules:
            output = stack.enter_context(tempfile.TemporaryFile())  # a pipe would fill up unread
            process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=output)
            stack.callback(_end, process)
            clients.append((process, output))
        yield ClientProcesses(clients)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
