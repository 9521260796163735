"""What the turn detector says. All positions are samples at 16 kHz since the call began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class VoiceOnset:
    """The first voiced frame after silence. Not speech yet; early enough to pause a reply."""

    sample: int


@dataclass(frozen=True, slots=True)
class VoiceDropped:
    """The voice ended before it lasted `min_speech_ms`: a short noise."""

    sample: int


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The voice lasted `min_speech_ms`: a turn begins."""

    start_sample: int
    """Where the turn's audio begins, pre-roll included."""


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """Silence reached `speculation_silence_ms`; at most once per pause."""

    sample: int


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """The user goes on after a `SpeechPaused`."""

    sample: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The turn is over: silence reached what was configured or decided, or the turn its greatest length."""

    start_sample: int
    end_sample: int
    """Where it was declared over: the last voiced sample plus the silence that was waited for."""
    last_voiced_sample: int


TurnEvent: TypeAlias = VoiceOnset | VoiceDropped | SpeechStarted | SpeechPaused | SpeechResumed | SpeechStopped
