"""Every error that the server raises on purpose, each with the reply it causes.

    RtcServerError
    ├── ConfigError               settings cannot be used; the operator's fault, ends the program with exit code 2
    ├── CertificateError          the TLS certificate cannot be made, read or safely replaced
    ├── EdgeError                 the SIP proxy or the media relay of `rtc-server sip up` does not run
    ├── EngineError               the engine cannot serve; ours
    ├── CodecError                (codecs.base) an audio payload is corrupt, or libopus is missing
    ├── CallError                 (client.errors) `rtc-server call` cannot make or finish its call
    │   └── RecordingError            a recording cannot be read, or holds no voice
    ├── RecordingNotFoundError    (recording.errors) there is no recording of that call
    ├── RecordingInProgressError  (recording.errors) the call is still being recorded
    ├── SealedFileError           (recording.errors) a recording does not open: wrong key, changed, cut off
    ├── ProtocolError             a Realtime event that we refuse; the peer's fault, the call lives on
    └── ApiError                  an HTTP request that we refuse
        ├── InvalidJsonError          400 invalid_json
        ├── InvalidSdpError           400 invalid_sdp
        ├── InvalidParameterError     400, its code from the field that is wrong
        ├── UnauthorizedError         401 invalid_api_key
        ├── ForbiddenError            403 insufficient_permissions
        │   ├── OriginNotAllowedError     origin_not_allowed
        │   └── HostNotAllowedError       host_not_allowed
        ├── CallNotFoundError         404 call_id_not_found
        ├── ModelNotFoundError        404 model_not_found
        ├── ResumeNotFoundError       404 resume_not_found
        ├── NotEnabledError           404 not_enabled
        ├── RequestTimeoutError       408 request_timeout
        ├── ConflictError             409
        │   ├── CallNotRingingError       call_not_ringing
        │   └── ListenerError             listener_not_possible
        ├── CallEndedError            410 media_worker_lost
        ├── PreconditionFailedError   412 precondition_failed
        ├── SdpTooLargeError          413 sdp_too_large
        ├── UnsupportedMediaTypeError 415 unsupported_media_type
        ├── UnprocessableError        422 unprocessable
        ├── SettingsRefusedError      422 settings_refused
        ├── UpgradeRequiredError      426 upgrade_required
        ├── PreconditionRequiredError 428 precondition_required
        ├── SidebandLimitError        429 sideband_limit_reached
        └── RetryableError            with Retry-After
            ├── RateLimitedError          429 rate_limit_exceeded
            └── UnavailableError          503
                ├── ServerFullError           server_full
                ├── NotReadyError             not_ready
                ├── DrainingError             draining
                ├── WebhookError              webhook_failed
                └── NetworkError              no_media_port

A wrong argument inside the program is a ValueError; anything else that goes wrong is a bug: it ends its call,
is logged once with its traceback and is counted.
"""

from __future__ import annotations

from typing import ClassVar, Self


class RtcServerError(Exception):
    """Base of the tree. `message` is a full sentence that may be shown to whoever caused it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(RtcServerError):
    """The settings cannot be used. The message names the key, its source and what was expected."""


class CertificateError(RtcServerError):
    """The TLS certificate cannot be made, read or safely replaced. The message says what to do."""


class EdgeError(RtcServerError):
    """The SIP proxy or the media relay does not start, or has ended."""


class EngineError(RtcServerError):
    """The engine is not loaded, could not be loaded, or was lost.

    `code` is short and stable ("engine_not_ready", "engine_load_failed", ...) and safe to show to callers.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ProtocolError(RtcServerError):
    """A Realtime event from the peer that is refused. The session stays open.

    `param` is the path of the offending field as the client wrote it; `event_id` the client's own id of the
    event, filled in by whoever knows it.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.event_id = event_id

    def to_event_error(self) -> dict[str, str | None]:
        """The `error` object of the server event `error`, keys in the order of the API reference."""
        return {
            "type": "rate_limit_error" if self.code == "rate_limit_exceeded" else "invalid_request_error",
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": self.event_id,
        }


class ApiError(RtcServerError):
    """An HTTP request that is refused; `to_body` and `headers` are the whole reply."""

    status: ClassVar[int] = 400
    code: str = "invalid_request"
    type: ClassVar[str] = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the reply."""
        return {}

    def to_body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body, in the shape of OpenAI's API errors."""
        error = {"message": self.message, "type": self.type, "code": self.code, "param": self.param}
        return {"error": error}


