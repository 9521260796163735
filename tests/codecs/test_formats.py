"""Which feedback an offer is answered with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.codecs.formats import TRANSPORT_SEQUENCE_URI, Negotiated, negotiate

OPUS_AND_PCMU = ["m=audio 9 UDP/TLS/RTP/SAVPF 111 0", "a=rtpmap:111 opus/48000/2", "a=rtpmap:0 PCMU/8000"]
EXTENSION = f"a=extmap:3 {TRANSPORT_SEQUENCE_URI}"


def negotiated(*lines: str) -> Negotiated:
    found = negotiate([*OPUS_AND_PCMU, *lines])
    assert found is not None
    return found


NUMBERS = {
    "both": (["a=rtcp-fb:111 transport-cc", EXTENSION], 3),
    "for every codec": (["a=rtcp-fb:* transport-cc", EXTENSION], 3),
    "both ways": (["a=rtcp-fb:111 transport-cc", EXTENSION.replace(":3", ":9/sendrecv")], 9),
    "two-byte number": (["a=rtcp-fb:111 transport-cc", EXTENSION.replace(":3", ":200")], 200),
    "nothing": ([], None),
    "extension alone": ([EXTENSION], None),
    "feedback alone": (["a=rtcp-fb:111 transport-cc"], None),
    "of another codec": (["a=rtcp-fb:0 transport-cc", EXTENSION], None),
    "other feedback": (["a=rtcp-fb:111 transport-cc-v2", EXTENSION], None),
    "other extension": (["a=rtcp-fb:111 transport-cc", "a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid"], None),
    "one way": (["a=rtcp-fb:111 transport-cc", EXTENSION.replace(":3", ":3/sendonly")], None),
    "to a peer that takes no packets": (["a=rtcp-fb:111 transport-cc", EXTENSION, "a=sendonly"], None),
    "number 0": (["a=rtcp-fb:111 transport-cc", EXTENSION.replace(":3", ":0")], None),
    "number 15": (["a=rtcp-fb:111 transport-cc", EXTENSION.replace(":3", ":15")], None),
    "number 256": (["a=rtcp-fb:111 transport-cc", EXTENSION.replace(":3", ":256")], None),
    "number of two extensions": (["a=rtcp-fb:111 transport-cc", "a=extmap:3 urn:other", EXTENSION], None),
}


@pytest.mark.parametrize(("lines", "number"), NUMBERS.values(), ids=NUMBERS)
def test_transport_wide_feedback_needs_the_extension_and_the_feedback(lines: list[str], number: int | None) -> None:
    assert negotiated(*lines).transport_sequence_id == number


@pytest.mark.parametrize(
    ("lines", "has_nack", "has_remb"),
    [
        ([], False, False),
        (["a=rtcp-fb:111 goog-remb"], False, True),
        (["a=rtcp-fb:* goog-remb", "a=rtcp-fb:111 nack"], True, True),
        (["a=rtcp-fb:0 goog-remb"], False, False),
        (["a=rtcp-fb:111 nack pli"], False, False),
    ],
)
def test_feedback_is_that_of_the_codec_to_speak_with(lines: Sequence[str], has_nack: bool, has_remb: bool) -> None:
    found = negotiated(*lines)
    assert (found.has_nack, found.has_remb) == (has_nack, has_remb)


@given(st.lists(st.from_regex(r"a=(extmap|rtcp-fb):.{0,20}", fullmatch=True), max_size=12))
def test_no_lines_raise(lines: list[str]) -> None:
    negotiated(*lines)
