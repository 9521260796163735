"""Audio as it stands in events and binary messages: the session's formats <-> PCM. Pure.

Input is one stream for the whole call; output is one stream per response, so that replies that are made at the same
time do not run into each other. Pieces of any length, joined, are what the whole stream would have given."""

from __future__ import annotations

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.audio.resample import EMPTY, StreamResampler
from rtc_server.codecs import g711
from rtc_server.errors import ProtocolError

PCM = "audio/pcm"
PCM_SAMPLE_RATE = 24_000  # the only rate of "audio/pcm" in the API
LAWS: dict[str, g711.Law] = {"audio/pcmu": "PCMU", "audio/pcma": "PCMA"}


class WireAudio:
    """Formats are the `type` of a session's `audio.input.format` and `audio.output.format`."""

    def __init__(self, engine_sample_rate: int, input_format: str = PCM, output_format: str = PCM) -> None:
        self._engine_rate = engine_sample_rate
        self._input = _Decoder(input_format)
        self._output_format = output_format
        self._responses: dict[str, _Encoder] = {}

    def set_formats(self, input_format: str, output_format: str) -> None:
        """For input from the next byte on, for output from the next response on."""
        if input_format != self._input.format:
            self._input = _Decoder(input_format, self._input.flush())
        self._output_format = output_format

    def decode(self, data: bytes) -> Pcm16:
        """The client's next bytes -> int16 mono 16 kHz. Half a sample at the end waits for its other half."""
        return self._input.decode(data)

    def clear_input(self) -> None:
        """The client begins anew, at the start of a sample."""
        self._input = _Decoder(self._input.format)

    def decode_clip(self, data: bytes) -> Pcm16:
        """A whole sound in the input format -> int16 mono 16 kHz, beside the stream. Raises ProtocolError when it ends
        inside a sample."""
        if self._input.format not in LAWS and len(data) % 2:
            raise ProtocolError("invalid_value", "The sound ends inside a sample.", param="item.content.audio")
        clip = _Decoder(self._input.format)
        return np.concatenate([clip.decode(data), clip.flush()])

    def encode(self, response_id: str, pcm: Pcm16) -> bytes:
        """The next piece of a response at the engine's rate -> bytes in the format that the session had when the
        response began to sound."""
        encoder = self._responses.get(response_id)
        if encoder is None:
            encoder = self._responses[response_id] = _Encoder(self._engine_rate, self._output_format)
        return encoder.encode(pcm)

    def finish(self, response_id: str) -> bytes:
        """What is still inside of a response that is over; its state is gone. b"" for one that is not known."""
        encoder = self._responses.pop(response_id, None)
        return b"" if encoder is None else encoder.flush()


class _Decoder:
    """One format's bytes to 16 kHz; `before` is put in front of the first samples."""

    def __init__(self, wire_format: str, before: Pcm16 = EMPTY) -> None:
        self.format = wire_format
        self._before = before
        self._half = b""  # the first byte of a sample whose second has not come yet
        rate = g711.SAMPLE_RATE if wire_format in LAWS else PCM_SAMPLE_RATE
        self._resampler = StreamResampler(rate, INPUT_SAMPLE_RATE)

    def decode(self, data: bytes) -> Pcm16:
        if self.format in LAWS:
            samples = g711.decode(LAWS[self.format], data)
        else:
            data = self._half + data
            whole = len(data) // 2 * 2
            data, self._half = data[:whole], data[whole:]
            samples = np.frombuffer(data, "<i2").astype(np.int16)
        pcm = self._resampler.resample(samples)
        if len(self._before):
            pcm, self._before = np.concatenate([self._before, pcm]), EMPTY
        return pcm

    def flush(self) -> Pcm16:
        return np.concatenate([self._before, self._resampler.flush()])


class _Encoder:
    """One response's sound to one format."""

    def __init__(self, engine_sample_rate: int, wire_format: str) -> None:
        self._format = wire_format
        rate = g711.SAMPLE_RATE if wire_format in LAWS else PCM_SAMPLE_RATE
        self._resampler = StreamResampler(engine_sample_rate, rate)

    def encode(self, pcm: Pcm16) -> bytes:
        return self._bytes(self._resampler.resample(pcm))

    def flush(self) -> bytes:
        return self._bytes(self._resampler.flush())

    def _bytes(self, pcm: Pcm16) -> bytes:
        if self._format in LAWS:
            return g711.encode(LAWS[self._format], np.ascontiguousarray(pcm))
        return pcm.astype("<i2").tobytes()
