"""Entry point of the engine process: `python -m rtc_server.inference.worker FD`.

FD is this process's end of the socket pair that the server made. The process ends when the server closes
its end, so an engine never outlives its server.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys

from rtc_server import logs, process_metrics, tracing
from rtc_server.scheduling import Scheduling, apply, report

from .host import EngineHost
from .watch import StepWatch
from .wire import Configure

log = logging.getLogger("rtc_server.inference.worker")


def prepare_process(configure: Configure) -> None:
    """Its log, and how it gives way to the media process: lower priority and, if asked, a fixed set of cores."""
    logs.configure(configure.log_style)
    root = logging.getLogger()
    logging.getLogger("rtc_server").setLevel(root.level)
    root.setLevel(max(root.level, logging.WARNING))  # the models' libraries tell much while they load
    tracing.configure(configure.trace_style, "engine")
    request = Scheduling(configure.cpu_affinity, configure.nice, huge_pages=configure.huge_pages)
    report(apply(request), "engine")


def main() -> None:
    """Serve one engine on the inherited socket until the server leaves."""
    logs.configure(logs.LogStyle())
    # Ctrl-C reaches the whole process group, systemd's SIGTERM the whole unit; the server decides when the engine ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    EngineHost(socket.socket(fileno=int(sys.argv[1])), StepWatch, process_metrics.page).serve(prepare_process)
    tracing.shutdown()


if __name__ == "__main__":
    main()
