"""The codec of a payload format."""

from __future__ import annotations

from .base import AudioDecoder, AudioEncoder, PayloadFormat
from .narrowband import FFMPEG_NAMES, NarrowbandDecoder, NarrowbandEncoder
from .opus import OpusDecoder, OpusEncoder, OpusOptions


def create_decoder(payload_format: PayloadFormat) -> AudioDecoder:
    """A fresh decoder. Raises ValueError for a format that carries no speech, CodecError without libopus."""
    if payload_format.name == "opus":
        return OpusDecoder()
    if payload_format.name in FFMPEG_NAMES:
        return NarrowbandDecoder(payload_format.name)
    raise ValueError(f"{payload_format.name} is not a speech codec")


def create_encoder(payload_format: PayloadFormat, opus: OpusOptions) -> AudioEncoder:
    """A fresh encoder, within what the peer's parameters ask for. Raises like `create_decoder`."""
    if payload_format.name == "opus":
        return OpusEncoder(opus.limited_by(payload_format.parameters))
    if payload_format.name in FFMPEG_NAMES:
        return NarrowbandEncoder(payload_format.name)
    raise ValueError(f"{payload_format.name} is not a speech codec")
