"""Offers are hostile until this module has read them.

`validate_offer` accepts what a voice client sends and nothing else, before aiortc parses a single line of it:
aiortc 1.16 answers empty SDP, hangs without a fingerprint, and sends STUN to every address it is given (a 30 KB
offer made it send 373 KB to addresses of the caller's choice). Video may be offered beside the voice; aiortc never sees
it (`video`).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rtc_server.errors import InvalidSdpError, SdpTooLargeError

MAX_SDP_BYTES = 32 * 1024  # Chromium's offer is about 2.5 KB for audio and events, and 6 KB more per video m-line
MAX_LINES = 1024
MAX_CANDIDATES = 16  # per offer: a laptop with VPN and containers has about ten
MAX_CANDIDATE_LINES = 96  # browsers repeat them in each m-section
MAX_VIDEO = 4  # OBS and GStreamer offer one, Pipecat's client two
MAX_SECTIONS = 8
MIN_UFRAG, MIN_PWD, MAX_ICE_CREDENTIAL = 4, 22, 256  # RFC 8839 section 5.4
STATIC_CODECS = {"0": "pcmu/8000", "8": "pcma/8000", "9": "g722/8000"}  # RFC 3551 table 4: need no rtpmap
FINGERPRINT_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}  # RFC 8122; weaker ones are refused
PROFILES = {"audio": "UDP/TLS/RTP/SAVPF", "video": "UDP/TLS/RTP/SAVPF", "application": "UDP/DTLS/SCTP"}

_ICE_CHARS = re.compile(r"[A-Za-z0-9+/]+\Z")
_LINE = re.compile(r"[a-z]=[\x20-\x7e\x80-\U0010ffff]*\Z")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})*\Z")
_TRANSPORT = ("ice-ufrag", "ice-pwd", "fingerprint", "setup")

Purpose: TypeAlias = Literal["call", "listen", "change", "answer"]
"""What an offer is for: a call, which needs the caller's voice; hearing one, which needs a place to send to; or a
change in a running call, which may be put on hold. "answer": it is one, to an offer of ours."""


@dataclass(frozen=True, slots=True)
class UnusedSection:
    """An m-section that is answered without being used."""

    index: int
    """Its place among the m-sections of the offer."""
    lines: tuple[str, ...]
    is_rejected: bool
    """The offer rejects it itself (a stopped transceiver, RFC 8829 section 5.2.2): port 0, and not in the bundle."""

    @property
    def mid(self) -> str:
        """Its `a=mid`, "" without."""
        return next((line[len("a=mid:") :].strip() for line in self.lines if line.startswith("a=mid:")), "")


@dataclass(frozen=True, slots=True)
class Offer:
    """A validated offer."""

    sdp: str
    """Safe to hand to aiortc: unusable candidates and what is not voice or events is gone, the rest is as received."""
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
    mids: tuple[str, ...] = ()
    """Of all m-sections, in order."""
    unused: tuple[UnusedSection, ...] = ()
    """M-sections that the answer must have too, in order."""
    bundle: tuple[str, ...] = ()
    """The offered BUNDLE group, in order."""
    is_telephone: bool = False
    """What it takes and sends may change within the call, from nothing to something too."""
    has_no_address: bool = False
    """A telephone's voice is to go to 0.0.0.0: on hold, in the manner of RFC 2543 (RFC 3264 section 8.4)."""

    @property
    def sends_audio(self) -> bool:
        """The peer will send its voice."""
        return self.direction in ("sendrecv", "sendonly")

    @property
    def direction(self) -> str:
        """Of the voice, as the peer offers it: "sendrecv", "sendonly", "recvonly" or "inactive"."""
        offered = direction(self.audio_lines)
        return NOT_TAKEN[offered] if self.has_no_address else offered

    @property
    def takes_audio(self) -> bool:
        """The peer wants to hear."""
        return self.direction in ("sendrecv", "recvonly")


def direction(section: tuple[str, ...] | list[str]) -> str:
    """Of an m-section: "sendrecv" (also when it does not say), "sendonly", "recvonly" or "inactive"."""
    names = ("sendrecv", "sendonly", "recvonly", "inactive")
    return next((line[2:] for line in reversed(section) if line.startswith("a=") and line[2:] in names), "sendrecv")


NOT_TAKEN = {"sendrecv": "sendonly", "sendonly": "sendonly", "recvonly": "inactive", "inactive": "inactive"}
"""Direction of an offer -> what is left of it where nothing may be sent to the peer."""

