"""Which settings can change while calls run, and what a reload makes of two sets of them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from rtc_server.config import Settings, settings_keys

LIVE = (
    "server.max_calls",
    "server.echo_test",
    "server.max_call_seconds",
    "server.setup_timeout_seconds",
    "server.drain_timeout_seconds",
    "server.shutdown_timeout_seconds",
    "auth.*",
    "limits.*",
    "admission.*",
    "engine.answer_timeout_seconds",
    "session.*",
    "turns.*",
    "turn.*",
    "sip.ring_timeout_seconds",
    "sip.refer_targets",
    "sip.dial_targets",
    "sip.trunk*",
    "sip.caller_id",
    "logging.*",
)
"""Patterns of keys that count from the reload on; those of a call count for new calls."""

FIXED = (
    "auth.max_client_secrets",  # the secrets that there are stay valid
    "auth.trusted_proxies",  # the ports go by it, as by the four next
    "limits.connections",
    "limits.connections_per_address",
    "limits.idle_connection_seconds",
    "session.resume_seconds",  # the store of sessions is made with it
    "turns.vad",  # these three decide which models a media worker loads
    "turns.webrtcvad_mode",
    "turns.turn_model",
)
"""Keys that need a restart though a pattern of `LIVE` has them."""


class Change(NamedTuple):
    """What a reload changes."""

    settings: Settings
    """Those from now on: the running ones, with what can change."""
    applied: tuple[str, ...]
    """Keys that have a new value."""
    needs_restart: tuple[str, ...]
    """Keys whose new value counts after a restart only."""


def is_live(key: str) -> bool:
    """It can change while calls run."""
    return key not in FIXED and any(fnmatchcase(key, pattern) for pattern in LIVE)


def change(running: Settings, wanted: Settings) -> Change:
    """From what the server runs with to what the file says now."""
    applied, needs_restart = [], []
    sections: dict[str, dict[str, object]] = {}
    for name in (key.name for key in settings_keys()):
        section, field = name.split(".")
        value = getattr(getattr(wanted, section), field)
        if value == getattr(getattr(running, section), field):
            continue
        if is_live(name):
            applied.append(name)
            sections.setdefault(section, {})[field] = value
        else:
            needs_restart.append(name)
    update = {section: getattr(running, section).model_copy(update=fields) for section, fields in sections.items()}
    return Change(running.model_copy(update=update), tuple(applied), tuple(needs_restart))
