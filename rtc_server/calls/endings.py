"""What a client is told when its call ends for another reason than a hang-up. Pure."""

from __future__ import annotations

_MESSAGES = {
    "time_limit": ("session_expired", "invalid_request_error", "The session has reached its time limit."),
    "client_not_reading": ("client_not_reading", "invalid_request_error", "The client does not read what it is sent."),
    "shutdown": ("server_shutdown", "server_error", "The server is shutting down; connect again in a moment."),
    "resumed": ("session_resumed", "invalid_request_error", "The session goes on over another connection."),
    "internal_error": ("internal_error", "server_error", "The server made a mistake; it has been logged."),
}


def farewell(reason: str) -> dict[str, str | None] | None:
    """The `error` object of the last event of a call that ended for `reason`; None when there is nothing to explain."""
    if reason not in _MESSAGES:
        return None
    code, kind, message = _MESSAGES[reason]
    return {"type": kind, "code": code, "message": message, "param": None, "event_id": None}
