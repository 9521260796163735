"""Spoken conversations by telephone: software telephones, the whole edge, and the embedded models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.sip_words import Account
from benchmarks.support.words import word_errors
from model.interface import Pcm16
from rtc_server.client.recording import load_recording
from tests.support.baresip import Baresip, Phone, baresip
from tests.support.namespaces import require_namespaces
from tests.support.server_process import Value
from tests.support.sideband import Sideband, sideband
from tests.support.sip_stand import OTHER_USER, PASSWORD, PHONE_ADDRESS, SERVER_ADDRESS, USER, Stand, sip_stand
from tests.support.sipp import as_pcmu, sipp

SPEECH = Path(__file__).resolve().parents[1] / "data" / "speech"
QUESTION, ASKED = "f0_rms.wav", "What is the capital of France?"
MAX_WORD_ERRORS = 1  # of a narrow band
SETTINGS: Mapping[str, Value] = {
    "cascade.temperature": 0.0,
    "server.max_calls": 4,
    "sip.dial_targets": ["sip:*@rtc-server"],
}
PAUSE_SAMPLES = 48_000
MIN_VOICE_RMS = 300.0  # of 32,768, over a tenth of a second; a line without voice stays below 10
MIN_VOICED_SECONDS = 0.5


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    require_namespaces("kamailio", "rtpengine", "baresip")
    with sip_stand(SETTINGS, backend="cascade") as made:
        yield made
        assert "Traceback" not in made.server.log


def the_question() -> Pcm16:
    """48 kHz mono; behind a pause in which the sideband is opened."""
    return np.concatenate([np.zeros(PAUSE_SAMPLES, np.int16), load_recording(SPEECH / QUESTION).pcm])


def voiced_seconds(phone: Baresip) -> float:
    """How long the telephone heard a voice."""
    return voiced_in(*phone.heard())


def voiced_in(pcm: Pcm16, rate: int) -> float:
    """Seconds of it that are louder than a silent line."""
    frames = pcm[: len(pcm) // (rate // 10) * (rate // 10)].reshape(-1, rate // 10).astype(np.float64)
    return float((np.sqrt((frames**2).mean(axis=1)) > MIN_VOICE_RMS).sum()) / 10


def hear_the_reply(watched: Sideband, count: int = 1) -> str:
    """Wait until a question was understood and answered; the words of the reply."""
    asked = watched.wait_for("conversation.item.input_audio_transcription.completed", count)
    assert word_errors(ASKED, asked["transcript"]) <= MAX_WORD_ERRORS, asked["transcript"]
    watched.wait_for("output_audio_buffer.stopped", count)
    return str(watched.wait_for("response.output_audio_transcript.done", count)["transcript"])


@pytest.mark.parametrize(
    ("codec", "transport", "encryption"),
    [
        ("PCMU", "udp", ""),
        ("PCMA", "tcp", ""),
        ("G722", "udp", ""),
        ("opus", "udp", ""),
        ("PCMU", "tls", "srtp-mand"),
    ],
)
def test_a_telephone_asks_and_hears_the_reply(
    stand: Stand, tmp_path: Path, codec: str, transport: str, encryption: str
) -> None:
    edge = f"{SERVER_ADDRESS}:5061" if transport == "tls" else SERVER_ADDRESS
    question = the_question()
    phone = Phone(PHONE_ADDRESS, edge, USER, PASSWORD, codec, transport, encryption, says=question)
    before = stand.num_answered
    with baresip(phone, stand.phone, tmp_path) as telephone:
        telephone.dial(f"sip:agent@{edge};transport={transport}")
        telephone.wait_for("CALL_ESTABLISHED")
        with sideband(stand.machine, stand.server.url, stand.answered_call(before + 1)) as watched:
            assert hear_the_reply(watched)
            telephone.command("hangup")
            telephone.wait_for("CALL_CLOSED")
        assert voiced_seconds(telephone) > MIN_VOICED_SECONDS
    with stand.machine.entered():
        stand.server.wait_for_calls(0)


def test_the_server_calls_a_telephone_that_answers_and_talks(stand: Stand, tmp_path: Path) -> None:
    question = the_question()
    phone = Phone(PHONE_ADDRESS, SERVER_ADDRESS, OTHER_USER, PASSWORD, registers=True, says=question)
    with baresip(phone, stand.phone, tmp_path) as telephone:
        telephone.wait_until_registered()
        call_id = stand.dial(f"sip:{OTHER_USER}@{stand.realm}")
        telephone.wait_for("CALL_INCOMING")
        telephone.command("accept")
        telephone.wait_for("CALL_ESTABLISHED")
        with sideband(stand.machine, stand.server.url, call_id) as watched:
            assert hear_the_reply(watched)
        assert stand.post(f"/v1/realtime/calls/{call_id}/hangup")[0] == 200
        telephone.wait_for("CALL_CLOSED")
        assert voiced_seconds(telephone) > MIN_VOICED_SECONDS
    with stand.machine.entered():
        stand.server.wait_for_calls(0)


def test_a_telephone_that_holds_the_call_talks_before(stand: Stand, tmp_path: Path) -> None:
    require_namespaces("sipp")
    before = stand.num_answered
    account = Account(OTHER_USER, PASSWORD)
    says = as_pcmu(the_question())
    with sipp(
        "talk_and_hold", says, stand.phone, PHONE_ADDRESS, stand.edge, account, tmp_path, talk_seconds=9.0
    ) as telephone:
        with sideband(stand.machine, stand.server.url, stand.answered_call(before + 1)) as watched:
            assert hear_the_reply(watched)
            watched.wait_for("rtc_server.call.held")
            watched.wait_for("rtc_server.call.resumed")
            telephone.wait()
        assert voiced_in(telephone.heard(), 8_000) > MIN_VOICED_SECONDS
    with stand.machine.entered():
        stand.server.wait_for_calls(0)
