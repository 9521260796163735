"""Which codecs a call uses: the audio m-section of an offer in, what the answer says out. Pure.

The offer was validated (`transports.sdp`), yet every line is still read with care: what cannot be understood is not
offered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import PayloadFormat

SPEECH = ("opus", "G722", "PCMU", "PCMA")  # best first
AUXILIARY = ("telephone-event", "CN", "red")
_CLOCK_RATES = {"opus": (48_000,), "G722": (8_000,), "PCMU": (8_000,), "PCMA": (8_000,), "red": (48_000,)}
_STATIC = {0: ("PCMU", 8_000), 8: ("PCMA", 8_000), 9: ("G722", 8_000), 13: ("CN", 8_000)}  # RFC 3551 table 4
_RTPMAP = re.compile(r"a=rtpmap:(\d{1,3}) ([A-Za-z0-9.-]{1,32})/(\d{1,6})(?:/(\d))?\s*\Z")
_FMTP = re.compile(r"a=fmtp:(\d{1,3}) (.{1,512})\Z")
_FEEDBACK = re.compile(r"a=rtcp-fb:(\d{1,3}|\*) (nack|transport-cc|goog-remb)\s*\Z")
_EXTENSION = re.compile(r"a=extmap:(\d{1,3})(/[a-z]{1,8})? (\S{1,256})")
TRANSPORT_SEQUENCE_URI = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
"""The RTP header extension that numbers packets across the streams of a transport."""
_NAMES = {name.lower(): name for name in (*SPEECH, *AUXILIARY)}


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both sides can do, the codec to speak with first."""

    formats: tuple[PayloadFormat, ...]
    """Speech codecs in our order of preference, then the auxiliary ones."""
    has_nack: bool = False
    """The peer asks for lost packets again (RFC 4585)."""
    has_remb: bool = False
    """The peer tells how much it can receive (draft-alvestrand-rmcat-remb-03)."""
    transport_sequence_id: int | None = None
    """The header extension with the peer's transport-wide sequence numbers; None when it wants no feedback on them."""

    @property
    def speech(self) -> PayloadFormat:
        """The codec to encode with."""
        return self.formats[0]


def read_formats(lines: Sequence[str]) -> tuple[PayloadFormat, ...]:
    """The payload formats of one audio m-section, its m-line first, in the peer's order; unknown codecs are left
    out."""
    if not lines or not lines[0].startswith("m=audio "):
        return ()
    listed = [int(field) for field in lines[0].split(" ")[3:] if field.isdigit() and int(field) < 128]
    maps: dict[int, tuple[str, int, int]] = {}
    parameters: dict[int, Mapping[str, str]] = {}
    for line in lines[1:]:
        if match := _RTPMAP.match(line):
            name = _NAMES.get(match[2].lower())
            if name is not None:
                maps.setdefault(int(match[1]), (name, int(match[3]), int(match[4] or 1)))
            else:
                maps.setdefault(int(match[1]), ("", 0, 0))
        elif match := _FMTP.match(line):
            parameters.setdefault(int(match[1]), _parameters(match[2]))
    formats = []
    for number in dict.fromkeys(listed):
        name, rate, channels = maps.get(number) or (*_STATIC.get(number, ("", 0)), 1)
        if name and rate in _CLOCK_RATES.get(name, (8_000, 16_000, 32_000, 48_000)):
            formats.append(PayloadFormat(number, name, rate, channels, parameters.get(number, {})))
    return tuple(formats)


def negotiate(lines: Sequence[str]) -> Negotiated | None:
    """What to answer an audio m-section with; None when it has no codec that we speak."""
    offered = read_formats(lines)
    speech = sorted((f for f in offered if f.name in SPEECH), key=lambda f: SPEECH.index(f.name))
    if not speech:
        return None
    rates = {f.clock_rate for f in speech}
    types = {f.payload_type for f in speech}
    auxiliary = [f for f in offered if f.name in AUXILIARY and f.clock_rate in rates and _is_red_of(f, types)]
    chosen = ("*", str(speech[0].payload_type))
    feedback = {match[2] for match in map(_FEEDBACK.match, lines) if match and match[1] in chosen}
    return Negotiated(
        (*speech, *auxiliary),
        has_nack="nack" in feedback,
        has_remb="goog-remb" in feedback,
        transport_sequence_id=_transport_sequence_id(lines) if "transport-cc" in feedback else None,
    )


def answer_parameters(
    payload_format: PayloadFormat, *, use_dtx: bool, max_bitrate: int | None = None
) -> dict[str, str]:
    """The `a=fmtp` that we answer with: what we would like to receive."""
    match payload_format.name:
        case "opus":
            wanted = {"minptime": "10", "useinbandfec": "1"}
            if use_dtx:
                wanted["usedtx"] = "1"
            if max_bitrate is not None:
                wanted["maxaveragebitrate"] = str(max_bitrate)
            return wanted
        case "telephone-event":
            return {"0-15": ""}
        case "red":
            return {next(iter(payload_format.parameters), ""): ""}
        case _:
            return {}


def _transport_sequence_id(lines: Sequence[str]) -> int | None:
    """The number that the offer gives the extension. A one-way mapping would need a one-way answer, which aiortc does
    not write; a peer that only sends gets no feedback, for we send it nothing at all."""
    mapped = [match for match in map(_EXTENSION.match, lines) if match]
    for match in mapped:
        identifier = int(match[1])
        is_valid = 0 < identifier < 256 and identifier != 15 and match[2] in (None, "/sendrecv")  # RFC 8285 section 4
        if match[3] == TRANSPORT_SEQUENCE_URI and is_valid and "a=sendonly" not in lines:
            return identifier if [int(m[1]) for m in mapped].count(identifier) == 1 else None
    return None


def _is_red_of(payload_format: PayloadFormat, types: set[int]) -> bool:
    """RED is only of use when it repeats a codec that we take: `a=fmtp:63 111/111` (RFC 2198 section 5)."""
    if payload_format.name != "red":
        return True
    wrapped = next(iter(payload_format.parameters), "").split("/")
    return bool(wrapped) and all(field.isdigit() and int(field) in types for field in wrapped)


def _parameters(text: str) -> Mapping[str, str]:
    """`a=1;b` -> {"a": "1", "b": ""}; names in lower case."""
    found: dict[str, str] = {}
    for item in text.split(";")[:32]:
        name, _, value = item.strip().partition("=")
        if name:
            found.setdefault(name.strip().lower(), value.strip())
    return found
