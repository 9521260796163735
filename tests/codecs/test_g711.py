"""G.711 as bytes: the law's levels, every byte, and the same meaning as in a call over RTP."""

from __future__ import annotations

import numpy as np
import pytest

from rtc_server.codecs import g711
from rtc_server.codecs.narrowband import NarrowbandEncoder

LAWS: list[g711.Law] = ["PCMU", "PCMA"]


@pytest.mark.parametrize("law", LAWS)
def test_every_byte_survives(law: g711.Law) -> None:
    every = bytes(range(256))
    changed = [
        byte for byte, again in zip(every, g711.encode(law, g711.decode(law, every)), strict=True) if byte != again
    ]
    assert changed == ([0x7F] if law == "PCMU" else [])  # mu-law has two zeros; the negative one is not written


@pytest.mark.parametrize("law", LAWS)
def test_the_error_is_small_beside_the_sample(law: g711.Law) -> None:
    samples = np.arange(-32_768, 32_768).astype(np.int16)
    decoded = g711.decode(law, g711.encode(law, samples)).astype(int)
    error, size = np.abs(decoded - samples), np.abs(samples.astype(int))
    assert (error / (size + 128)).max() < 0.08  # four bits of mantissa, FFmpeg's rounding included


@pytest.mark.parametrize("law", LAWS)
def test_bytes_are_those_of_rtp(law: g711.Law) -> None:
    frame = (np.random.default_rng(1).standard_normal(160) * 5_000).astype(np.int16)
    assert g711.encode(law, frame) == NarrowbandEncoder(law).encode(frame)


def test_nothing_is_nothing() -> None:
    assert g711.encode("PCMU", np.zeros(0, np.int16)) == b""
    assert len(g711.decode("PCMA", b"")) == 0
