"""What a transport answers to the feedback that an offer asks for, and that its stream then keeps to it."""

from __future__ import annotations

import pytest

from rtc_server.codecs.formats import TRANSPORT_SEQUENCE_URI
from rtc_server.network.sockets import MediaSockets
from rtc_server.transports.pacer import Pacer
from rtc_server.transports.sdp import validate_offer
from rtc_server.transports.webrtc import MediaResources, WebRtcOptions, WebRtcTransport

MID = "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid"
EXTENSION = f"a=extmap:3 {TRANSPORT_SEQUENCE_URI}"
OFFER = [
    *("v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0"),
    *(
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 0",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:EsAw",
        "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
    ),
    "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
    *("a=setup:actpass", "a=mid:0", "a=sendrecv", "a=rtcp-mux", "a=rtpmap:111 opus/48000/2", "a=rtpmap:0 PCMU/8000"),
]


async def answered(*lines: str) -> list[str]:
    """The feedback and header extension lines of the answer to an offer with these."""
    resources = MediaResources(MediaSockets(), Pacer())
    transport = WebRtcTransport(WebRtcOptions(host_addresses=("127.0.0.1",)), resources)
    try:
        answer = await transport.answer(validate_offer("\r\n".join([*OFFER, *lines, ""]).encode()))
    finally:
        await transport.close()
        resources.close()
    return [line for line in answer.splitlines() if line.startswith(("a=rtcp-fb", "a=extmap"))]


ANSWERED = {
    "nothing": ([], []),
    "transport-wide feedback": (
        [MID, EXTENSION, "a=rtcp-fb:111 transport-cc"],
        [MID, EXTENSION, "a=rtcp-fb:111 transport-cc"],
    ),
    "the extension alone": ([MID, EXTENSION], [MID]),
    "the feedback alone": (["a=rtcp-fb:111 transport-cc"], []),
    "all, for every codec": (
        [EXTENSION, "a=rtcp-fb:* goog-remb", "a=rtcp-fb:* nack", "a=rtcp-fb:* transport-cc"],
        [EXTENSION, "a=rtcp-fb:111 nack", "a=rtcp-fb:111 transport-cc", "a=rtcp-fb:111 goog-remb"],
    ),
    "the peer's estimate": (["a=rtcp-fb:111 goog-remb"], ["a=rtcp-fb:111 goog-remb"]),
    "of another codec": ([EXTENSION, "a=rtcp-fb:0 transport-cc", "a=rtcp-fb:0 goog-remb"], []),
    "what is not spoken": (["a=rtcp-fb:111 ccm tmmbr", "a=rtcp-fb:111 nack pli"], []),
}


@pytest.mark.parametrize(("offered", "answer"), ANSWERED.values(), ids=ANSWERED)
async def test_feedback_is_answered_where_it_is_offered(offered: list[str], answer: list[str]) -> None:
    assert await answered(*offered) == answer
