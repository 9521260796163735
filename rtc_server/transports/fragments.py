"""ICE fragments (RFC 8840), which add candidates to a running call or restart its ICE session (RFC 9725 section 4.3).
Pure.

They are as hostile as offers: nothing in them is used before it was read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtc_server.errors import InvalidSdpError, SdpTooLargeError

from .sdp import MIN_PWD, MIN_UFRAG, check_lines, is_credential, read_lines, usable_candidates

MAX_FRAGMENT_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class IceFragment:
    """A validated fragment."""

    ufrag: str | None
    """The ICE session that it is about, by the peer's user name; None when it does not say."""
    pwd: str | None
    candidates: tuple[str, ...]
    """Usable ones, without "a=candidate:"; "" at the end when the peer says that there are no more."""
    mid: str | None = None
    """The m-section that it names first; None when it names none."""


@dataclass(frozen=True, slots=True)
class IceUpdate:
    """What a fragment did to a call."""

    tag: str
    """Names the ICE session that the call has now."""
    fragment: str | None = None
    """After a restart: the fragment to answer with."""


def read_fragment(body: bytes, *, allow_loopback: bool = False) -> IceFragment:
    """Read a fragment; credentials may stand at session level or in an m-section. Raises InvalidSdpError or
    SdpTooLargeError."""
    if len(body) > MAX_FRAGMENT_BYTES:
        raise SdpTooLargeError(f"The ICE fragment has {len(body)} bytes; at most {MAX_FRAGMENT_BYTES} are accepted.")
    lines = read_lines(body, "ICE fragment")
    if not any(lines):
        return IceFragment(None, None, ())  # eyevinn/whip-web-client 1.1.7 sends nothing before it knows its session
    check_lines(lines, "ICE fragment")
    ufrag = _credential(lines, "ice-ufrag", MIN_UFRAG)
    pwd = _credential(lines, "ice-pwd", MIN_PWD)
    if pwd is not None and ufrag is None:
        raise InvalidSdpError("The ICE fragment has an 'ice-pwd' without an 'ice-ufrag'.")
    ends = [""] if "a=end-of-candidates" in lines else []
    candidates = usable_candidates(lines, allow_loopback=allow_loopback)
    has_media = any(line.startswith("m=") for line in lines)
    mid = next((line[len("a=mid:") :].strip()[:64] for line in lines if line.startswith("a=mid:")), "")
    return IceFragment(ufrag, pwd, (*candidates, *ends), mid if has_media else None)


def _credential(lines: list[str], name: str, minimum: int) -> str | None:
    prefix = f"a={name}:"
    values = {line[len(prefix) :].strip() for line in lines if line.startswith(prefix)}
    if not values:
        return None
    value = values.pop()
    if values or not is_credential(value, minimum):
        raise InvalidSdpError(f"The ICE fragment needs one '{name}' of at least {minimum} characters, or none.")
    return value


def restart_fragment(
    ufrag: str, pwd: str, candidates: Sequence[str], *, mids: Sequence[str], formats: str, is_lite: bool
) -> str:
    """The answer to a restart. `mids` are those of the bundle, none when the client named no m-section itself:
    whip-whep 1.2.0 then pastes the candidates into its description by a rule that only works for one of them."""
    lines = ["a=ice-lite"] if is_lite else []
    lines += ["a=ice-options:trickle", f"a=ice-ufrag:{ufrag}", f"a=ice-pwd:{pwd}"]
    if mids:
        lines += [f"a=group:BUNDLE {' '.join(mids)}", f"m=audio 9 UDP/TLS/RTP/SAVPF {formats}", f"a=mid:{mids[0]}"]
    lines += [f"a=candidate:{candidate}" for candidate in candidates]
    return "\r\n".join([*lines, "a=end-of-candidates", ""])
