"""What every backend asks of a request, and the credit that bounds what it may emit."""

from __future__ import annotations

from typing import get_args

import numpy as np

from model.interface import EngineInfo, GenerateRequest, OutputMode, ToolChoice

MAX_TURN_SECONDS = 120  # the server cuts turns at half a minute; beyond this a request is a mistake
MAX_PIECE_MS = 200
"""Longest `AudioDelta`: small enough to be cut at an interruption, large enough not to flood the pipe."""
MAX_TOOLS = 128
MAX_TOOL_NAME = 128  # characters


def check_request(request: GenerateRequest, info: EngineInfo) -> None:
    """Raises ValueError with a full sentence when `request` is not valid for an engine described by `info`."""
    if not request.response_id:
        raise ValueError("response_id must not be empty.")
    if request.voice and request.voice not in info.voices:
        raise ValueError(f"voice {request.voice!r} is not known; use one of {', '.join(info.voices)}.")
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise ValueError(f"max_output_tokens is {request.max_output_tokens}; it must be at least 1 or None.")
    if request.audio_credit_ms < 0:
        raise ValueError(f"audio_credit_ms is {request.audio_credit_ms}; it must not be negative.")
    slowest, fastest = info.speed_range
    if not slowest <= request.speed <= fastest:  # NaN is refused too
        raise ValueError(f"speed is {request.speed}; {info.name} speaks at {slowest} to {fastest}.")
    _check_output(request, info)
    _check_tools(request, info)
    if request.audio is None:
        if not request.items and not request.instructions:
            raise ValueError("A request without audio needs items or instructions to follow.")
        if request.pauses:
            raise ValueError("pauses need audio.")
    else:
        _check_audio(request.audio, request.pauses)


def _check_output(request: GenerateRequest, info: EngineInfo) -> None:
    if request.output not in get_args(OutputMode):
        raise ValueError(f"output {request.output!r} is not known; use one of {', '.join(get_args(OutputMode))}.")
    if request.output == "transcript" and not info.gives_transcripts:
        raise ValueError(f"{info.name} gives no transcripts, so output cannot be 'transcript'.")
    if request.output == "listen" and not info.listen_ahead_ms:
        raise ValueError(f"{info.name} does not listen ahead, so output cannot be 'listen'.")
    if request.output in ("transcript", "listen") and request.audio is None:
        raise ValueError(f"output {request.output!r} needs audio.")


def _check_tools(request: GenerateRequest, info: EngineInfo) -> None:
    if request.tool_choice not in get_args(ToolChoice):
        known = ", ".join(get_args(ToolChoice))
        raise ValueError(f"tool_choice {request.tool_choice!r} is not known; use one of {known}.")
    if not request.tools:
        if request.tool_choice == "required":
            raise ValueError("tool_choice 'required' needs tools.")
        return
    if not info.supports_tools:
        raise ValueError(f"{info.name} cannot call tools.")
    names = [tool.name for tool in request.tools]
    if len(names) > MAX_TOOLS:
        raise ValueError(f"{len(names)} tools were given; at most {MAX_TOOLS} are possible.")
    if len(set(names)) != len(names):
        raise ValueError("Two tools have the same name.")
    for name in names:
        if not 0 < len(name) <= MAX_TOOL_NAME or not name.isprintable():
            raise ValueError(f"A tool's name must be 1 to {MAX_TOOL_NAME} printable characters; got {name[:80]!r}.")


def _check_audio(audio: np.ndarray, pauses: tuple[int, ...]) -> None:
    if audio.dtype != np.int16 or audio.ndim != 1:
        raise ValueError(f"audio is {audio.dtype} with shape {audio.shape}; it must be int16, shape [samples].")
    if len(audio) > MAX_TURN_SECONDS * 16_000:
        raise ValueError(f"audio has {len(audio)} samples; the longest turn is {MAX_TURN_SECONDS} s at 16 kHz.")
    last = 0
    for pause in pauses:
        if not last <= pause <= len(audio):
            raise ValueError(f"pauses must rise and lie inside the audio of {len(audio)} samples; got {pauses}.")
        last = pause


class AudioCredit:
    """Samples a response may still emit."""

    __slots__ = ("_sample_rate", "_samples")

    def __init__(self, sample_rate: int, credit_ms: int) -> None:
        self._sample_rate = sample_rate
        self._samples = 0
        self.grant(credit_ms)

    @property
    def samples(self) -> int:
        return self._samples

    def grant(self, audio_ms: int) -> None:
        """Add credit. Negative values are ignored: credit is never taken back."""
        self._samples += max(0, audio_ms) * self._sample_rate // 1000

    def piece(self, available: int) -> int:
        """How many of `available` samples the next `AudioDelta` may carry; 0 means wait for credit."""
        return min(available, self._samples, MAX_PIECE_MS * self._sample_rate // 1000)

    def spend(self, samples: int) -> None:
        assert 0 <= samples <= self._samples, (samples, self._samples)
        self._samples -= samples