class InvalidJsonError(ApiError):
    """The request body is not JSON."""

    code = "invalid_json"


class InvalidSdpError(ApiError):
    """The SDP offer cannot be used; the message says what is wrong with it."""

    code = "invalid_sdp"


class InvalidParameterError(ApiError):
    """A field of the request cannot be used; `code` and `param` are those of the Realtime event that would say so."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message, param=param)
        self.code = code

    @classmethod
    def of(cls, error: ProtocolError) -> Self:
        """The same refusal, for a session that came by HTTP."""
        return cls(error.message, param=error.param, code=error.code)


class UnauthorizedError(ApiError):
    """No credential, or one that is not known here, or not any more."""

    status = 401
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="rtc-server"'}


class ForbiddenError(ApiError):
    """The credential is good, but not for this."""

    status = 403
    code = "insufficient_permissions"


class OriginNotAllowedError(ForbiddenError):
    """A web page of another origin asks, and the operator has not allowed that origin."""

    code = "origin_not_allowed"


class HostNotAllowedError(ForbiddenError):
    """The server is open, and was addressed by a name that may lead here without belonging to it (DNS rebinding)."""

    code = "host_not_allowed"


class RequestTimeoutError(ApiError):
    """The request's body did not arrive in time."""

    status = 408
    code = "request_timeout"


class CallNotFoundError(ApiError):
    """No live call has that id, or it belongs to somebody else."""

    status = 404
    code = "call_id_not_found"


class ModelNotFoundError(ApiError):
    """The model that was asked for is not the one that is loaded."""

    status = 404
    code = "model_not_found"


class ResumeNotFoundError(ApiError):
    """No session waits under the resume token, or it is somebody else's."""

    status = 404
    code = "resume_not_found"


class NotEnabledError(ApiError):
    """The operator has not turned this on; the message names the setting."""

    status = 404
    code = "not_enabled"


class ConflictError(ApiError):
    """The call is not in a state for this."""

    status = 409
    code = "conflict"


class CallNotRingingError(ConflictError):
    """Only a ringing telephone call can be accepted, rejected or referred."""

    code = "call_not_ringing"


class ListenerError(ConflictError):
    """The call has a listener already, or hears its replies itself."""

    code = "listener_not_possible"


class PreconditionFailedError(ApiError):
    """`If-Match` names an ICE session that is over."""

    status = 412
    code = "precondition_failed"


class PreconditionRequiredError(ApiError):
    """This needs an `If-Match`."""

    status = 428
    code = "precondition_required"


class UnprocessableError(ApiError):
    """The request is understood, and asks for something that it does not contain."""

    status = 422
    code = "unprocessable"


class SettingsRefusedError(ApiError):
    """A reload found settings, keys or a certificate that cannot be used; the old ones stay in force."""

    status = 422
    code = "settings_refused"


class CallEndedError(ApiError):
    """The call was lost with the process that carried it."""

    status = 410
    code = "media_worker_lost"


class SdpTooLargeError(ApiError):
    """The request body is larger than any real offer."""

    status = 413
    code = "sdp_too_large"


class UnsupportedMediaTypeError(ApiError):
    """The request's Content-Type is not one that the endpoint reads."""

    status = 415
    code = "unsupported_media_type"


class UpgradeRequiredError(ApiError):
    """The address speaks WebSocket only."""

    status = 426
    code = "upgrade_required"

    @property
    def headers(self) -> dict[str, str]:
        return {"Upgrade": "websocket"}


class SidebandLimitError(ApiError):
    """The call has as many sidebands as it may have."""

    status = 429
    code = "sideband_limit_reached"


class RetryableError(ApiError):
    """The request is fine, but not now. `retry_after` is in whole seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class RateLimitedError(RetryableError):
    """This caller asks too often, or holds as many calls as it may."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


class UnavailableError(RetryableError):
    """The server cannot do it at the moment, for anybody."""

    status = 503
    type = "server_error"


class ServerFullError(UnavailableError):
    """Every call slot is taken."""

    code = "server_full"


class NotReadyError(UnavailableError):
    """The models are not warm yet, or the server is shutting down."""

    code = "not_ready"


class DrainingError(UnavailableError):
    """The server ends soon: it finishes the calls that it has and takes no others."""

    code = "draining"


class WebhookError(UnavailableError):
    """The application that answers telephone calls could not be told of one."""

    code = "webhook_failed"


class NetworkError(UnavailableError):
    """There is no UDP port left, or no local address, for a call's media."""

    code = "no_media_port"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=10)
