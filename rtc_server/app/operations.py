"""Every route in words: what it takes, how it answers. `/openapi.json` is built from here, and so is the table of
endpoints in `docs/realtime-compatibility.md`."""

from __future__ import annotations

from functools import partial

from rtc_server.realtime.compatibility import Support

from .openapi import ANY_JSON, ERROR, FRAGMENT, HTML, PROBLEM, SDP, SESSION, TEXT, Content, Operation, Reply
from .status_schema import STATUS

CREATED = ("Location", "ETag", "Link", "Accept-Patch", "Resume-Token")
SDP_ANSWER = Reply("The answer; `Location` is the call's address.", SDP, CREATED)
CALL_MADE = Reply(
    "The answer, or the `call_id` of a telephone call that rings; `Location` is the call's address.",
    {**SDP, **ANY_JSON},
    CREATED,
)
OFFER_ERRORS = (400, 404, 415, 503)
CALL_ERRORS = (400, 404, 410, 503)
FORM: Content = {
    **SDP,
    "multipart/form-data": {
        "type": "object",
        "required": ["sdp"],
        "properties": {"sdp": {"type": "string"}, "session": SESSION},
    },
}
DIAL: Content = {
    "application/json": {
        "type": "object",
        "required": ["target_uri"],
        "properties": {"target_uri": {"type": "string"}, "session": SESSION},
    }
}
JSON_OFFER: Content = {
    "application/json": {
        "type": "object",
        "required": ["sdp", "type"],
        "properties": {
            "sdp": {"type": "string"},
            "type": {"const": "offer"},
            "pc_id": {"type": "string"},
            "restart_pc": {"type": "boolean"},
            "request_data": {"type": "object"},
        },
    }
}
JSON_ANSWER: Content = {
    "application/json": {
        "type": "object",
        "required": ["sdp", "type", "pc_id"],
        "properties": {"sdp": {"type": "string"}, "type": {"const": "answer"}, "pc_id": {"type": "string"}},
    }
}
JSON_CANDIDATES: Content = {
    "application/json": {
        "type": "object",
        "required": ["pc_id", "candidates"],
        "properties": {"pc_id": {"type": "string"}, "candidates": {"type": "array", "items": {"type": "object"}}},
    }
}
SECRET_REQUEST: Content = {
    "application/json": {
        "type": "object",
        "properties": {
            "expires_after": {
                "type": "object",
                "properties": {
                    "anchor": {"const": "created_at"},
                    "seconds": {"type": "integer", "minimum": 10, "maximum": 7200},
                },
            },
            "session": SESSION,
        },
    }
}
SECRET: Content = {
    "application/json": {
        "type": "object",
        "required": ["value", "expires_at", "session"],
        "properties": {
            "value": {"type": "string", "pattern": "^ek_"},
            "expires_at": {"type": "integer"},
            "session": {"type": "object"},
        },
    }
}
SESSION_BODY: Content = {"application/json": SESSION}
STATUS_CODE: Content = {"application/json": {"type": "object", "properties": {"status_code": {"type": "integer"}}}}
OUTCOME: Content = {
    "application/json": {
        "type": "object",
        "properties": {
            "call_id": {"type": "string"},
            "state": {"enum": ["ringing", "answered", "failed"]},
            "status_code": {
                "type": "integer",
                "description": "SIP status of one that failed: 486 busy, 408 nobody answered.",
            },
        },
        "required": ["call_id", "state"],
    }
}
TARGET: Content = {
    "application/json": {
        "type": "object",
        "required": ["target_uri"],
        "properties": {"target_uri": {"type": "string"}},
    }
}
RESUME = {"resume": "the token of a session to go on with (ours)"}
BETA = {"OpenAI-Beta": "`realtime=v1` for the event names of the beta"}


REFUSAL: Content = {**PROBLEM, **ERROR}

