"""What an Opus packet tells without being decoded: how long it is, and what stands for one that is missing. Pure."""

from __future__ import annotations

SAMPLE_RATE = 48_000  # of every Opus timestamp and granule position (RFC 7587 section 4.1, RFC 7845 section 4)
FRAME = SAMPLE_RATE // 50
MAX_SAMPLES = SAMPLE_RATE * 120 // 1_000  # of one packet (RFC 6716 section 3.4, R5)
SILENCE = b"\xf8\xff\xfe"  # 20 ms of digital silence, CELT, mono: before the first packet there is no mode to keep

_SILK_MS = (10.0, 20.0, 40.0, 60.0)
_CELT_MS = (2.5, 5.0, 10.0, 20.0)


def duration(payload: bytes) -> int | None:
    """Samples at 48 kHz that a packet stands for (RFC 6716 section 3.1), or None when it is no packet."""
    if not payload:
        return None
    config, code = payload[0] >> 3, payload[0] & 3
    if config < 12:
        frame_ms = _SILK_MS[config & 3]
    elif config < 16:
        frame_ms = _SILK_MS[config & 1]
    else:
        frame_ms = _CELT_MS[config & 3]
    frames = (1, 2, 2, payload[1] & 0x3F if len(payload) > 1 else 0)[code]
    samples = int(frames * frame_ms * SAMPLE_RATE / 1_000)
    return samples if 0 < samples <= MAX_SAMPLES else None


def is_stereo(payload: bytes) -> bool:
    return bool(payload[0] & 4)


def filler(previous: bytes | None) -> bytes:
    """20 ms that were never sent or got lost, after the packet `previous`: an empty frame in its mode, which decoders
    conceal as they would a loss (RFC 7845 section 4.1)."""
    if previous is None:
        return SILENCE
    config = previous[0] >> 3
    if config < 12:
        config = config & ~3 | 1
    elif config < 16:
        config |= 1
    else:
        config |= 3
    return bytes([config << 3 | previous[0] & 4])
