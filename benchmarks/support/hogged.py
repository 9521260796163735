"""The server's command beside a thread that computes in Python: `python -m benchmarks.support.hogged serve`.

What in-process inference or tokenisation does to an interpreter. Media must not notice: it lives elsewhere.
"""

from __future__ import annotations

import threading

from rtc_server.cli import main


def compute() -> None:
    """Never gives the interpreter up of its own accord."""
    total = 0
    while True:
        for number in range(100_000):
            total += number * number % 7


if __name__ == "__main__":
    threading.Thread(target=compute, name="hog", daemon=True).start()
    main()
