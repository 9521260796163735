"""Telephone addresses (`sip:`, `sips:`, `tel:`): read, compared with the operator's patterns, and turned into what the
proxy is asked for.

RFC 3261 section 19.1 and RFC 3966, restricted to what a call is made with: no headers, no passwords.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MAX_CHARS = 256

_TEL = re.compile(
    r"tel:(\+?[0-9*#A-D().-]{1,40})((?:;[-a-z0-9]{1,20}(?:=[-+.a-zA-Z0-9]{1,64})?){0,4})\Z", re.IGNORECASE
)
_SIP = re.compile(
    r"(sips?):(?:([-\w.!~*'()%+=&$,#]{1,100})@)?([-a-zA-Z0-9.]{1,100}|\[[0-9a-fA-F:.]{2,45}\])(?::([0-9]{1,5}))?"
    r"((?:;[-a-zA-Z0-9]{1,20}(?:=[-\w.+]{1,64})?){0,4})\Z",
    re.IGNORECASE | re.ASCII,
)
_SEPARATORS = str.maketrans("", "", "().-")
_USER_PARTS = re.compile(r"[-\w.!~*'()+]{1,64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class TelephoneAddress:
    """Somebody who can be called."""

    scheme: Literal["sip", "sips", "tel"]
    user: str
    """The number without its separators, or the name before the "@"; "" where there is none."""
    host: str = ""
    """"" for a number."""
    port: int | None = None
    parameters: str = ""
    """As written, from the first ";" on."""

    def __str__(self) -> str:
        if self.scheme == "tel":
            return f"tel:{self.user}{self.parameters}"
        user = f"{self.user}@" if self.user else ""
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}:{user}{self.host}{port}{self.parameters}"

    @property
    def bare(self) -> str:
        """Without parameters and in lower case: what patterns are compared with."""
        return str(TelephoneAddress(self.scheme, self.user, self.host.lower(), self.port)).lower()


def parse_address(text: str) -> TelephoneAddress:
    """Raises ValueError with a sentence that says what is expected."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"A telephone address has at most {MAX_CHARS} characters.")
    if number := _TEL.match(text):
        digits = number[1].translate(_SEPARATORS)
        if not digits.strip("+"):
            raise ValueError("The telephone number has no digits.")
        return TelephoneAddress("tel", digits, parameters=number[2])
    if parts := _SIP.match(text):
        scheme: Literal["sip", "sips"] = "sips" if parts[1].lower() == "sips" else "sip"
        port = None if parts[4] is None else int(parts[4])
        if port is not None and not 1 <= port <= 65_535:
            raise ValueError(f"{port} is not a port.")
        return TelephoneAddress(scheme, parts[2] or "", parts[3], port, parts[5])
    raise ValueError("A telephone address is written like 'tel:+493012345' or 'sip:name@example.org'.")


def is_allowed(address: TelephoneAddress, patterns: Iterable[str]) -> bool:
    """One of the patterns names it; "*" stands for any characters, and nothing else is special."""
    bare = address.bare
    return any(fnmatch.fnmatchcase(bare, _literal(pattern.lower())) for pattern in patterns)


def request_uri(address: TelephoneAddress, trunk: str) -> str:
    """What the proxy is asked to call. Numbers go to the trunk. Raises ValueError for a number without one."""
    if address.scheme != "tel":
        return str(address)
    if not trunk:
        raise ValueError("There is no trunk for telephone numbers; the operator can name one with sip.trunk.")
    user = address.user.replace("#", "%23")
    host, _, parameters = trunk.partition(";")
    return f"sip:{user}@{host}{';' + parameters if parameters else ''}"


def host_of(place: str) -> str:
    """Of `host[:port][;parameters]`, as an address has it: an IPv6 address keeps its brackets."""
    host = place.partition(";")[0]
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def is_user(text: str) -> bool:
    """It can stand before the "@" of an address as it is."""
    return _USER_PARTS.match(text) is not None


def _literal(pattern: str) -> str:
    """For fnmatch, in which "?" and "[" are special too."""
    return pattern.replace("[", "[[]").replace("?", "[?]")
