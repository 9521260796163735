"""Offers are hostile until this module has read them.

`validate_offer` accepts what a voice client sends and nothing else, before aiortc parses a single line of it:
aiortc 1.16 answers empty SDP, hangs without a fingerprint, and sends STUN to every address it is given (a 30 KB
offer made it send 373 KB to addresses of the caller's choice).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from rtc_server.errors import InvalidSdpError, SdpTooLargeError

MAX_SDP_BYTES = 16 * 1024  # Chromium's offer for one audio track and a data channel is about 2.5 KB
MAX_LINES = 512
MAX_CANDIDATES = 16  # per offer: a laptop with VPN and containers has about ten
MIN_UFRAG, MIN_PWD, MAX_ICE_CREDENTIAL = 4, 22, 256  # RFC 8839 section 5.4
STATIC_CODECS = {"0": "pcmu/8000", "8": "pcma/8000", "9": "g722/8000"}  # RFC 3551 table 4: need no rtpmap
FINGERPRINT_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}  # RFC 8122; weaker ones are refused

_ICE_CHARS = re.compile(r"[A-Za-z0-9+/]+\Z")
_LINE = re.compile(r"[a-z]=[\x20-\x7e\x80-\U0010ffff]*\Z")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})*\Z")


@dataclass(frozen=True, slots=True)
class Offer:
    """A validated offer."""

    sdp: str
    """Safe to hand to aiortc: unusable candidates are gone, everything else is as received."""
    fingerprints: tuple[str, ...]
    """The peer's certificate fingerprints, "sha-256 AB:CD:..."."""
    has_data_channel: bool
    num_candidates: int
    """Remote candidates kept; 0 is fine, the peer is then found by its own checks (peer-reflexive)."""
    audio_lines: tuple[str, ...] = ()
    """The audio m-section, its m-line first."""
    ice_ufrag: str = ""
    ice_pwd: str = ""
    candidates: tuple[str, ...] = ()
    """The candidates kept, without "a=candidate:"."""