ANSWERED_WITH = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}
"""Direction of an offer -> of our answer (RFC 3264 section 6.1)."""


def redirected(sdp: str, wanted: str) -> str:
    """An answer of ours with another direction of its audio."""
    head, separator, audio = sdp.partition("\r\nm=audio ")
    section, other, rest = audio.partition("\r\nm=")
    lines = [f"a={wanted}" if line[2:] in ANSWERED_WITH else line for line in section.split("\r\n")]
    return head + separator + "\r\n".join(lines) + other + rest


def ice_tag_of(answer: str) -> str:
    """The tag of the ICE session in an answer of ours: our user name, as `WebRtcTransport.ice_tag` has it."""
    return answer.partition("a=ice-ufrag:")[2].partition("\r\n")[0]


def validate_offer(
    body: bytes, *, allow_loopback: bool = False, purpose: Purpose = "call", is_telephone: bool = False
) -> Offer:
    """Read a raw SDP offer. Raises InvalidSdpError (a sentence saying what is wrong) or SdpTooLargeError.
    `is_telephone`: it came over SIP, where 0.0.0.0 means hold; with port 9 it means that candidates follow, as to
    everybody (RFC 8840 section 4.1.1).

    Candidates that name hosts, mDNS names, TCP, loopback (unless `allow_loopback`), link-local, multicast or
    unspecified addresses are dropped, not refused: browsers send them as a matter of course."""
    if len(body) > MAX_SDP_BYTES:
        raise SdpTooLargeError(f"The SDP offer has {len(body)} bytes; at most {MAX_SDP_BYTES} are accepted.")
    lines = read_lines(body, "SDP offer")
    if not any(lines):
        raise InvalidSdpError("The SDP offer is empty.")
    if len(lines) > MAX_LINES:
        raise InvalidSdpError(f"The SDP offer has {len(lines)} lines; at most {MAX_LINES} are accepted.")
    if lines[0] != "v=0":
        raise InvalidSdpError("The SDP offer does not start with 'v=0'.")
    check_lines(lines, "SDP offer")
    session, sections = split(lines)
    active = [section for section in sections if not _is_rejected(section)]
    _check_media(sections, active, "change" if is_telephone and purpose == "call" else purpose)
    bundle = _check_bundle(session, active)
    candidates = _take_candidates(session, active, bundle, allow_loopback=allow_loopback)
    used = [section for section in active if not section[0].startswith("m=video")]
    fingerprints: list[str] = []
    for section in used:
        _inherit_transport(session, section, _tagged(active, bundle))
        fingerprints += _check_transport(session, section)
    audio = next(section for section in used if section[0].startswith("m=audio"))
    first = _tagged(used, bundle) or audio
    first += [f"a=candidate:{candidate}" for candidate in candidates]
    unused = [
        UnusedSection(index, tuple(section), _is_rejected(section))
        for index, section in enumerate(sections)
        if not any(section is other for other in used)
    ]
    if unused:
        session = _without_mids(session, {section.mid for section in unused})
    for section in used:
        if section[0].startswith("m=audio") and not any(
            line[:2] == "a=" and line[2:] in ANSWERED_WITH for line in section
        ):
            section.append("a=sendrecv")  # RFC 8866 section 6.7: the default, which aiortc does not know
    session = [line for line in session if not line.startswith("a=group:")]
    if bundle:  # with those m-sections and no others: aiortc looks for every one that it names
        mids = [_mid(section) for section in used]
        session.append("a=group:BUNDLE " + " ".join(mid for mid in bundle if mid in mids))
    kept = [*session, *(line for section in used for line in section)]
    return Offer(
        sdp="\r\n".join(kept) + "\r\n",
        fingerprints=tuple(dict.fromkeys(fingerprints)),
        has_data_channel=any(section[0].startswith("m=application") for section in used),
        num_candidates=len(candidates),
        audio_lines=tuple(audio),
        ice_ufrag=_values(session, audio, "ice-ufrag")[0],
        ice_pwd=_values(session, audio, "ice-pwd")[0],
        candidates=tuple(candidates),
        mids=tuple(_mid(section) for section in sections),
        unused=tuple(unused),
        bundle=tuple(bundle),
        is_telephone=is_telephone,
        has_no_address=is_telephone and _has_no_address(session, audio),
    )


