"""Offers with video beside the voice: aiortc never sees it, and the answer is still one to the whole offer."""

from __future__ import annotations

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription

from rtc_server.errors import InvalidSdpError
from rtc_server.network.sockets import MediaSockets
from rtc_server.transports.pacer import Pacer
from rtc_server.transports.sdp import Purpose, validate_offer
from rtc_server.transports.webrtc import MediaResources, WebRtcOptions, WebRtcTransport

TRANSPORT = [
    *("a=ice-ufrag:EsAw", "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1", "a=setup:actpass"),
    "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
]
CANDIDATE = "a=candidate:1 1 udp 2130706431 203.0.113.7 50000 typ host"


def audio(mid: str, *lines: str, direction: str = "sendonly", port: int = 9) -> list[str]:
    media = [f"m=audio {port} UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", f"a=mid:{mid}", f"a={direction}"]
    return [*media, "a=rtcp-mux", "a=rtpmap:111 opus/48000/2", *lines]


def video(mid: str, *lines: str, codec: str = "H264", port: int = 9) -> list[str]:
    media = [f"m=video {port} UDP/TLS/RTP/SAVPF 96 97", "c=IN IP4 0.0.0.0", f"a=mid:{mid}", "a=sendonly"]
    maps = [f"a=rtpmap:96 {codec}/90000", "a=fmtp:96 profile-level-id=42e01f", "a=rtpmap:97 rtx/90000"]
    return [*media, "a=rtcp-mux", *maps, "a=fmtp:97 apt=96", *lines]


def application(mid: str, *lines: str) -> list[str]:
    media = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", f"a=mid:{mid}"]
    return [*media, "a=sctp-port:5000", *lines]


def offer(*sections: list[str], bundle: str) -> bytes:
    head = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=group:BUNDLE {bundle}"]
    return "\r\n".join([*head, *(line for section in sections for line in section), ""]).encode()


async def answered(body: bytes, purpose: Purpose = "call") -> tuple[list[str], list[list[str]]]:
    """Session lines and m-sections of the answer."""
    resources = MediaResources(MediaSockets(), Pacer())
    transport = WebRtcTransport(WebRtcOptions(host_addresses=("127.0.0.1",), purpose=purpose), resources)
    try:
        answer = await transport.answer(validate_offer(body, purpose=purpose))
    finally:
        await transport.close()
        resources.close()
    sections: list[list[str]] = [[]]
    for line in answer.splitlines():
        if line.startswith("m="):
            sections.append([])
        sections[-1].append(line)
    return sections[0], sections[1:]


@pytest.mark.parametrize("codec", ["H264", "AV1", "H265", "VP8"])
async def test_video_is_answered_inactive_whatever_its_codec(codec: str) -> None:
    body = offer(audio("0", *TRANSPORT), video("1", *TRANSPORT, codec=codec), bundle="0 1")
    session, (voice, picture) = await answered(body)
    assert "a=group:BUNDLE 0 1" in session
    assert "a=recvonly" in voice
    assert picture[0] == "m=video 9 UDP/TLS/RTP/SAVPF 96"
    assert {"a=inactive", "a=mid:1", "a=rtcp-mux", f"a=rtpmap:96 {codec}/90000"} <= set(picture)
    shared = ("a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=setup:", "a=candidate:")
    for name in shared:
        assert [line for line in picture if line.startswith(name)] == [line for line in voice if line.startswith(name)]


async def test_video_first_keeps_its_place_and_lends_its_transport() -> None:
    """As GStreamer writes it: only the tagged m-section, here the picture, has a transport."""
    sections = [
        video("video0", *TRANSPORT, CANDIDATE),
        audio("audio1", "a=bundle-only", port=0),
        application("data2", "a=bundle-only"),
    ]
    body = offer(*sections, bundle="video0 audio1 data2")
    taken = validate_offer(body)
    assert (taken.ice_ufrag, taken.num_candidates) == ("EsAw", 1)
    assert "video" not in taken.sdp
    session, (picture, voice, data) = await answered(body)
    assert "a=group:BUNDLE video0 audio1 data2" in session
    assert [section[0].split(" ")[0] for section in (picture, voice, data)] == ["m=video", "m=audio", "m=application"]


async def test_what_the_offer_rejects_itself_is_rejected() -> None:
    body = offer(audio("0", *TRANSPORT), video("1", port=0), bundle="0")
    session, (_, picture) = await answered(body)
    assert "a=group:BUNDLE 0" in session
    assert picture[0].startswith("m=video 0 ")


async def test_a_browser_takes_the_answer() -> None:
    """aiortc in a browser's place: Pipecat's client offers voice, two pictures and a channel."""
    peer = RTCPeerConnection()
    peer.addTransceiver("audio", direction="sendrecv")
    peer.addTransceiver("video", direction="sendrecv")
    peer.addTransceiver("video", direction="sendonly")
    peer.createDataChannel("chat")
    await peer.setLocalDescription(await peer.createOffer())
    session, sections = await answered(peer.localDescription.sdp.encode())
    answer = "\r\n".join([*session, *(line for section in sections for line in section), ""])
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    assert [t.currentDirection for t in peer.getTransceivers()] == ["sendrecv", "inactive", "inactive"]
    await peer.close()


async def test_a_listener_is_only_sent_to() -> None:
    for wanted in ("recvonly", "sendrecv"):
        body = offer(audio("0", *TRANSPORT, direction=wanted), bundle="0")
        _, (voice,) = await answered(body, "listen")
        assert "a=sendonly" in voice


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (offer(audio("0", *TRANSPORT), *(video(str(n)) for n in range(1, 6)), bundle="0 1 2 3 4 5"), "at most 4 video"),
        (offer(audio("0", *TRANSPORT), video("1", *TRANSPORT), bundle="0"), "bundled"),
        (offer(audio("0", *TRANSPORT), video("0", *TRANSPORT), bundle="0"), "bundled"),
        (offer(audio("0", *TRANSPORT), *(video(str(n), port=0) for n in range(1, 10)), bundle="0"), "at most 8"),
        (offer(video("0", *TRANSPORT), bundle="0"), "one audio m-line"),
        (offer(audio("0", *TRANSPORT, port=0), video("1", *TRANSPORT), bundle="1"), "one audio m-line"),
        (offer(audio("0", *TRANSPORT), ["m=video 9 RTP/AVP 96", "a=mid:1"], bundle="0 1"), "must use"),
        (offer(audio("0", *TRANSPORT), ["m=video 9 UDP/TLS/RTP/SAVPF x", "a=mid:1"], bundle="0 1"), "payload type"),
        (offer(audio("0", *TRANSPORT), ["m=text 9 UDP/TLS/RTP/SAVPF 98", "a=mid:1"], bundle="0 1"), "one audio m-line"),
        (offer(audio("0"), video("1"), bundle="0 1"), "ice-ufrag"),
    ],
)
def test_everything_else_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidSdpError, match=sentence):
        validate_offer(body)


def test_candidates_repeated_in_every_section_count_once() -> None:
    """Chromium gathers for each m-section until it knows of the bundle; only those of the tagged one are of use."""

    def candidates(base: int) -> list[str]:
        return [f"a=candidate:{n} 1 udp 1 203.0.113.{n} {base + n} typ host" for n in range(1, 11)]

    sections = [audio("0", *TRANSPORT, *candidates(1000)), video("1", *TRANSPORT, *candidates(2000))]
    taken = validate_offer(offer(*sections, video("2", *TRANSPORT, *candidates(3000)), bundle="0 1 2"))
    assert taken.num_candidates == 10
    assert all(" 10" in candidate for candidate in taken.candidates)
