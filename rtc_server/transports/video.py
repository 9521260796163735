"""Answers for m-sections that are offered and not used: video, and what the offer rejects itself. Pure.

WHIP senders (OBS, GStreamer) and Pipecat's client offer video beside the voice. RFC 9725 wants an offer taken whole or
not at all; answering video `inactive`, in the bundle, keeps them usable and makes nobody send what nobody reads. aiortc
would refuse AV1 and H265 and start decoders for the rest, so it sees neither the sections nor their packets.
"""

from __future__ import annotations

from .sdp import Offer, UnusedSection, split

_SHARED = ("a=candidate:", "a=end-of-candidates", "a=ice-ufrag:", "a=ice-pwd:", "a=ice-options:", "a=fingerprint:")


def with_unused(answer: str, offer: Offer) -> str:
    """aiortc's answer, with an m-section for each that the offer has, in its order."""
    if not offer.unused:
        return answer
    session, sections = split(answer.replace("\r\n", "\n").rstrip("\n").split("\n"))
    transport = [line for line in sections[0] if line.startswith((*_SHARED, "a=setup:"))]
    for unused in offer.unused:
        section = _rejected(unused) if unused.is_rejected else [*_inactive(unused), *transport]
        sections.insert(unused.index, section)
    group = "a=group:BUNDLE " + " ".join(offer.bundle)
    session = [group if line.startswith("a=group:BUNDLE") else line for line in session]
    return "\r\n".join([*session, *(line for section in sections for line in section), ""])


def _rejected(unused: UnusedSection) -> list[str]:
    kind, _, profile, *formats = unused.lines[0][2:].split(" ")
    lines = [f"m={kind} 0 {profile} {formats[0]}", "c=IN IP4 0.0.0.0", "a=inactive"]
    return [*lines, f"a=mid:{unused.mid}"] if unused.mid else lines


def _inactive(unused: UnusedSection) -> list[str]:
    """With the first codec that was offered: an m-line must name one, whether anybody speaks it or not."""
    mapped = [line[len("a=rtpmap:") :].split(" ")[0] for line in unused.lines if line.startswith("a=rtpmap:")]
    formats = unused.lines[0].split(" ")[3:]
    chosen = next((number for number in formats if number in mapped), formats[0])
    about = (f"a=rtpmap:{chosen} ", f"a=fmtp:{chosen} ")
    return [
        f"m=video 9 UDP/TLS/RTP/SAVPF {chosen}",
        *("c=IN IP4 0.0.0.0", "a=inactive", f"a=mid:{unused.mid}", "a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp-mux"),
        *(line for line in unused.lines if line.startswith(about)),
    ]
