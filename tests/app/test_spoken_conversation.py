"""The product: a spoken conversation with the embedded models, through a real call, as a caller hears it.

The reply is recognised again from the sound that arrived, so text and sound are known to agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.words import word_errors, words
from model.backends.cascade.asr import Recognizer
from model.weights import default_models_dir
from rtc_server.client.recording import load_recording
from rtc_server.client.session import CallPlan, hold_call
from tests.support.server_process import ServerProcess, server_process

SPEECH = Path(__file__).resolve().parents[1] / "data" / "speech"
QUESTIONS = (SPEECH / "questions.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("cascade") as running:
        yield running


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(default_models_dir())


def recognised(recognizer: Recognizer, pcm: np.ndarray) -> str:
    text = recognizer.recognize(pcm, lambda: False)
    assert text is not None
    return text


async def test_four_questions_are_understood_and_answered_aloud(server: ServerProcess, recognizer: Recognizer) -> None:
    recordings = [load_recording(SPEECH / f"f{number}_rms.wav") for number in range(4)]
    report = await hold_call(CallPlan(server.url, recordings, keep_audio=True, timeout_s=60))
    assert len(report.turns) == 4
    num_words = num_errors = num_misheard = 0
    for turn, question, reply in zip(report.turns, QUESTIONS, report.replies, strict=True):
        num_misheard += word_errors(question, turn.user_transcript)
        assert words(turn.reply_transcript)
        assert turn.response_latency_ms is not None
        num_words += len(words(turn.reply_transcript))
        num_errors += word_errors(turn.reply_transcript, recognised(recognizer, reply))
    # 24 words. The small recogniser gets one wrong now and then, depending on where the 20 ms frames fall.
    assert num_misheard <= 3, [turn.user_transcript for turn in report.turns]
    assert num_errors <= 0.1 * num_words, [turn.reply_transcript for turn in report.turns]
    assert report.packets["lost_received"] == 0
    server.wait_for_calls(0)


async def test_an_interruption_is_obeyed_and_only_what_was_heard_is_remembered(server: ServerProcess) -> None:
    recordings = [load_recording(SPEECH / name) for name in ("f2_rms.wav", "f0_rms.wav")]
    report = await hold_call(CallPlan(server.url, recordings, interrupt_after_ms=700, timeout_s=60))
    first, second = report.turns
    assert first.interrupted
    assert first.interruption_stop_ms is not None
    assert first.heard_transcript is not None
    assert first.reply_transcript.startswith(first.heard_transcript)
    assert len(first.heard_transcript) < len(first.reply_transcript)
    assert not second.interrupted
    assert words(second.reply_transcript)


async def test_no_word_of_a_conversation_reaches_the_log(server: ServerProcess) -> None:
    report = await hold_call(CallPlan(server.url, [load_recording(SPEECH / "f0_rms.wav")], timeout_s=60))
    assert "France" in report.turns[0].user_transcript
    assert "France" not in server.log
    assert "capital" not in server.log
    assert "ice-pwd" not in server.log
