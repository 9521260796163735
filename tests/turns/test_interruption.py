"""Barge-in: the table in `interruption.BargeIn`, row by row, and what counts as a listener's noise."""

from __future__ import annotations

import pytest

from rtc_server.turns.interruption import MIN_INTERRUPTION_MS, BargeIn, Verdict, is_backchannel


def barge_in(*, gives_transcripts: bool = True) -> BargeIn:
    return BargeIn(interruption_min_ms=400, gives_transcripts=gives_transcripts)


def pending(*, gives_transcripts: bool = True) -> BargeIn:
    judge = barge_in(gives_transcripts=gives_transcripts)
    assert judge.voice_onset() is Verdict.PAUSE
    return judge


def test_the_first_voice_pauses_and_a_second_onset_changes_nothing() -> None:
    judge = pending()
    assert judge.is_pending
    assert judge.voice_onset() is Verdict.NONE


TABLE = [
    ("voiced", (399.0,), Verdict.NONE),
    ("voiced", (400.0,), Verdict.INTERRUPT),
    ("voice_dropped", (), Verdict.RESUME),
    ("transcript", ("",), Verdict.RESUME),
    ("transcript", ("  \n",), Verdict.RESUME),
    ("transcript", ("Uh-huh.",), Verdict.RESUME),
    ("transcript", ("Stop.",), Verdict.INTERRUPT),
    ("transcript_unavailable", (MIN_INTERRUPTION_MS - 1,), Verdict.RESUME),
    ("transcript_unavailable", (MIN_INTERRUPTION_MS,), Verdict.INTERRUPT),
    ("timed_out", (), Verdict.RESUME),
]


@pytest.mark.parametrize(("method", "args", "verdict"), TABLE)
def test_a_pending_voice(method: str, args: tuple[float | str, ...], verdict: Verdict) -> None:
    judge = pending()
    assert getattr(judge, method)(*args) is verdict
    assert judge.is_pending is (verdict is Verdict.NONE)


@pytest.mark.parametrize(("method", "args", "_verdict"), TABLE)
def test_without_a_pending_voice_nothing_happens(method: str, args: tuple[float | str, ...], _verdict: Verdict) -> None:
    judge = barge_in()
    assert getattr(judge, method)(*args) is Verdict.NONE
    assert not judge.is_pending


def test_a_verdict_is_given_once() -> None:
    judge = pending()
    assert judge.voiced(500.0) is Verdict.INTERRUPT
    assert judge.transcript("Stop.") is Verdict.NONE
    assert judge.voice_onset() is Verdict.PAUSE, "the next voice is judged afresh"


def test_short_speech_waits_for_its_transcript_where_there_will_be_one() -> None:
    assert pending(gives_transcripts=True).speech_ended(200.0) is Verdict.NONE


@pytest.mark.parametrize(("voiced_ms", "verdict"), [(399.0, Verdict.RESUME), (400.0, Verdict.INTERRUPT)])
def test_where_no_transcript_will_come_the_length_decides(voiced_ms: float, verdict: Verdict) -> None:
    assert pending(gives_transcripts=False).speech_ended(voiced_ms) is verdict


def test_a_reset_forgets_the_voice() -> None:
    judge = pending()
    judge.reset()
    assert judge.voiced(1_000.0) is Verdict.NONE


@pytest.mark.parametrize(
    "text",
    [
        "uh-huh",
        "Uh huh.",
        "Mhm.",
        "mm-hmm",
        "Mm-hmm, mm-hmm.",
        "Yeah.",
        "OKAY!",
        "Okay, okay.",
        "Yeah, okay.",
        "Right.",
        "I see.",
        "Oh, I see.",
        "Oh, wow!",
        "Yeah yeah yeah",
    ],
)
def test_a_listeners_noise_does_not_interrupt(text: str) -> None:
    assert is_backchannel(text)


@pytest.mark.parametrize(
    "text",
    [
        "Stop.",
        "No.",
        "Wait!",
        "Okay, stop.",
        "Yeah, but why?",
        "I see the problem.",
        "Right now?",
        "Hello?",
        "Great, now tell me about dogs.",
        "Нет.",
        "停",
    ],
)
def test_any_other_word_interrupts(text: str) -> None:
    assert not is_backchannel(text)
