"""Framing: messages survive being cut anywhere, and a corrupt length is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.interface import AudioDelta, GenerateRequest
from rtc_server.inference.wire import (
    HEADER,
    MAX_FRAME_BYTES,
    Cancel,
    EngineEvents,
    FrameReader,
    Release,
    Submit,
    encode,
)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_messages_arrive_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    pcm = np.arange(300, dtype=np.int16)
    sent = [
        Submit(GenerateRequest("c", "r", "t", (), pcm)),
        Release("r"),
        Cancel("r"),
        EngineEvents((AudioDelta("r", pcm, 4, 1.0),)),
    ]
    stream = b"".join(encode(message) for message in sent)
    reader, received, position, turn = FrameReader(), [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        received += reader.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert [type(message) for message in received] == [type(message) for message in sent]
    first, last = received[0], received[-1]
    assert isinstance(first, Submit)
    assert isinstance(last, EngineEvents)
    event = last.events[0]
    assert isinstance(event, AudioDelta)
    np.testing.assert_array_equal(event.pcm, pcm)


def test_a_corrupt_length_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeds the limit"):
        FrameReader().feed(HEADER.pack(MAX_FRAME_BYTES + 1))
