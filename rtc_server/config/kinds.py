"""What a section of the settings is, and the kinds of values that several sections have: checked as they are read."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

HASH_PREFIX = "sha256:"
MIN_KEY_CHARS = 20  # shorter ones may be guessed
TURN_URL = re.compile(
    r"(?P<scheme>turns?):(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?"
)
"""RFC 7065."""
TURN_EXAMPLE = "'turn:turn.example.org:3478?transport=udp'"


def _check_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address") from None
    return value


def _check_stun_url(value: str) -> str:
    scheme, _, rest = value.partition(":")
    if scheme in ("turn", "turns"):
        raise ValueError(f"{value!r} is a TURN server, which needs credentials: name it in turn.urls")
    if scheme not in ("stun", "stuns") or not rest:
        raise ValueError(f"{value!r} is not a STUN server; write for example 'stun:stun.example.org:3478'")
    return value


def _check_turn_url(value: str) -> str:
    found = TURN_URL.fullmatch(value)
    if found is None or not 0 < int(found["port"] or 1) < 65_536:
        example = "turn:turn.example.org:3478?transport=udp"
        belongs = (
            "; STUN belongs to webrtc.ice_servers" if value.startswith("stun") else f"; write for example {example!r}"
        )
        raise ValueError(f"{value!r} is no TURN server{belongs}")
    return value


def _check_origin(value: str) -> str:
    if value == "*":
        return value
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or value != f"{url.scheme}://{url.netloc}":
        raise ValueError(f"{value!r} is not an origin; write for example 'https://app.example', or '*'")
    return value.lower()


def _hash_key(value: str) -> str:
    """Keys are hashed as they are read, so that nothing in the process holds one."""
    if value.startswith(HASH_PREFIX):
        if not re.fullmatch(r"[0-9a-f]{64}", value.removeprefix(HASH_PREFIX)):
            raise ValueError(f"a hash is '{HASH_PREFIX}' and 64 hexadecimal digits")
        return value
    if len(value) < MIN_KEY_CHARS:
        raise ValueError(
            f"a key needs at least {MIN_KEY_CHARS} characters; `rtc-server keys add NAME` makes a good one"
        )
    return HASH_PREFIX + hashlib.sha256(value.encode()).hexdigest()


class Hidden:
    """Marks a setting whose value is nobody's business: it is not printed, nor quoted in messages."""


IpAddress = Annotated[str, AfterValidator(_check_address)]
StunUrl = Annotated[str, AfterValidator(_check_stun_url)]
TurnUrl = Annotated[str, AfterValidator(_check_turn_url)]
WebOrigin = Annotated[str, AfterValidator(_check_origin)]
KeyHash = Annotated[str, AfterValidator(_hash_key)]
Port = Annotated[int, Field(ge=0, le=65_535)]
CpuNumber = Annotated[int, Field(ge=0, le=4_095)]


class Section(BaseModel):
    """One table of the settings file. The doc string under a field is its comment everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
