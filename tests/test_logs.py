"""Log lines: readable, parseable, and without content."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from rtc_server import logs
from rtc_server.config import LoggingSection


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    names = (*logs.QUIET_LOGGERS, *logs.INDISCREET_LOGGERS)
    quiet = {name: logging.getLogger(name).level for name in names}
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in quiet.items():
        logging.getLogger(name).setLevel(level)


def logged(settings: LoggingSection, message: str = "response started", **fields: object) -> str:
    stream = io.StringIO()
    logs.configure(settings, stream)
    logging.getLogger("rtc_server.test").info(message, extra=fields)
    return stream.getvalue()


def test_what_libraries_note_on_records_is_left_out() -> None:
    assert "_of_a_library" not in logged(LoggingSection(), _of_a_library=1)


def test_text_lines_end_with_the_fields() -> None:
    line = logged(LoggingSection(), call_id="rtc_1", response_id="resp_2", played_ms=120)
    assert line.endswith(" INFO rtc_server.test: response started call_id=rtc_1 response_id=resp_2 played_ms=120\n")


def test_json_lines_hold_the_fields_with_their_types() -> None:
    line = json.loads(logged(LoggingSection(format="json"), call_id="rtc_1", played_ms=120, is_final=True))
    assert line["message"] == "response started"
    assert (line["level"], line["logger"]) == ("info", "rtc_server.test")
    assert (line["call_id"], line["played_ms"], line["is_final"]) == ("rtc_1", 120, True)


@pytest.mark.parametrize("kind", ["text", "json"])
def test_what_people_said_is_withheld(kind: str) -> None:
    secret = "my credit card number"
    line = logged(LoggingSection.model_validate({"format": kind}), transcript=secret, text=secret, sdp=secret)
    assert secret not in line
    assert "[withheld]" in line


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_value_cannot_fake_a_second_line(kind: str) -> None:
    line = logged(LoggingSection.model_validate({"format": kind}), user_agent="x\n2026 INFO all is well")
    assert line.count("\n") == 1


def test_bytes_and_long_values_are_not_printed_whole() -> None:
    line = json.loads(logged(LoggingSection(format="json"), packet=b"abc", reason="x" * 1000))
    assert line["packet"] == "[3 bytes]"
    assert len(line["reason"]) == logs.MAX_VALUE_CHARS + 1


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_traceback_comes_along(kind: str) -> None:
    stream = io.StringIO()
    logs.configure(LoggingSection.model_validate({"format": kind}), stream)
    try:
        raise LookupError("gone")
    except LookupError:
        logging.getLogger("rtc_server.test").exception("call failed", extra={"call_id": "rtc_1"})
    assert "LookupError: gone" in stream.getvalue()


def test_the_level_is_applied_and_libraries_are_quiet_unless_debugging() -> None:
    logs.configure(LoggingSection(level="warning"), io.StringIO())
    assert not logging.getLogger("rtc_server.test").isEnabledFor(logging.INFO)
    logs.configure(LoggingSection(level="info"), io.StringIO())
    assert not logging.getLogger("aioice.ice").isEnabledFor(logging.INFO)
    logs.configure(LoggingSection(level="debug"), io.StringIO())
    assert logging.getLogger("aioice.ice").isEnabledFor(logging.DEBUG)


def test_configuring_again_replaces_our_handler() -> None:
    logs.configure(LoggingSection(), io.StringIO())
    num_handlers = len(logging.getLogger().handlers)
    logs.configure(LoggingSection(), io.StringIO())
    assert len(logging.getLogger().handlers) == num_handlers


def test_lines_of_a_call_carry_its_ids_and_their_own_fields() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSection(), stream)
    log = logs.call_logger(logging.getLogger("rtc_server.calls.test"), "rtc_1", "4bf9")
    log.info("call ended", extra={"reason": "hangup"})
    assert stream.getvalue().endswith("rtc_server.calls.test: call ended call_id=rtc_1 trace_id=4bf9 reason=hangup\n")


def test_an_untraced_call_has_no_trace_id() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSection(format="json"), stream)
    logs.call_logger(logging.getLogger("rtc_server.calls.test"), "rtc_1").info("call started")
    assert "trace_id" not in json.loads(stream.getvalue())


def test_a_message_of_several_lines_stays_one_line() -> None:
    line = logged(LoggingSection(), "offer\r\n2026-01-31T12:00:00.000Z ERROR forged: line")
    assert line.count("\n") == 1
    assert "offer\\r\\n2026" in line


def test_debug_lines_with_descriptions_are_never_printed() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSection(level="debug"), stream)
    logging.getLogger("aiortc.rtcpeerconnection").debug("setRemoteDescription a=ice-pwd:secret")
    logging.getLogger("aioice.ice").debug("check")
    assert "secret" not in stream.getvalue()
    assert "check" in stream.getvalue()
