"""Telephone codecs, and what an offer is answered with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.codecs.base import CodecError
from rtc_server.codecs.formats import answer_parameters, negotiate, read_formats
from rtc_server.codecs.narrowband import NarrowbandDecoder, NarrowbandEncoder

CHROMIUM = """m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126
a=rtpmap:111 opus/48000/2
a=rtcp-fb:111 transport-cc
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:13 CN/8000
a=rtpmap:110 telephone-event/48000
a=rtpmap:126 telephone-event/8000""".splitlines()


@pytest.mark.parametrize("name", ["PCMU", "PCMA", "G722"])
def test_a_tone_survives_the_round_trip(name: str) -> None:
    encoder, decoder = NarrowbandEncoder(name), NarrowbandDecoder(name)
    size = encoder.frame_samples
    time = np.arange(size * 50) / encoder.sample_rate
    tone = (10_000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    payloads = [encoder.encode(tone[i : i + size]) for i in range(0, len(tone), size)]
    assert {len(payload) for payload in payloads} == {160}
    pcm = np.concatenate([decoder.decode(payload) for payload in payloads])
    assert len(pcm) == 16_000
    spectrum = np.abs(np.fft.rfft(pcm[4_000:12_000].astype(np.float64)))
    assert np.argmax(spectrum) == 220
    assert np.abs(pcm[4_000:]).max() == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("name", ["PCMU", "PCMA", "G722"])
def test_silence_is_silent_and_a_loss_fades(name: str) -> None:
    encoder, decoder = NarrowbandEncoder(name), NarrowbandDecoder(name)
    for _ in range(5):
        silence = decoder.decode(encoder.silent_payload())
    assert np.abs(silence).max() <= 40
    decoder.decode(bytes(range(160)))
    levels = [int(np.abs(decoder.conceal(320)).max()) for _ in range(5)]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0


@pytest.mark.parametrize("payload", [b"", bytes(5_000)])
def test_a_payload_of_no_sensible_length_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CodecError):
        NarrowbandDecoder("PCMU").decode(payload)


def test_a_browsers_offer_is_answered_with_everything_that_helps() -> None:
    negotiated = negotiate(CHROMIUM)
    assert negotiated is not None
    names = [payload_format.name for payload_format in negotiated.formats]
    assert names == ["opus", "G722", "PCMU", "PCMA", "red", "CN", "telephone-event", "telephone-event"]
    assert answer_parameters(negotiated.speech, use_dtx=True) == {"minptime": "10", "useinbandfec": "1", "usedtx": "1"}
    assert "usedtx" not in answer_parameters(negotiated.speech, use_dtx=False)
    assert not negotiated.has_nack


def test_static_payload_types_need_no_rtpmap() -> None:
    negotiated = negotiate(["m=audio 9 UDP/TLS/RTP/SAVPF 8 0"])
    assert negotiated is not None
    assert [f.name for f in negotiated.formats] == ["PCMU", "PCMA"]


def test_an_offer_without_a_codec_of_ours_is_not_answered() -> None:
    assert negotiate(["m=audio 9 UDP/TLS/RTP/SAVPF 97", "a=rtpmap:97 speex/16000"]) is None


def test_red_of_a_codec_that_is_not_there_is_left_out() -> None:
    lines = ["m=audio 9 X 111 63", "a=rtpmap:111 opus/48000/2", "a=rtpmap:63 red/48000/2", "a=fmtp:63 9/9"]
    negotiated = negotiate(lines)
    assert negotiated is not None
    assert [f.name for f in negotiated.formats] == ["opus"]


@given(st.lists(st.text(max_size=60), max_size=12))
def test_no_lines_raise(lines: list[str]) -> None:
    read_formats(["m=audio 9 X 111 0 8", *lines])
    negotiate(["m=audio 9 X 111 0 8", *lines])
