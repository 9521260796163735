"""Session descriptions that are wrong, or right in a way that few write them, as bodies of good INVITEs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PEER_SDP = (
    b"v=0\r\no=edge 4712 1 IN IP4 %HOST%\r\ns=-\r\nt=0 0\r\nm=audio 40000 UDP/TLS/RTP/SAVPF 0 101\r\n"
    b"c=IN IP4 %HOST%\r\n"
    b"a=mid:0\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendrecv\r\n"
    b"a=rtcp-mux\r\na=setup:actpass\r\na=fingerprint:sha-256 "
    + b":".join(b"%02X" % byte for byte in range(32))
    + b"\r\n"
    b"a=ice-ufrag:Edge1\r\na=ice-pwd:ThisIsAPasswordOfTheEdge1\r\n"
    b"a=candidate:1 1 UDP 2130706431 %HOST% 40000 typ host\r\na=end-of-candidates\r\n"
)
"""What the media relay makes of a telephone's offer: the adapter alone is sent this."""


@dataclass(frozen=True, slots=True)
class Body:
    """One variant; `change` is made to a good description."""

    name: str
    change: Callable[[bytes], bytes]
    may_be_taken: bool = False
    """A tolerant server may answer with media all the same."""

    def of(self, good: bytes) -> bytes:
        """The variant of `good`."""
        return self.change(good)


def _without(start: bytes) -> Callable[[bytes], bytes]:
    return lambda good: b"".join(line for line in good.splitlines(True) if not line.startswith(start))


def _line(start: bytes, replacement: bytes) -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        lines = good.splitlines(True)
        assert any(line.startswith(start) for line in lines), start
        return b"".join(replacement + b"\r\n" if line.startswith(start) else line for line in lines)

    return change