def read_lines(body: bytes, what: str) -> list[str]:
    """The lines of a body. Raises InvalidSdpError unless it is text."""
    try:
        return body.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidSdpError(f"The {what} is not UTF-8 text.") from error


def check_lines(lines: list[str], what: str) -> None:
    """Raises InvalidSdpError at the first line that is not of the form that SDP lines have."""
    for number, line in enumerate(lines, 1):
        if not _LINE.match(line):
            raise InvalidSdpError(f"Line {number} of the {what} is not of the form 'x=value'.")


def split(lines: list[str]) -> tuple[list[str], list[list[str]]]:
    """Session-level lines, and one list of lines per m-section."""
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    ends = [*starts[1:], len(lines)] if starts else []
    return lines[: starts[0]] if starts else lines, [lines[a:b] for a, b in zip(starts, ends, strict=True)]


def is_credential(value: str, minimum: int) -> bool:
    """An ICE user name or password of a length that RFC 8839 allows."""
    return minimum <= len(value) <= MAX_ICE_CREDENTIAL and bool(_ICE_CHARS.match(value))


def usable_candidates(lines: list[str], *, allow_loopback: bool) -> list[str]:
    """The candidates among these lines that may be tried, without "a=candidate:". Raises InvalidSdpError for too
    many."""
    offered = [line[len("a=candidate:") :] for line in lines if line.startswith("a=candidate:")]
    usable = (c for c in offered if is_usable_candidate(c, allow_loopback=allow_loopback))
    kept = list(dict.fromkeys(usable))
    if len(offered) > MAX_CANDIDATE_LINES or len(kept) > MAX_CANDIDATES:
        raise InvalidSdpError(f"There are too many ICE candidates; at most {MAX_CANDIDATES} are accepted.")
    return kept


def _is_rejected(section: list[str]) -> bool:
    fields = section[0].split(" ")
    return len(fields) > 1 and fields[1] == "0" and "a=bundle-only" not in section


def _mid(section: list[str]) -> str:
    return next((line[len("a=mid:") :].strip() for line in section if line.startswith("a=mid:")), "")


def _check_media(sections: list[list[str]], active: list[list[str]], purpose: Purpose) -> None:
    if len(sections) > MAX_SECTIONS:
        raise InvalidSdpError(f"The offer has {len(sections)} m-lines; at most {MAX_SECTIONS} are accepted.")
    for section in sections:
        fields = section[0][2:].split(" ")
        if len(fields) < 4 or not fields[1].isdigit() or not 0 <= int(fields[1]) <= 65535:
            raise InvalidSdpError("An m-line of the SDP offer is malformed.")
        if fields[0] in PROFILES and fields[2] != PROFILES[fields[0]]:
            raise InvalidSdpError(f"The {fields[0]} m-line must use '{PROFILES[fields[0]]}', not '{fields[2][:40]}'.")
        if fields[0] != "application" and not all(p.isdigit() and int(p) < 128 for p in fields[3:]):
            raise InvalidSdpError(f"The {fields[0][:16]} m-line names a payload type that is not from 0 to 127.")
        for line in section:
            if line.startswith("c="):
                _check_connection(line)
    kinds = [section[0][2:].split(" ")[0] for section in active]
    limits = {"audio": 1, "application": 1, "video": MAX_VIDEO}
    if "audio" not in kinds or any(kinds.count(kind) > limits.get(kind, 0) for kind in kinds):
        found = ", ".join(kind[:16] for kind in kinds) or "none"
        raise InvalidSdpError(
            "The offer must have one audio m-line, at most one application m-line and at most "
            f"{MAX_VIDEO} video m-lines; found: {found}."
        )
    audio = active[kinds.index("audio")]
    payloads = set(audio[0].split(" ")[3:])
    maps = (line[len("a=rtpmap:") :].split(" ", 1) for line in audio if line.startswith("a=rtpmap:"))
    mapped = {m[0]: m[1].lower() for m in maps if len(m) == 2}
    spoken = ("opus/48000", "g722/8000", "pcmu/8000", "pcma/8000")
    if not any(mapped.get(p, STATIC_CODECS.get(p, "")).startswith(spoken) for p in payloads):
        raise InvalidSdpError("The offer has no audio codec that this server speaks: Opus, G722, PCMU or PCMA.")
    if purpose == "call" and direction(audio) in ("inactive", "recvonly"):
        raise InvalidSdpError("The offer sends no audio: the audio m-line must be sendrecv or sendonly.")
    if purpose == "listen" and direction(audio) in ("inactive", "sendonly"):
        raise InvalidSdpError("The offer takes no audio: the audio m-line must be recvonly.")


