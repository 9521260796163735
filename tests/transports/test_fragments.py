"""ICE fragments: what is read out of them, and that nothing hostile gets further."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_server.errors import InvalidSdpError, SdpTooLargeError
from rtc_server.transports.fragments import MAX_FRAGMENT_BYTES, IceFragment, read_fragment, restart_fragment

CREDENTIALS = ["a=ice-ufrag:EsAw", "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1"]
MEDIA = ["m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:0"]
CANDIDATE = "1 1 udp 2130706431 203.0.113.7 50000 typ host"
RFC = [
    "a=group:BUNDLE 0 1",
    *MEDIA,
    *CREDENTIALS,
    f"a=candidate:{CANDIDATE} generation 0 ufrag EsAw network-id 1",
    "a=end-of-candidates",
]


def read(*lines: str, allow_loopback: bool = False) -> IceFragment:
    return read_fragment("\r\n".join([*lines, ""]).encode(), allow_loopback=allow_loopback)


def test_credentials_may_stand_anywhere() -> None:
    for lines in (RFC, [*CREDENTIALS, *MEDIA, f"a=candidate:{CANDIDATE}", "a=end-of-candidates"]):
        fragment = read(*lines)
        assert (fragment.ufrag, fragment.pwd, fragment.mid) == ("EsAw", "P2uYro0UCOQ4zxjKXaWCBui1", "0")
        assert len(fragment.candidates) == 2
        assert fragment.candidates[1] == ""


def test_an_empty_fragment_says_nothing() -> None:
    assert read_fragment(b"") == read("", "") == IceFragment(None, None, ())


def test_two_lines_are_a_restart_of_a_client_that_names_no_section() -> None:
    assert read(*CREDENTIALS) == IceFragment("EsAw", "P2uYro0UCOQ4zxjKXaWCBui1", (), None)


def test_unusable_candidates_are_dropped_silently() -> None:
    unusable = [CANDIDATE.replace("203.0.113.7", a) for a in ("x.local", "127.0.0.1", "169.254.1.1", "224.0.0.1")]
    lines = [f"a=candidate:{c}" for c in (*unusable, CANDIDATE.replace("udp", "tcp"), CANDIDATE, CANDIDATE)]
    assert read(*CREDENTIALS, *lines).candidates == (CANDIDATE,)
    assert len(read(*CREDENTIALS, *lines, allow_loopback=True).candidates) == 2


@pytest.mark.parametrize(
    "lines",
    [
        ["nonsense"],
        ["a=ice-ufrag:abc"],
        ["a=ice-ufrag:EsAw", "a=ice-pwd:short"],
        ["a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1"],
        ["a=ice-ufrag:EsAw", "a=ice-ufrag:Other"],
        ["a=ice-ufrag:" + "x" * 300],
        [f"a=candidate:1 1 udp 1 203.0.113.{n} 50000 typ host" for n in range(1, 20)],
        ["a=candidate:junk"] * 200,
    ],
)
def test_a_bad_fragment_is_refused(lines: list[str]) -> None:
    with pytest.raises(InvalidSdpError):
        read(*lines)


def test_a_large_fragment_is_refused_before_it_is_read() -> None:
    with pytest.raises(SdpTooLargeError):
        read_fragment(b"\xff" * (MAX_FRAGMENT_BYTES + 1))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_fragment_is_a_fragment_or_refused(data: st.DataObject) -> None:
    body = bytearray("\r\n".join([*RFC, ""]).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[position] = data.draw(st.integers(0, 255))
        else:
            body[position : position + data.draw(st.integers(1, 40))] = data.draw(st.binary(max_size=20))
    try:
        fragment = read_fragment(bytes(body))
    except InvalidSdpError as refused:
        assert refused.message.endswith(".")  # noqa: PT017 - both outcomes are right
        return
    assert len(fragment.candidates) <= 17
    assert fragment.ufrag is None or 4 <= len(fragment.ufrag) <= 256


@given(st.binary(max_size=300))
def test_any_bytes_are_a_fragment_or_refused(body: bytes) -> None:
    try:
        read_fragment(body)
    except InvalidSdpError:
        return


def test_the_answer_to_a_restart_is_a_fragment_itself() -> None:
    pwd = "P2uYro0UCOQ4zxjKXaWCBui1"
    text = restart_fragment("EsAw", pwd, [CANDIDATE], mids=["0", "1"], formats="111 0", is_lite=True)
    assert read_fragment(text.encode()) == IceFragment("EsAw", pwd, (CANDIDATE, ""), "0")
    assert text.startswith("a=ice-lite\r\n")
    assert "m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\n" in text
