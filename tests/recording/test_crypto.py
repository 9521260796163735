"""A sealed file gives back what was put in, or says that it cannot."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.errors import ConfigError
from rtc_server.recording.crypto import KEY_BYTES, MAX_CHUNK, Sealer, new_key_text, open_sealed, read_key
from rtc_server.recording.errors import SealedFileError

KEY = bytes(range(KEY_BYTES))
NAME = "rtc_1.caller.opus"
HEADER = 8 + 8 + 32 + 2 + len(NAME)


def sealed(*pieces: bytes, key: bytes = KEY, name: str = NAME) -> bytes:
    sealer = Sealer(key, name)
    return b"".join(sealer.seal(piece) for piece in pieces) + sealer.finish()


def opened(data: bytes, key: bytes = KEY, name: str = NAME) -> bytes:
    return b"".join(open_sealed(io.BytesIO(data), key, name))


def chunks(data: bytes) -> list[bytes]:
    """The sealed chunks behind the header, with their lengths."""
    found, position = [], HEADER
    while position < len(data):
        end = position + 4 + int.from_bytes(data[position : position + 4], "little")
        found.append(data[position:end])
        position = end
    return found


@given(st.lists(st.binary(max_size=500), max_size=10))
def test_pieces_joined_equal_the_whole(pieces: list[bytes]) -> None:
    assert opened(sealed(*pieces)) == b"".join(pieces)


def test_long_pieces_are_cut_into_chunks() -> None:
    data = bytes(3 * MAX_CHUNK + 1)
    assert opened(sealed(data)) == data
    assert len(chunks(sealed(data))) == 5


def test_nothing_of_the_contents_is_to_be_seen_and_equal_contents_differ() -> None:
    first, second = sealed(b"the words of a caller"), sealed(b"the words of a caller")
    assert b"words" not in first
    assert first[HEADER:] != second[HEADER:]


@given(st.integers(0), st.integers(1, 255))
def test_every_changed_byte_is_noticed(where: int, change: int) -> None:
    data = bytearray(sealed(b"one", b"two"))
    data[where % len(data)] ^= change
    with pytest.raises(SealedFileError):
        opened(bytes(data))


def test_chunks_cannot_be_moved_repeated_or_left_out() -> None:
    data = sealed(b"one", b"two", b"six")
    header, (one, two, six, end) = data[:HEADER], chunks(data)
    assert opened(header + one + two + six + end) == b"onetwosix"
    for order in ((two, one, six, end), (one, one, two, six, end), (one, six, end), (one, two, end), (end,)):
        with pytest.raises(SealedFileError, match="not genuine"):
            opened(header + b"".join(order))
    with pytest.raises(SealedFileError, match="something follows its end"):
        opened(data + one)


def test_a_file_that_was_cut_off_gives_what_is_whole_and_says_so() -> None:
    data = sealed(b"one", b"two")
    _, two, end = chunks(data)
    for missing, whole in ((len(end), [b"one", b"two"]), (1, [b"one", b"two"]), (len(end) + len(two) - 2, [b"one"])):
        read = []
        with pytest.raises(SealedFileError, match="was cut off") as raised:
            read += list(iter_into(read, data[:-missing]))
        assert raised.value.is_cut_off
        assert read == whole


def iter_into(read: list[bytes], data: bytes) -> list[bytes]:
    for piece in open_sealed(io.BytesIO(data), KEY, NAME):
        read.append(piece)
    return []


def test_another_key_and_another_name_are_told_apart() -> None:
    with pytest.raises(SealedFileError, match="another key"):
        opened(sealed(b"one"), key=bytes(KEY_BYTES))
    with pytest.raises(SealedFileError, match="another recording"):
        opened(sealed(b"one"), name="rtc_2.caller.opus")
    with pytest.raises(SealedFileError, match="not a sealed recording"):
        opened(b"OggS")


def test_a_key_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(new_key_text() + "\n")
    assert len(read_key(path)) == KEY_BYTES


@pytest.mark.parametrize("text", ["", "not a key", "c2hvcnQ=", "é"])
def test_a_bad_key_is_refused_without_being_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_key(path)
    assert not text or text not in raised.value.message
    with pytest.raises(ConfigError, match="No such file"):
        read_key(tmp_path / "missing")