def _check_connection(line: str) -> None:
    fields = line[2:].split(" ")
    if len(fields) != 3 or fields[0] != "IN" or fields[1] not in ("IP4", "IP6"):
        raise InvalidSdpError("A c-line of the SDP offer is malformed.")


def _has_no_address(session: list[str], audio: list[str]) -> bool:
    lines = [line for line in audio if line.startswith("c=")] or [line for line in session if line.startswith("c=")]
    if not lines or audio[0].split(" ")[1] == "9":
        return False
    return lines[0].rsplit(" ", 1)[1].partition("/")[0] in ("0.0.0.0", "::")


def _values(session: list[str], section: list[str], name: str) -> list[str]:
    """The values of an attribute in an m-section, else the session's."""
    prefix = f"a={name}:"
    own = [line[len(prefix) :].strip() for line in section if line.startswith(prefix)]
    return own or [line[len(prefix) :].strip() for line in session if line.startswith(prefix)]


def _check_bundle(session: list[str], sections: list[list[str]]) -> list[str]:
    """Everything shares one transport: two would need two handshakes, and no browser asks for it. Returns the group."""
    groups = [line.split(" ")[1:] for line in session if line.startswith("a=group:BUNDLE")]
    mids = [line[len("a=mid:") :].strip() for section in sections for line in section if line.startswith("a=mid:")]
    group = next((g for g in groups if set(mids) <= set(g)), None)
    if len(sections) < 2:
        return mids if group is not None else []
    if len(mids) != len(sections) or len(set(mids)) != len(mids) or group is None:
        raise InvalidSdpError("The m-sections of the offer must be bundled: 'a=group:BUNDLE' with every 'a=mid'.")
    return [mid for mid in dict.fromkeys(group) if mid in mids]


def _tagged(sections: list[list[str]], bundle: list[str]) -> list[str] | None:
    """The m-section whose transport the bundle uses: the first of the group (RFC 9143 section 7.2)."""
    for mid in bundle:
        for section in sections:
            if _mid(section) == mid:
                return section
    return None


def _take_candidates(
    session: list[str], sections: list[list[str]], bundle: list[str], *, allow_loopback: bool
) -> list[str]:
    """Take the candidates out of the lines and return the usable ones: those of the bundle's transport, which is the
    only one that will be used, or whatever there is if they stand elsewhere."""
    tagged = _tagged(sections, bundle)
    everywhere = [line for lines in (session, *sections) for line in lines]
    own = [] if tagged is None else [line for line in tagged if line.startswith("a=candidate:")]
    if len([line for line in everywhere if line.startswith("a=candidate:")]) > MAX_CANDIDATE_LINES:
        raise InvalidSdpError(f"The offer names too many ICE candidates; at most {MAX_CANDIDATES} are accepted.")
    for lines in (session, *sections):
        lines[:] = [line for line in lines if not line.startswith("a=candidate:")]
    return usable_candidates(own or everywhere, allow_loopback=allow_loopback)


def _inherit_transport(session: list[str], section: list[str], tagged: list[str] | None) -> None:
    """What a bundled m-section may leave out, it has from the tagged one (RFC 9143 section 7.1.3)."""
    if tagged is None or tagged is section:
        return
    for name in _TRANSPORT:
        if not _values(session, section, name):
            section += [line for line in tagged if line.startswith(f"a={name}:")]


def _without_mids(session: list[str], mids: set[str]) -> list[str]:
    kept = []
    for line in session:
        if line.startswith("a=group:BUNDLE"):
            line = " ".join(["a=group:BUNDLE", *(mid for mid in line.split(" ")[1:] if mid not in mids)])
        kept.append(line)
    return kept


def _check_transport(session: list[str], section: list[str]) -> list[str]:
    """ICE credentials and fingerprints of one m-section, its own or the session's. Returns the fingerprints."""

    def values(name: str) -> list[str]:
        return _values(session, section, name)

    for name, minimum in (("ice-ufrag", MIN_UFRAG), ("ice-pwd", MIN_PWD)):
        found = values(name)
        if len(found) != 1 or not is_credential(found[0], minimum):
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
