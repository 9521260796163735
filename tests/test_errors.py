"""Every refusal carries its whole reply."""

from __future__ import annotations

import pytest

from rtc_server import errors


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (errors.InvalidSdpError("x"), 400, "invalid_sdp", "invalid_request_error"),
        (errors.CallNotFoundError("x"), 404, "call_id_not_found", "invalid_request_error"),
        (errors.SdpTooLargeError("x"), 413, "sdp_too_large", "invalid_request_error"),
        (errors.UnsupportedMediaTypeError("x"), 415, "unsupported_media_type", "invalid_request_error"),
        (errors.ServerFullError("x", retry_after=5), 503, "server_full", "server_error"),
        (errors.NotReadyError("x", retry_after=5), 503, "not_ready", "server_error"),
    ],
)
def test_an_api_error_is_a_whole_http_reply(error: errors.ApiError, status: int, code: str, kind: str) -> None:
    assert error.status == status
    assert error.to_body() == {"error": {"message": "x", "type": kind, "code": code, "param": None}}
    assert error.headers == ({"Retry-After": "5"} if status == 503 else {})


def test_a_protocol_error_is_a_whole_error_event() -> None:
    error = errors.ProtocolError("invalid_value", "No.", param="session.type", event_id="evt_1")
    assert error.to_event_error() == {
        "type": "invalid_request_error",
        "code": "invalid_value",
        "message": "No.",
        "param": "session.type",
        "event_id": "evt_1",
    }


def test_the_tree_in_the_docstring_names_every_error() -> None:
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.RtcServerError):
            assert name in (errors.__doc__ or ""), f"{name} is not drawn"