def validate_offer(body: bytes, *, allow_loopback: bool = False) -> Offer:
    """Read a raw SDP offer. Raises InvalidSdpError (a sentence saying what is wrong) or SdpTooLargeError.

    Candidates that name hosts, mDNS names, TCP, loopback (unless `allow_loopback`), link-local, multicast or
    unspecified addresses are dropped, not refused: browsers send them as a matter of course."""
    if len(body) > MAX_SDP_BYTES:
        raise SdpTooLargeError(f"The SDP offer has {len(body)} bytes; at most {MAX_SDP_BYTES} are accepted.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidSdpError("The SDP offer is not UTF-8 text.") from error
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if not text.strip():
        raise InvalidSdpError("The SDP offer is empty.")
    if len(lines) > MAX_LINES:
        raise InvalidSdpError(f"The SDP offer has {len(lines)} lines; at most {MAX_LINES} are accepted.")
    if lines[0] != "v=0":
        raise InvalidSdpError("The SDP offer does not start with 'v=0'.")
    for number, line in enumerate(lines, 1):
        if not _LINE.match(line):
            raise InvalidSdpError(f"Line {number} of the SDP offer is not of the form 'x=value'.")
    session, sections = _split(lines)
    _check_media(sections)
    fingerprints: list[str] = []
    for section in sections:
        fingerprints += _check_transport(session, section)
    _check_bundle(session, sections)
    audio = next(section for section in sections if section[0].startswith("m=audio"))
    kept, num_candidates = _drop_candidates(lines, allow_loopback)
    return Offer(
        sdp="\r\n".join(kept) + "\r\n",
        fingerprints=tuple(dict.fromkeys(fingerprints)),
        has_data_channel=any(section[0].startswith("m=application") for section in sections),
        num_candidates=num_candidates,
        audio_lines=tuple(audio),
        ice_ufrag=_values(session, audio, "ice-ufrag")[0],
        ice_pwd=_values(session, audio, "ice-pwd")[0],
        candidates=tuple(dict.fromkeys(line[12:] for line in kept if line.startswith("a=candidate:"))),
    )


def validate_fragment(body: bytes, *, allow_loopback: bool = False) -> tuple[str, ...]:
    """The usable candidates of an ICE fragment (RFC 8840), without "a=candidate:"; "" at the end when the peer says
    that there are no more. Raises InvalidSdpError or SdpTooLargeError."""
    if len(body) > MAX_SDP_BYTES:
        raise SdpTooLargeError(f"The ICE fragment has {len(body)} bytes; at most {MAX_SDP_BYTES} are accepted.")
    try:
        lines = body.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidSdpError("The ICE fragment is not UTF-8 text.") from error
    for number, line in enumerate(lines, 1):
        if not _LINE.match(line):
            raise InvalidSdpError(f"Line {number} of the ICE fragment is not of the form 'x=value'.")
    kept, _ = _drop_candidates(lines, allow_loopback)
    candidates = [line[len("a=candidate:") :] for line in kept if line.startswith("a=candidate:")]
    ends = [""] if "a=end-of-candidates" in lines else []
    return (*dict.fromkeys(candidates), *ends)


def _split(lines: list[str]) -> tuple[list[str], list[list[str]]]:
    """Session-level lines, and one list of lines per m-section."""
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    ends = [*starts[1:], len(lines)] if starts else []
    return lines[: starts[0]] if starts else lines, [lines[a:b] for a, b in zip(starts, ends, strict=True)]


def _check_media(sections: list[list[str]]) -> None:
    kinds: list[str] = []
    for section in sections:
        fields = section[0][2:].split(" ")
        if len(fields) < 4 or not fields[1].isdigit() or not 0 <= int(fields[1]) <= 65535:
            raise InvalidSdpError("An m-line of the SDP offer is malformed.")
        kinds.append(fields[0])
        profiles = {"audio": "UDP/TLS/RTP/SAVPF", "application": "UDP/DTLS/SCTP"}
        if fields[0] in profiles and fields[2] != profiles[fields[0]]:
            raise InvalidSdpError(f"The {fields[0]} m-line must use '{profiles[fields[0]]}', not '{fields[2][:40]}'.")
        for line in section:
            if line.startswith("c="):
                _check_connection(line)
    if kinds.count("audio") != 1 or kinds.count("application") > 1 or set(kinds) - {"audio", "application"}:
        found = ", ".join(kinds[:8]) or "none"
        raise InvalidSdpError(
            f"The offer must have one audio m-line and at most one application m-line; found: {found}."
        )
    audio = sections[kinds.index("audio")]
    payloads = set(audio[0].split(" ")[3:])
    if not all(p.isdigit() and int(p) < 128 for p in payloads):
        raise InvalidSdpError("The audio m-line names a payload type that is not a number from 0 to 127.")
    maps = (line[len("a=rtpmap:") :].split(" ", 1) for line in audio if line.startswith("a=rtpmap:"))
    mapped = {m[0]: m[1].lower() for m in maps if len(m) == 2}
    spoken = ("opus/48000", "g722/8000", "pcmu/8000", "pcma/8000")
    if not any(mapped.get(p, STATIC_CODECS.get(p, "")).startswith(spoken) for p in payloads):
        raise InvalidSdpError("The offer has no audio codec that this server speaks: Opus, G722, PCMU or PCMA.")
    if any(line in ("a=inactive", "a=recvonly") for line in audio):
        raise InvalidSdpError("The offer sends no audio: the audio m-line must be sendrecv or sendonly.")


def _check_connection(line: str) -> None:
    fields = line[2:].split(" ")
    if len(fields) != 3 or fields[0] != "IN" or fields[1] not in ("IP4", "IP6"):
        raise InvalidSdpError("A c-line of the SDP offer is malformed.")


def _values(session: list[str], section: list[str], name: str) -> list[str]:
    """The values of an attribute in an m-section, else the session's."""
    prefix = f"a={name}:"
    own = [line[len(prefix) :].strip() for line in section if line.startswith(prefix)]
    return own or [line[len(prefix) :].strip() for line in session if line.startswith(prefix)]


def _check_bundle(session: list[str], sections: list[list[str]]) -> None:
    """Audio and events share one transport: two would need two handshakes, and no browser asks for it."""
    if len(sections) < 2:
        return
    groups = [line.split(" ")[1:] for line in session if line.startswith("a=group:BUNDLE")]
    mids = [line[len("a=mid:") :].strip() for section in sections for line in section if line.startswith("a=mid:")]
    if len(mids) != len(sections) or len(set(mids)) != len(mids) or not any(set(mids) <= set(g) for g in groups):
        raise InvalidSdpError("The m-sections of the offer must be bundled: 'a=group:BUNDLE' with every 'a=mid'.")


def _check_transport(session: list[str], section: list[str]) -> list[str]:
    """ICE credentials and fingerprints of one m-section, its own or the session's. Returns the fingerprints."""

    def values(name: str) -> list[str]:
        return _values(session, section, name)

    for name, minimum in (("ice-ufrag", MIN_UFRAG), ("ice-pwd", MIN_PWD)):
        found = values(name)
        if len(found) != 1 or not minimum <= len(found[0]) <= MAX_ICE_CREDENTIAL or not _ICE_CHARS.match(found[0]):
            raise InvalidSdpError(f"The offer needs one '{name}' of at least {minimum} characters per m-section.")
    fingerprints = values("fingerprint")
    if not fingerprints:
        raise InvalidSdpError("The offer has no DTLS fingerprint.")
    for fingerprint in fingerprints:
        algorithm, _, digest = fingerprint.partition(" ")
        size = FINGERPRINT_BYTES.get(algorithm.lower())
        if size is None:
            raise InvalidSdpError("The DTLS fingerprint must be sha-256, sha-384 or sha-512.")
        if not _HEX_PAIRS.match(digest) or len(digest) != 3 * size - 1:
            raise InvalidSdpError(f"The {algorithm} fingerprint must be {size} hexadecimal pairs.")
    setup = values("setup")
    if setup and setup[0] not in ("actpass", "active", "passive"):
        raise InvalidSdpError("a=setup must be actpass, active or passive.")
    return fingerprints


def _drop_candidates(lines: list[str], allow_loopback: bool) -> tuple[list[str], int]:
    kept: list[str] = []
    seen: set[str] = set()
    num_offered = 0
    for line in lines:
        if not line.startswith("a=candidate:"):
            kept.append(line)
            continue
        num_offered += 1
        if is_usable_candidate(line[len("a=candidate:") :], allow_loopback=allow_loopback):
            kept.append(line)
            seen.add(line)
    if num_offered > 4 * MAX_CANDIDATES or len(seen) > MAX_CANDIDATES:
        raise InvalidSdpError(f"The offer names too many ICE candidates; at most {MAX_CANDIDATES} are accepted.")
    return kept, len(seen)


def is_usable_candidate(candidate: str, *, allow_loopback: bool = False) -> bool:
    """True for a numeric UDP candidate on an address that a peer can have (RFC 8839 section 5.1)."""
    fields = candidate.split(" ")
    if len(fields) < 8 or fields[2].lower() != "udp" or fields[6] != "typ":
        return False
    if not (fields[1] in ("1", "2") and fields[3].isdigit() and int(fields[3]) < 2**32):
        return False
    if not fields[5].isdigit() or not 1 <= int(fields[5]) <= 65535:
        return False
    if fields[7] not in ("host", "srflx", "prflx", "relay"):
        return False
    try:
        address = ipaddress.ip_address(fields[4])
    except ValueError:
        return False  # a host name or an mDNS name: resolving it would make the server send where it is told
    if address.is_loopback:
        return allow_loopback
    return not (address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved)
