"""Forms: the same part in every spelling, and hostile bodies refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_server.app.forms import read_form
from rtc_server.errors import InvalidParameterError

TYPE = "multipart/form-data; boundary=xyz"
NAMES = ("sdp", "session")


def form(*parts: tuple[str, bytes]) -> bytes:
    """`parts`: the header lines of each, and its content."""
    body = b"".join(b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + b"--xyz--\r\n"


SDP = 'Content-Disposition: form-data; name="sdp"'
SESSION = 'Content-Disposition: form-data; name="session"'
OFFER = b"v=0\r\na=x:\xc3\xa4\r\n"


@pytest.mark.parametrize(
    "head",
    [
        SDP,
        f"{SDP}\r\nContent-Type: application/sdp",
        f'{SDP}; filename="offer.sdp"\r\nContent-Type: application/octet-stream',
        f"{SDP}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: binary",
    ],
    ids=["plain field", "openai-python", "file", "with encoding"],
)
def test_a_part_is_its_content(head: str) -> None:
    assert read_form(TYPE, form((head, OFFER), (SESSION, b"{}")), NAMES) == {"sdp": OFFER, "session": b"{}"}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (TYPE, b""),
        (TYPE, b"v=0"),
        ("multipart/form-data", form((SDP, OFFER))),
        (TYPE.replace("xyz", "other"), form((SDP, OFFER))),
        (TYPE, form((SDP, OFFER), (SDP, OFFER))),
        (TYPE, form(('Content-Disposition: form-data; name="tools"', b"x"))),
        (TYPE, form(("X: y", b"x"))),
        (TYPE, form(*[(SDP, b"x")] * 20)),
        (TYPE, form((f"{SDP}\r\nContent-Type: multipart/mixed; boundary=q", b"--q\r\n\r\nx\r\n--q--"))),
        (TYPE + "x" * 2_000, form((SDP, OFFER))),
        (TYPE, form((SDP, OFFER))[:-12]),
    ],
    ids=[
        *("empty", "no form", "no boundary", "other boundary", "twice", "unknown", "no name", "many"),
        *("nested", "long header", "cut off"),
    ],
)
def test_a_bad_form_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        read_form(content_type, body, NAMES)
    assert refused.value.status == 400


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_form_is_a_form_or_refused(data: st.DataObject) -> None:
    body = bytearray(form((f"{SDP}\r\nContent-Type: application/sdp", OFFER), (SESSION, b'{"type": "realtime"}')))
    for _ in range(data.draw(st.integers(1, 10))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position : position + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=12))
        if not body:
            break
    try:
        parts = read_form(TYPE, bytes(body), NAMES)
    except InvalidParameterError:
        return
    assert set(parts) <= set(NAMES)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.binary(max_size=200))
def test_any_header_and_body_are_a_form_or_refused(header: str, body: bytes) -> None:
    for content_type in (header, TYPE + header):
        try:
            read_form(content_type, body, NAMES)
        except InvalidParameterError:
            continue
