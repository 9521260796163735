"""The document of `GET /v1/status` as a JSON schema, for `/openapi.json`; a test holds real ones against it."""

from __future__ import annotations

from typing import Any

from .openapi import Content


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """All of them are always there, and no others."""
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


COUNT = {"type": "integer", "minimum": 0}
SECONDS = {"type": "number", "minimum": 0}
MS = {"type": "number"}
KNOWN_MS = {"type": ["number", "null"]}
SHARE = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
ID = {"type": "string"}

CALL = _object(
    {
        "node": COUNT,
        "call_id": ID,
        "age_seconds": SECONDS,
        "state": {"enum": ["connecting", "listening", "thinking", "speaking", "echo"]},
        "turns": COUNT,
        "latency_ms": KNOWN_MS,
        "underruns": COUNT,
        "cancels_echo": {"type": "boolean"},
        "suppresses_noise": {"type": "boolean"},
        "transport": {"enum": ["webrtc", "websocket", "loopback"]},
        "jitter_ms": KNOWN_MS,
        "jitter_buffer_ms": KNOWN_MS,
        "loss": SHARE,
        "remote_loss": SHARE,
        "round_trip_ms": KNOWN_MS,
    }
)
TURN = _object(
    {
        "call_id": ID,
        "turn_id": ID,
        "ended_at": SECONDS,
        "response_id": ID,
        "response_latency_ms": KNOWN_MS,
        "speculated": {"type": "boolean"},
        "stages": {"type": "object", "additionalProperties": _object({"start_ms": MS, "end_ms": MS})},
    }
)
STATUS: Content = {
    "application/json": _object(
        {
            "version": ID,
            "at": SECONDS,
            "uptime_seconds": SECONDS,
            "ready": {"type": "boolean"},
            "reason": {"type": ["string", "null"]},
            "calls": COUNT,
            "max_calls": COUNT,
            "max_calls_of_server": COUNT,
            "max_calls_of_engine": {"type": ["integer", "null"]},
            "max_calls_of_playout": {"type": ["integer", "null"]},
            "engine": _object(
                {
                    "backend": ID,
                    "model": {"type": ["string", "null"]},
                    "ready": {"type": "boolean"},
                    "restarts": COUNT,
                    "load_seconds": SECONDS,
                }
            ),
            "telephony": {
                "anyOf": [
                    {"type": "null"},
                    _object(
                        {
                            "ready": {"type": "boolean"},
                            "ringing": COUNT,
                            "calling": COUNT,
                            "answered": COUNT,
                            "answered_in": COUNT,
                            "answered_out": COUNT,
                            "restarts": COUNT,
                        }
                    ),
                ]
            },
            "nodes": {
                "type": "array",
                "items": _object(
                    {
                        "index": COUNT,
                        "kind": {"enum": ["in_process", "worker"]},
                        "answers": {"type": "boolean"},
                        "ready": {"type": "boolean"},
                        "calls": COUNT,
                        "restarts": COUNT,
                    }
                ),
            },
            "live_calls": {"type": "array", "items": CALL},
            "turns": {"type": "array", "items": TURN},
            "latency": {
                "type": "object",
                "additionalProperties": _object({"count": COUNT, "p50_ms": MS, "p95_ms": MS, "target_ms": KNOWN_MS}),
            },
        }
    )
}
