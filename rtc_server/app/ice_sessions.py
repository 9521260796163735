"""The ICE session that a request is about: its tag in `ETag` and `If-Match` (RFC 9725 section 4.3.1)."""

from __future__ import annotations

from aiohttp import web

from rtc_server.errors import PreconditionFailedError

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"


def if_match(request: web.Request) -> str | None:
    """The ICE session that a PATCH is meant for: "*", a tag, or None. Tags are quoted; some clients forget it. Raises
    PreconditionFailedError for several."""
    values = request.headers.getall("If-Match", [])
    if not values:
        return None  # eyevinn/whip-web-client sends none, and means the present one
    tags = [tag.strip() for value in values for tag in value.split(",") if tag.strip()]
    if len(tags) != 1:
        raise PreconditionFailedError("'If-Match' must name one ICE session.")
    return "*" if tags[0] in ("*", '"*"') else tags[0].removeprefix('"').removesuffix('"')


def etag(tag: str) -> dict[str, str]:
    """The header that names an ICE session."""
    return {"ETag": f'"{tag}"'}
