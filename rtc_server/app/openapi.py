"""The OpenAPI document of the HTTP surface, built from the application's routes and the models that check requests.

The caller describes every route once; `document` refuses to describe a route that is not there or to leave one out, so
the document cannot drift from the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeAlias

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rtc_server.realtime.session import SessionConfig

Schema: TypeAlias = dict[str, Any]
Content: TypeAlias = Mapping[str, Schema]
"""Media type -> schema."""

SDP: Content = {"application/sdp": {"type": "string", "description": "An SDP offer or answer (RFC 8866)."}}
FRAGMENT: Content = {
    "application/trickle-ice-sdpfrag": {"type": "string", "description": "Candidates or ICE credentials (RFC 8840)."}
}
ANY_JSON: Content = {"application/json": {"type": "object"}}
ERROR: Content = {"application/json": {"$ref": "#/components/schemas/Error"}}
PROBLEM: Content = {"application/problem+json": {"$ref": "#/components/schemas/Problem"}}
TEXT: Content = {"text/plain": {"type": "string"}}
HTML: Content = {"text/html": {"type": "string"}}

PATH_VALUES: dict[str, Schema] = {"protocol": {"type": "string", "enum": ["whip", "whep"]}}
"""Schemas of path parameters that are not just any text."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One way in which an operation answers."""

    description: str
    content: Content | None = None
    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One route."""

    summary: str
    tag: str
    replies: Mapping[int, Reply]
    body: Content | None = None
    body_required: bool = True
    query: Mapping[str, str] = field(default_factory=dict)
    """Name -> description; all are optional strings."""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_public: bool = False
    """No key is needed."""
    is_ours: bool = False
    """Not OpenAI's."""
    errors: Sequence[int] = ()
    """Statuses of refusals, beside those that every operation has."""
    error_content: Content = field(default_factory=lambda: ERROR)


REFUSALS = {
    400: "The request cannot be understood; `code` and `param` say what is wrong.",
    401: "The key is missing, unknown or expired.",
    403: "The page's origin is not allowed.",
    404: "There is no such call, model or function here.",
    405: "Not this method; `Allow` has those that there are.",
    409: "Not in the state that the call is in.",
    410: "The call was lost with the process that carried it.",
    412: "The ICE session has another tag by now.",
    413: "The body is too large.",
    415: "The body has another media type than is asked for.",
    422: "Understood, and not possible here.",
    426: "This address speaks WebSocket.",
    428: "The request must say which ICE session it means (`If-Match`).",
    429: "Too often; `Retry-After` says when the next request passes.",
    503: "No line is free, or the models are still loading; `Retry-After` says when to try again.",
}
EVERYWHERE = (403, 413, 429)
"""Refusals that any request may meet."""

COMPONENTS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "code", "param"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "code": {"type": ["string", "null"]},
                    "param": {"type": ["string", "null"]},
                },
            }
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["title", "status"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    },
}
MODELS: tuple[type[BaseModel], ...] = (SessionConfig,)
SESSION: Schema = {"$ref": "#/components/schemas/SessionConfig"}


def document(routes: Iterable[web.AbstractRoute], operations: Mapping[tuple[str, str], Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document. Raises ValueError when `operations` and the routes differ."""
    found = {key for route in routes if (key := _key(route)) is not None}
    if found != set(operations):
        missing, unknown = found - set(operations), set(operations) - found
        raise ValueError(f"operations without a description: {sorted(missing)}; without a route: {sorted(unknown)}")
    _, definitions = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in operations.items():
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rtc-server",
            "version": version("rtc-server"),
            "description": "Self-hosted real-time speech to speech: OpenAI's Realtime API, WHIP and WHEP.",
        },
        "paths": paths,
        "components": {
            "schemas": {**COMPONENTS, **definitions["$defs"]},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _key(route: web.AbstractRoute) -> tuple[str, str] | None:
    """(method, path) of a route of ours; None for files and for what aiohttp adds by itself."""
    resource = route.resource
    if resource is None or isinstance(resource, web.StaticResource) or route.method in ("HEAD", "*"):
        return None
    return route.method, resource.canonical


def _operation(method: str, path: str, operation: Operation) -> dict[str, Any]:
    name = "_".join(part.strip("{}") for part in path.strip("/").split("/") if part) or "page"
    body: dict[str, Any] = {
        "operationId": f"{method.lower()}_{name}".replace("-", "_").replace(".", "_"),
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(path, operation),
        "responses": _responses(path, operation),
        "security": [{}] if operation.is_public else [{"key": []}],
    }
    if operation.body is not None:
        body["requestBody"] = {"required": operation.body_required, "content": _content(operation.body)}
    return body


def _parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string"}
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": n, "in": "path", "required": True, "schema": PATH_VALUES.get(n, text)} for n in names
    ]
    for place, values in (("query", operation.query), ("header", operation.headers)):
        parameters += [{"name": n, "in": place, "description": d, "schema": text} for n, d in values.items()]
    return parameters


def _responses(path: str, operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, reply in operation.replies.items():
        responses[str(status)] = described = {"description": reply.description}
        if reply.content is not None:
            described["content"] = _content(reply.content)  # type: ignore[assignment]
        if reply.headers:
            described["headers"] = {name: {"schema": {"type": "string"}} for name in reply.headers}  # type: ignore[assignment]
    for status in sorted({*operation.errors, *EVERYWHERE, *(() if operation.is_public else (401,))}):
        responses.setdefault(
            str(status), {"description": REFUSALS[status], "content": _content(operation.error_content)}
        )
    return responses


def _content(content: Content) -> dict[str, Any]:
    return {media_type: {"schema": schema} for media_type, schema in content.items()}
