"""Entry point of the engine process: `python -m rtc_server.inference.worker FD`.

FD is this process's end of the socket pair that the server made. The process ends when the server closes
its end, so an engine never outlives its server.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

from .host import EngineHost
from .wire import Configure

log = logging.getLogger("rtc_server.inference.worker")


def prepare_process(configure: Configure) -> None:
    """Give way to the media process: lower priority and, if asked, a fixed set of cores."""
    if configure.nice:
        os.nice(configure.nice)
    if configure.cpu_affinity and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, configure.cpu_affinity)


def main() -> None:
    """Serve one engine on the inherited socket until the server leaves."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Ctrl-C reaches the whole process group; the server decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    EngineHost(socket.socket(fileno=int(sys.argv[1]))).serve(prepare_process)


if __name__ == "__main__":
    main()