_realtime = partial(Operation, tag="realtime")
_create = partial(
    _realtime,
    replies={201: CALL_MADE},
    body={**FORM, **DIAL},
    errors=OFFER_ERRORS,
    query={"model": "a model name", **RESUME},
    headers=BETA,
)
_whip = partial(Operation, tag="whip", error_content=REFUSAL, is_ours=True)
_pipecat = partial(Operation, tag="pipecat", errors=OFFER_ERRORS, is_ours=True)
_server = partial(Operation, tag="server", is_ours=True)


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/realtime/calls"): _create(
        summary="make a WebRTC call: a raw SDP offer, or a form with `sdp` and `session`; "
        "with JSON (ours) call the telephone `target_uri`"
    ),
    ("POST", "/v1/realtime"): _create(summary="the same, for older clients"),
    ("GET", "/v1/realtime"): _realtime(
        summary="WebSocket: a call of its own, or beside a running one with `call_id`",
        replies={101: Reply("The connection speaks the Realtime API now.")},
        errors=(400, 404, 409, 410, 426, 503),
        query={
            "model": "a model name",
            "intent": "`transcription` for a session that only writes down",
            "call_id": "a running call to join",
            "audio": "`binary` for raw samples instead of base64",
            **RESUME,
        },
        headers=BETA,
    ),
    ("PATCH", "/v1/realtime/calls/{call_id}"): Operation(
        summary="candidates, or an offer with new ICE credentials",
        tag="realtime",
        replies={
            200: Reply("The server's side of an ICE restart.", {**SDP, **FRAGMENT}, ("ETag",)),
            204: Reply("The candidates are taken."),
        },
        body={**SDP, **FRAGMENT},
        errors=(*CALL_ERRORS, 412, 415, 422, 428),
        is_ours=True,
    ),
    ("DELETE", "/v1/realtime/calls/{call_id}"): Operation(
        summary="as hangup", tag="realtime", replies={200: Reply("The call is over.")}, errors=CALL_ERRORS, is_ours=True
    ),
    ("POST", "/v1/realtime/calls/{call_id}/hangup"): _realtime(
        summary="end a call", replies={200: Reply("The call is over.")}, errors=CALL_ERRORS
    ),
    ("POST", "/v1/realtime/calls/{call_id}/accept"): _realtime(
        summary="answer a ringing telephone call with a session; then it belongs to who accepted it",
        replies={200: Reply("The call is answered.")},
        body=SESSION_BODY,
        errors=(*CALL_ERRORS, 409),
    ),
    ("POST", "/v1/realtime/calls/{call_id}/reject"): _realtime(
        summary="refuse a ringing telephone call with a SIP status, 603 without one",
        replies={200: Reply("The call is over.")},
        body=STATUS_CODE,
        errors=(*CALL_ERRORS, 409),
        body_required=False,
    ),
    ("GET", "/v1/realtime/ice-servers"): _realtime(
        summary="STUN and TURN servers for the next call, with credentials that expire",
        replies={200: Reply("As `RTCPeerConnection` takes them, and for how many seconds.", ANY_JSON)},
        is_ours=True,
    ),
    ("GET", "/v1/realtime/calls/{call_id}"): _realtime(
        summary="what came of a telephone call that was made from here",
        replies={200: Reply("It rings, was answered, or failed.", OUTCOME)},
        errors=CALL_ERRORS,
        is_ours=True,
    ),
    ("POST", "/v1/realtime/calls/{call_id}/refer"): _realtime(
        summary="ask a telephone call's peer to call somebody of `sip.refer_targets` instead",
        replies={200: Reply("The peer was asked; events tell what comes of it.")},
        body=TARGET,
        errors=(*CALL_ERRORS, 409),
    ),
    ("POST", "/v1/realtime/client_secrets"): _realtime(
        summary="make an ephemeral key, with a session bound to it",
        replies={200: Reply("The secret.", SECRET)},
        body=SECRET_REQUEST,
        errors=(400, 404, 415, 503),
        body_required=False,
    ),
    ("POST", "/v1/realtime/sessions"): _realtime(
        summary="the same in the beta's form",
        replies={200: Reply("A session with its `client_secret`.", ANY_JSON)},
        body=SESSION_BODY,
        errors=(400, 404, 415, 503),
        body_required=False,
    ),
    ("POST", "/v1/realtime/transcription_sessions"): _realtime(
        summary="the same for a transcription session",
        replies={200: Reply("A session with its `client_secret`.", ANY_JSON)},
        body=SESSION_BODY,
        errors=(400, 404, 415, 503),
        body_required=False,
    ),
    ("GET", "/v1/models"): _server(
        summary="the loaded model", replies={200: Reply("A list.", ANY_JSON)}, is_public=False, is_ours=False
    ),
    ("POST", "/v1/echo"): Operation(
        summary="a call that plays the caller's own audio back",
        tag="test",
        replies={201: SDP_ANSWER},
        body=FORM,
        errors=OFFER_ERRORS,
        is_ours=True,
    ),
    ("POST", "/api/echo"): _pipecat(
        summary="the same, offer and answer in JSON", replies={200: Reply("The answer.", JSON_ANSWER)}, body=JSON_OFFER
    ),
    ("POST", "/whip"): _whip(
        summary="WHIP (RFC 9725): push a stream, talk to the model",
        replies={201: Reply("The answer.", SDP, CREATED)},
        errors=(*OFFER_ERRORS, 422),
        body=SDP,
        query={"model": "a model name", **RESUME},
    ),
    ("POST", "/whep"): _whip(
        summary="WHEP: hear the replies of a WHIP call",
        replies={201: Reply("The answer.", SDP, CREATED)},
        errors=(*OFFER_ERRORS, 409, 410, 422),
        body=SDP,
        query={"call": "the WHIP call"},
    ),
    ("GET", "/{protocol}"): _whip(
        summary="nothing; reserved by the RFC", replies={204: Reply("Nothing.")}, errors=(404,)
    ),
    ("OPTIONS", "/{protocol}"): _whip(
        summary="what the endpoint takes, and the ICE servers", replies={204: Reply("See the headers.")}, errors=(404,)
    ),
    ("GET", "/{protocol}/{session_id}"): _whip(
        summary="nothing; reserved by the RFC", replies={204: Reply("Nothing.")}, errors=(404,)
    ),
    ("OPTIONS", "/{protocol}/{session_id}"): _whip(
        summary="what a session takes", replies={204: Reply("See the headers.")}, errors=(404,)
    ),
    ("PATCH", "/{protocol}/{session_id}"): _whip(
        summary="trickle ICE, or an ICE restart with `If-Match: *`",
        replies={200: Reply("The server's side of an ICE restart.", FRAGMENT, ("ETag",)), 204: Reply("Taken.")},
        errors=(400, 404, 410, 412, 415, 422, 428, 503),
        body=FRAGMENT,
        headers={"If-Match": "the ICE session's tag, or `*`"},
    ),
    ("DELETE", "/{protocol}/{session_id}"): _whip(
        summary="end the session", replies={200: Reply("It is over.")}, errors=(404, 410, 503)
    ),
    ("POST", "/start"): _pipecat(
        summary="Pipecat: an id for an offer, and the ICE servers",
        replies={200: Reply("`sessionId` and `iceConfig`.", ANY_JSON)},
        body=ANY_JSON,
        errors=(400, 404, 415, 503),
        body_required=False,
    ),
    ("POST", "/api/offer"): _pipecat(
        summary="Pipecat's SmallWebRTC offer", replies={200: Reply("The answer.", JSON_ANSWER)}, body=JSON_OFFER
    ),
    ("PATCH", "/api/offer"): _pipecat(
        summary="Pipecat: candidates",
        replies={200: Reply("Taken.", ANY_JSON)},
        body=JSON_CANDIDATES,
        errors=(*OFFER_ERRORS, 410),
    ),
    ("POST", "/sessions/{session_id}/api/offer"): _pipecat(
        summary="the same for a started session", replies={200: Reply("The answer.", JSON_ANSWER)}, body=JSON_OFFER
    ),
    ("PATCH", "/sessions/{session_id}/api/offer"): _pipecat(
        summary="the same for a started session",
        replies={200: Reply("Taken.", ANY_JSON)},
        body=JSON_CANDIDATES,
        errors=(*OFFER_ERRORS, 410),
    ),
    ("GET", "/"): _server(
        summary="the web page",
        replies={200: Reply("The page.", HTML), 304: Reply("It has not changed.")},
        is_public=True,
    ),
    ("GET", "/service-worker.js"): _server(
        summary="the page's service worker: opens the page when the server cannot be reached",
        replies={200: Reply("The script.", {"text/javascript": {"type": "string"}})},
        is_public=True,
    ),
    ("GET", "/healthz"): _server(
        summary="liveness", replies={200: Reply("The event loop runs.", ANY_JSON)}, is_public=True
    ),
    ("GET", "/readyz"): _server(
        summary="readiness",
        replies={200: Reply("Ready.", ANY_JSON), 503: Reply("Not ready, with the reason.", ANY_JSON)},
        is_public=True,
    ),
    ("POST", "/admin/drain"): _server(
        summary="take no new calls, and end once the running ones have",
        replies={202: Reply("`status`, `calls`, `drain_timeout_seconds`.", ANY_JSON)},
        errors=(403,),
        is_public=False,
    ),
    ("POST", "/admin/reload"): _server(
        summary="read the settings, the keys and the certificate again",
        replies={200: Reply("`status`, `applied`, `needs_restart`: names of settings.", ANY_JSON)},
        errors=(403, 422),
        is_public=False,
    ),
    ("GET", "/v1/info"): _server(
        summary="what this server is", replies={200: Reply("Backend, voices, calls.", ANY_JSON)}, is_public=True
    ),
    ("GET", "/status"): _server(
        summary="the page that shows `/v1/status`",
        replies={200: Reply("The page.", HTML), 304: Reply("It has not changed.")},
        is_public=True,
    ),
    ("GET", "/v1/status"): _server(
        summary="calls, latest turns, latency by stage, capacity, engine and workers; for this machine and keys",
        replies={200: Reply("Ids and numbers, no content.", STATUS)},
        query={"turns": "how many of the latest turns are listed, 0 to 200; 50 without"},
        errors=(400,),
    ),
    ("GET", "/metrics"): _server(summary="Prometheus metrics", replies={200: Reply("Text.", TEXT)}, is_public=False),
    ("GET", "/openapi.json"): _server(
        summary="this document", replies={200: Reply("OpenAPI 3.1.", ANY_JSON)}, is_public=True
    ),
}

REFUSED: dict[str, Support] = {
    "POST /v1/realtime/translations/client_secrets": Support("refused", "404: there is no translation session"),
}
"""Endpoints of the API that there are not."""
