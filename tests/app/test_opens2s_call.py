"""A real call through OpenS2S: microphone, network, encoder, both language models, decoder, network, ear.

With the small checkpoint, whose weights are random: what is heard is noise, but every part of the path is the real one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rtc_server.client.hearing import HEARD_RATE
from rtc_server.client.recording import load_recording
from rtc_server.client.session import CallPlan, hold_call
from tests.support.live_call import SPEECH
from tests.support.opens2s_small import MAX_TEXT, MAX_UNITS, small_checkpoint
from tests.support.recordings import recording
from tests.support.server_process import ServerProcess, server_process
from tests.support.socket_call import socket_call


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("opens2s")
    voice = folder / "anna.npy"
    np.save(voice, np.random.default_rng(0).standard_normal(512).astype(np.float32))
    settings = {f"opens2s.{name}": value for name, value in small_checkpoint(folder).items()}
    settings["admission.max_underruns_per_minute"] = 0.0  # on a busy CPU replies have gaps, and calls follow at once
    with server_process("opens2s", settings | {"opens2s.voices.anna": str(voice)}) as running:
        yield running


async def test_two_spoken_turns_are_answered_aloud(server: ServerProcess) -> None:
    recordings = [load_recording(SPEECH / name) for name in ("f0_rms.wav", "f1_rms.wav")]
    report = await hold_call(CallPlan(server.url, recordings, keep_audio=True, timeout_s=60))
    assert len(report.turns) == 2
    for turn, reply in zip(report.turns, report.replies, strict=True):
        assert turn.reply_transcript.strip()
        assert turn.response_latency_ms is not None
        # the reply as it was made: its length in frames of the decoder, give or take what the codec and the edges add
        seconds = len(reply) / HEARD_RATE
        assert 1.0 < seconds < MAX_UNITS / 12.5 + 0.5
        assert np.abs(reply.astype(np.int32)).max() > 100
    assert report.packets["lost_received"] == 0
    server.wait_for_calls(0)


async def test_an_interruption_stops_the_reply(server: ServerProcess) -> None:
    recordings = [load_recording(SPEECH / name) for name in ("f2_rms.wav", "f0_rms.wav")]
    report = await hold_call(CallPlan(server.url, recordings, interrupt_after_ms=700, timeout_s=60))
    first, second = report.turns
    assert first.interrupted
    assert first.heard_transcript is not None
    assert len(first.heard_transcript) < len(first.reply_transcript)
    assert not second.interrupted
    server.wait_for_calls(0)


async def test_the_voice_is_a_setting_of_the_session(server: ServerProcess) -> None:
    """Over a WebSocket, where the sound of a reply is exactly what was made."""
    sounds = {}
    for voice in ("default", "anna", "marin"):
        async with socket_call(server.url) as call:
            session = {"type": "realtime", "audio": {"output": {"voice": voice}}}
            await call.send("session.update", session=session)
            updated = await call.event("session.updated")
            assert updated["session"]["audio"]["output"]["voice"] == ("default" if voice == "marin" else voice)
            content = [{"type": "input_text", "text": "hello there"}]
            await call.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
            await call.send("response.create")
            done = await call.event("response.done")
            assert done["response"]["usage"]["output_token_details"]["text_tokens"] == MAX_TEXT
            assert done["response"]["usage"]["output_token_details"]["audio_tokens"] <= MAX_UNITS
            sounds[voice] = call.sound
    assert len(sounds["default"]) > 24_000
    assert sounds["default"] == sounds["marin"]  # a name of OpenAI's stands for the first voice
    assert sounds["default"] != sounds["anna"]


async def test_an_earlier_turn_is_heard_again(server: ServerProcess) -> None:
    said = recording("f0_rms")
    tokens = []
    async with socket_call(server.url) as call:
        for count in (1, 2):
            await call.say(said)
            done = await call.event("response.done", count)
            tokens.append(done["response"]["usage"]["input_token_details"]["audio_tokens"])
    assert tokens[0] > 5  # 6.25 per second
    assert tokens[1] >= 1.8 * tokens[0]


async def test_no_word_of_a_conversation_reaches_the_log(server: ServerProcess) -> None:
    async with socket_call(server.url) as call:
        content = [{"type": "input_text", "text": "the magic word is abracadabra"}]
        await call.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await call.send("response.create")
        await call.event("response.done")
    assert "abracadabra" not in server.log
