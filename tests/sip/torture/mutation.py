"""Good messages with random damage, the same for the same seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

HOSTILE = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"-1",
    b"4294967296",
    b"99999999999999999999",
    b"%00%zz",
    b"\r\n",
    b"\r\n\r\n",
    b"\n ",
    b";;,,",
    b"<<<>>>",
    b'"',
    b"\\",
    b"[::",
    b"a" * 3000,
    b"Via: x\r\n",
    b"sip:",
    b"=",
    "☎".encode(),
)
"""What parsers stumble over."""


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)


def _cut(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randint(1, 60)]


def _end(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _repeat(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    data[start:start] = bytes(data[start : start + rng.randint(1, 200)]) * rng.randint(1, 4)


def _insert(rng: random.Random, data: bytearray) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.choice(HOSTILE)


def _swap_lines(rng: random.Random, data: bytearray) -> None:
    lines = bytes(data).split(b"\r\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    data[:] = b"\r\n".join(lines)


def _value(rng: random.Random, data: bytearray) -> None:
    """The value of one header, or of one line of the body, is something hostile."""
    lines = bytes(data).split(b"\r\n")
    number = rng.randrange(len(lines))
    name, mark, _ = lines[number].partition(rng.choice((b":", b"=", b" ")))
    lines[number] = name + mark + rng.choice(HOSTILE)
    data[:] = b"\r\n".join(lines)


def _number(rng: random.Random, data: bytearray) -> None:
    """One run of digits is another number."""
    places = [index for index, byte in enumerate(data) if 48 <= byte <= 57]
    if places:
        place = rng.choice(places)
        data[place : place + 1] = rng.choice((b"-1", b"0", b"65536", b"4294967296", b"18446744073709551616"))


DAMAGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip,
    _cut,
    _end,
    _repeat,
    _insert,
    _swap_lines,
    _value,
    _number,
)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """`data` with one to three damages."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if changed:
            rng.choice(DAMAGES)(rng, changed)
    return bytes(changed[:65_000])  # as much as a datagram takes


def mutants(seed: int, data: bytes, count: int) -> Iterator[bytes]:
    """`count` damaged copies of `data`."""
    rng = random.Random(seed)
    for _ in range(count):
        yield damaged(rng, data)