def _audio(edit: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    """The words of the line "m=audio PORT PROTOCOL FORMAT..." edited."""

    def change(good: bytes) -> bytes:
        return b"".join(
            b" ".join(edit(line.split())) + b"\r\n" if line.startswith(b"m=audio") else line
            for line in good.splitlines(True)
        )

    return change


def _more(text: bytes) -> Callable[[bytes], bytes]:
    return lambda good: good + text


BODIES = (
    Body("empty_lines_only", lambda good: b"\r\n\r\n"),
    Body("random_text", lambda good: b"this is no session description\r\n"),
    Body("random_bytes", lambda good: bytes(range(256)) * 2),
    Body("html", lambda good: b"<html><body>v=0</body></html>"),
    Body("cut_in_half", lambda good: good[: len(good) // 2], may_be_taken=True),
    Body("cut_within_the_audio_line", lambda good: good[: good.index(b"m=audio") + 9]),
    Body("no_version", _without(b"v="), may_be_taken=True),
    Body("version_9", _line(b"v=", b"v=9"), may_be_taken=True),
    Body("no_origin", _without(b"o="), may_be_taken=True),
    Body("origin_too_short", _line(b"o=", b"o=phone 1"), may_be_taken=True),
    Body("origin_with_huge_numbers", _line(b"o=", b"o=- " + b"9" * 60 + b" " + b"8" * 60 + b" IN IP4 %HOST%"), True),
    Body("no_session_name_and_time", lambda good: _without(b"s=")(_without(b"t=")(good)), may_be_taken=True),
    Body("no_connection", _without(b"c="), may_be_taken=True),
    Body("connection_to_a_name", _line(b"c=", b"c=IN IP4 phone.invalid"), may_be_taken=True),
    Body("connection_to_ipv6_without_ipv6", _line(b"c=", b"c=IN IP6 2001:db8::9"), may_be_taken=True),
    Body("connection_to_multicast", _line(b"c=", b"c=IN IP4 224.2.1.1/127"), may_be_taken=True),
    Body("connection_to_loopback", _line(b"c=", b"c=IN IP4 127.0.0.1"), may_be_taken=True),
    Body("connection_to_broadcast", _line(b"c=", b"c=IN IP4 255.255.255.255"), may_be_taken=True),
    Body("connection_of_four_times_999", _line(b"c=", b"c=IN IP4 999.999.999.999"), may_be_taken=True),
    Body("connection_by_atm", _line(b"c=", b"c=ATM NSAP 47.0091"), may_be_taken=True),
    Body("no_media", lambda good: good[: good.index(b"m=audio")]),
    Body("only_video", lambda good: good.replace(b"m=audio", b"m=video")),
    Body("only_fax", _audio(lambda words: [b"m=image", words[1], b"udptl", b"t38"])),
    Body("port_zero", _audio(lambda words: [words[0], b"0", *words[2:]])),
    Body("port_99999", _audio(lambda words: [words[0], b"99999", *words[2:]]), may_be_taken=True),
    Body("port_negative", _audio(lambda words: [words[0], b"-4", *words[2:]]), may_be_taken=True),
    Body("port_in_words", _audio(lambda words: [words[0], b"four", *words[2:]])),
    Body("ports_in_pairs", _audio(lambda words: [words[0], b"40000/65535", *words[2:]]), may_be_taken=True),
    Body("protocol_unknown", _audio(lambda words: [words[0], words[1], b"TCP/MSRP", *words[3:]])),
    Body("no_formats", _audio(lambda words: words[:3])),
    Body("formats_in_words", _audio(lambda words: [*words[:3], b"zero", b"one"])),
    Body("formats_beyond_127", _audio(lambda words: [*words[:3], b"128", b"4096", b"-1"])),
    Body(
        "formats_by_the_thousand", _audio(lambda words: [*words[:3], *(b"%d" % (n % 128) for n in range(1000))]), True
    ),
    Body("format_nobody_speaks", lambda good: _audio(lambda words: [*words[:3], b"4"])(good)),
    Body("codec_without_clock", _line(b"a=rtpmap:0", b"a=rtpmap:0 PCMU"), may_be_taken=True),
    Body("codec_with_clock_zero", _line(b"a=rtpmap:0", b"a=rtpmap:0 PCMU/0"), may_be_taken=True),
    Body("codec_with_clock_in_words", _line(b"a=rtpmap:0", b"a=rtpmap:0 PCMU/fast/many"), may_be_taken=True),
    Body("codec_map_without_number", _line(b"a=rtpmap:0", b"a=rtpmap: PCMU/8000"), may_be_taken=True),
    Body("format_parameters_garbage", _line(b"a=fmtp:101", b"a=fmtp:101 ;;==0-999999999999,a-b"), may_be_taken=True),
    Body("packets_of_no_time", _more(b"a=ptime:0\r\na=maxptime:-5\r\n"), may_be_taken=True),
    Body("packets_of_an_hour", _more(b"a=ptime:3600000\r\n"), may_be_taken=True),
    Body("packets_of_a_word", _more(b"a=ptime:soon\r\n"), may_be_taken=True),
    Body("all_directions_at_once", _more(b"a=sendonly\r\na=recvonly\r\na=inactive\r\n"), may_be_taken=True),
    Body("direction_unknown", _line(b"a=sendrecv", b"a=sendwhatever"), may_be_taken=True),
    Body("fifty_media", lambda good: good + good[good.index(b"m=audio") :] * 15, may_be_taken=True),
    Body("audio_twice", lambda good: good + good[good.index(b"m=audio") :], may_be_taken=True),
    Body("lines_ended_by_bare_newlines", lambda good: good.replace(b"\r\n", b"\n"), may_be_taken=True),
    Body("lines_out_of_order", lambda good: b"".join(reversed(good.splitlines(True)))),
    Body("line_without_equals_sign", _more(b"nonsense\r\n"), may_be_taken=True),
    Body("line_of_5000_letters", _more(b"a=x-long:" + b"y" * 5000 + b"\r\n"), may_be_taken=True),
    Body("nul_bytes", lambda good: good.replace(b"s=-", b"s=a\x00b"), may_be_taken=True),
    Body("latin_1", lambda good: good.replace(b"s=-", b"s=caf\xe9"), may_be_taken=True),
    Body("crypto_garbage", _more(b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:!!!notbase64\r\na=crypto:x y\r\n"), True),
    Body("candidates_garbage", _more(b"a=candidate:\r\na=candidate:1 1 UDP 1 %HOST% notaport typ host\r\n"), True),
    Body(
        "candidates_by_the_hundred",
        _more(b"".join(b"a=candidate:9 1 UDP 1 192.0.2.1 %d typ host\r\n" % (1024 + n) for n in range(100))),
        True,
    ),
    Body("fingerprint_garbage", _more(b"a=fingerprint:sha-256 ZZ:00\r\na=fingerprint:md2 00\r\n"), may_be_taken=True),
    Body("setup_unknown", _more(b"a=setup:sideways\r\n"), may_be_taken=True),
    Body("rtcp_elsewhere", _more(b"a=rtcp:0 IN IP4 192.0.2.66\r\na=rtcp:99999\r\n"), may_be_taken=True),
    Body("bandwidth_garbage", _more(b"b=AS:-1\r\nb=\r\nb=TIAS:999999999999999999999\r\n"), may_be_taken=True),
    Body("groups_of_nobody", lambda good: good.replace(b"t=0 0\r\n", b"t=0 0\r\na=group:BUNDLE 7 8 9 0 0\r\n"), True),
)
