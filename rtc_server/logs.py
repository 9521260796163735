"""Log lines: one per event, a static message followed by its fields, as text or as JSON.

Fields come from `extra={...}`. Speech, transcripts, prompts, SDP and keys never reach a log: fields with such
names are withheld here even if a caller passes them by mistake, and long values are cut.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

MAX_VALUE_CHARS = 200
"""Longer values are cut: a log line is for finding things, not for keeping them."""

CONTENT_FIELDS = frozenset(
    {
        *("text", "delta", "transcript", "instructions", "prompt", "content", "items"),
        *("audio", "pcm", "sdp", "offer", "answer", "key", "token", "password", "secret", "authorization"),
    }
)
"""Names of fields that hold what people said or what must stay secret."""

QUIET_LOGGERS = ("aioice", "aiortc", "aiohttp.access", "asyncio")
"""Libraries whose INFO lines describe every ICE check or request; they speak up from WARNING on."""


INDISCREET_LOGGERS = ("aiortc.rtcpeerconnection",)
"""Libraries whose DEBUG lines hold what must stay secret, here descriptions with their ICE passwords: never printed."""


class LogSettings(Protocol):
    """What the section `logging` has, and `LogStyle`."""

    @property
    def level(self) -> str: ...

    @property
    def format(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LogStyle:
    """Level and format for a process that does not load the settings."""

    level: str = "warning"
    format: str = "text"


_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_HANDLER_NAME = "rtc-server"


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error by default).

    Call it again to change level or format; handlers installed by others are left alone.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == _HANDLER_NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET if settings.level == "debug" else logging.WARNING)
    for name in INDISCREET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))


class BoundLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose every line has these fields: `BoundLogger(log, {"call_id": ...})`. A line's own come on top."""

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def call_logger(log: logging.Logger, call_id: str, trace_id: str | None = None) -> BoundLogger:
    """For whatever concerns one call; `trace_id` when it is traced."""
    return BoundLogger(log, {"call_id": call_id, **({} if trace_id is None else {"trace_id": trace_id})})


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO rtc_server.calls.call: response started call_id=rtc_1 response_id=resp_2`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_as_text(value)}" for name, value in _fields(record).items())
        message = record.getMessage()
        if not message.isprintable():  # a library's; a line break in it would look like another line
            message = json.dumps(message)[1:-1]
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{fields}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, then the fields, then `exception` if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """The `extra` fields of a record, safe to print."""
    return {
        name: "[withheld]" if name.lower() in CONTENT_FIELDS else _plain(value)
        for name, value in vars(record).items()
        if name not in _STANDARD_FIELDS and not name.startswith("_")  # libraries' own, such as Ray's
    }


def _plain(value: object) -> object:
    """Numbers, booleans and None as they are; everything else as text of bounded length."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def _as_text(value: object) -> str:
    """One word; quoted when it has spaces, quotes, or characters that could fake a second line."""
    text = str(value)
    needs_quotes = not text or not text.isprintable() or any(char in text for char in ' "=')
    return json.dumps(text, ensure_ascii=not text.isprintable()) if needs_quotes else text
