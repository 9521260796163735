"""Writes `docs/realtime-compatibility.md` from the tables that the code goes by.

    python -m scripts.compatibility           write it
    python -m scripts.compatibility --check   only say whether it is up to date (exit code 1 if not)

Run it after changing an event, a session field or a route; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rtc_server.app.openapi import Operation
from rtc_server.app.operations import OPERATIONS, REFUSED
from rtc_server.realtime.compatibility import CLIENT_EVENTS, SERVER_EVENTS, SESSION_FIELDS, Level, Support

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "realtime-compatibility.md"

HEADER = """\
# What of the OpenAI Realtime API there is here

Written by `python -m scripts.compatibility` from the tables that the code goes by; a test compares. *supported*: as in
the API. *partial*: as the note says. *refused*: answered with an error that names it, or never sent. *ours*: an
extension. How things behave is in [realtime.md](realtime.md); the HTTP surface as OpenAPI is served at `/openapi.json`.
"""


def document_text() -> str:
    """The whole document."""
    endpoints = {
        f"{method} {path}": Support(_level(operation), operation.summary)
        for (method, path), operation in OPERATIONS.items()
        if method != "OPTIONS"
    }
    parts = [
        HEADER,
        _table("Endpoints", "request", {**endpoints, **REFUSED}),
        _table("Client events", "event", CLIENT_EVENTS),
        _table("Server events", "event", SERVER_EVENTS),
        _table("Session fields", "field", SESSION_FIELDS),
    ]
    return "\n".join(parts)


def _level(operation: Operation) -> Level:
    """One that never succeeds is refused."""
    if not operation.replies:
        return "refused"
    return "ours" if operation.is_ours else "supported"


def _table(title: str, first: str, rows: Mapping[str, Support]) -> str:
    lines = [f"## {title}\n", f"| {first} | | note |", "|---|---|---|"]
    lines += [f"| `{name}` | {support.level} | {support.note} |" for name, support in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit code of the program."""
    text = document_text()
    is_current = DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == text
    if "--check" in sys.argv[1:]:
        print(f"{DOCUMENT.name}: {'up to date' if is_current else 'stale: run python -m scripts.compatibility'}")
        return 0 if is_current else 1
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"{DOCUMENT.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
