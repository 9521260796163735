"""Whole calls on a whole server: what lies on the disk afterwards is what was said, when it was said."""

from __future__ import annotations

import json
import os
import stat
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from aiortc import RTCRtpSender
from typer.testing import CliRunner

from model.interface import Pcm16
from rtc_server import metrics
from rtc_server.cli.app import app
from rtc_server.client.recording import load_recording
from rtc_server.errors import ConfigError
from rtc_server.recording import opus_packets
from rtc_server.transports.rtp_stream import RtpStream
from tests.support.faults import small_disk
from tests.support.live_call import SPEECH, LiveCall, live_call
from tests.support.recordings import recording
from tests.support.running_server import running_server
from tests.support.socket_call import socket_call


def recording_to(directory: Path, **settings: object) -> dict[str, object]:
    """Overrides for `running_server`."""
    chosen = {"enabled": True, "directory": str(directory), **settings}
    return {f"recording.{name}": value for name, value in chosen.items()}


def decoded(path: Path) -> tuple[Pcm16, int]:
    """All samples of a file, made mono, and their rate."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        frames = [mono for frame in container.decode(audio=0) for mono in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]), rate


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def voiced_seconds(path: Path, threshold: int = 500) -> list[float]:
    """The tenths of seconds in which something is to be heard."""
    pcm, rate = decoded(path)
    size = rate // 10
    peaks = [int(np.abs(pcm[start : start + size].astype(int)).max()) for start in range(0, len(pcm) - size, size)]
    return [index / 10 for index, peak in enumerate(peaks) if peak > threshold]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bytes]]:
    """The payloads that a call's RTP packets carried, read at the stream and not at its tap."""
    seen: dict[str, list[bytes]] = {"received": [], "sent": []}
    receive, send = RtpStream._receive, RtpStream._send

    def on_receive(stream: RtpStream, packet: bytes, now: float) -> None:
        extension = 4 + 4 * int.from_bytes(packet[14:16], "big") if packet[0] & 0x10 else 0
        seen["received"].append(packet[12 + extension :])  # aiortc pads nothing and has no contributing sources
        receive(stream, packet, now)

    def on_send(stream: RtpStream, srtp: Any, payload: bytes) -> None:
        seen["sent"].append(bytes(payload))
        send(stream, srtp, payload)

    monkeypatch.setattr(RtpStream, "_receive", on_receive)
    monkeypatch.setattr(RtpStream, "_send", on_send)
    return seen


def kept(directory: Path) -> list[Path]:
    """All files."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def files_of(directory: Path) -> dict[str, Path]:
    """The files of the one recording there is: "caller", "server" and "json"."""
    return {path.name.split(".")[1]: path for path in kept(directory)}


def described(directory: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(files_of(directory)["json"].read_text())
    return body


async def one_turn(call: LiveCall, count: int = 1) -> None:
    call.say("go_forward_ten_meters.wav")
    await call.event("output_audio_buffer.stopped", count)


async def test_a_call_is_kept_as_it_was_on_the_wire(tmp_path: Path, wire: dict[str, list[bytes]]) -> None:
    async with running_server(**recording_to(tmp_path)) as url, live_call(url) as call:
        started = await call.event("rtc_server.recording.started")
        assert (started["audio"], started["transcript"], started["audible_notice"]) == (True, True, True)
        assert metrics.RECORDINGS._value.get() == 1
        await one_turn(call)
    assert metrics.RECORDINGS._value.get() == 0
    files, body = files_of(tmp_path), described(tmp_path)
    assert sorted(files) == ["caller", "json", "server"]
    assert {path.suffix for path in files.values()} == {".opus", ".json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    assert (body["complete"], body["ended_by"], body["notice"]) == (True, "hangup", ["event", "audible"])

    # Bit for bit, in order, with nothing but fillers between; as long as the call.
    assert_passed_through(packets(files["server"]), wire["sent"])
    assert_passed_through(packets(files["caller"]), wire["received"])
    for side in ("caller", "server"):
        pcm, rate = decoded(files[side])
        assert len(pcm) / rate == pytest.approx(body["duration_ms"] / 1_000, abs=0.2)  # what the machine is late

    # The notice first, then the question, then its answer, on one clock.
    asked, said = voiced_seconds(files["caller"]), voiced_seconds(files["server"])
    assert said[0] < 0.5
    user, assistant = body["turns"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    assert asked[0] == pytest.approx(user["start_ms"] / 1_000, abs=0.5)
    assert asked[-1] == pytest.approx(user["end_ms"] / 1_000, abs=0.8)
    reply = [second for second in said if second > asked[-1]]
    assert reply[0] == pytest.approx(assistant["start_ms"] / 1_000, abs=0.3)
    assert reply[-1] == pytest.approx(assistant["end_ms"] / 1_000, abs=0.5)
    assert assistant["interrupted"] is False


async def test_nothing_is_kept_and_nothing_said_unless_it_is_enabled(tmp_path: Path) -> None:
    settings = recording_to(tmp_path / "kept", enabled=False)
    async with running_server(**settings) as url, live_call(url) as call:
        call.peer.send({"type": "rtc_server.recording.start"})
        assert (await call.event("error"))["error"]["code"] == "recording_not_enabled"
        assert not [event for event in call.events if event["type"].startswith("rtc_server.recording")]
    assert kept(tmp_path) == []


async def test_an_interrupted_reply_is_marked_with_what_was_heard(tmp_path: Path) -> None:
    settings = recording_to(tmp_path, notice="event")
    async with running_server(**settings) as url, live_call(url) as call:
        whole = load_recording(SPEECH / "go_forward_ten_meters.wav")
        voice = whole.pcm[whole.first_voiced : whole.last_voiced + 1]
        spoken = replace(whole, pcm=voice, first_voiced=0, last_voiced=len(voice) - 1)  # no silence around it
        call.track.say(spoken)
        await call.event("output_audio_buffer.started")
        call.track.say(spoken)
        truncated = await call.event("conversation.item.truncated")
        await call.event("output_audio_buffer.stopped")
    turns = {turn["item_id"]: turn for turn in described(tmp_path)["turns"]}
    assert len(turns) == 4
    cut = turns.pop(truncated["item_id"])
    assert (cut["interrupted"], cut["heard_ms"]) == (True, truncated["audio_end_ms"])
    assert cut["end_ms"] - cut["start_ms"] > cut["heard_ms"] - 50  # it was paused first
    assert [turn["interrupted"] for turn in turns.values() if turn["role"] == "assistant"] == [False]


async def test_only_calls_that_ask_are_recorded_and_may_stop(tmp_path: Path) -> None:
    settings = recording_to(tmp_path, calls="asked", notice="event", transcripts=False)
    async with running_server(**settings) as url:
        async with live_call(url) as call:
            await one_turn(call)
        assert kept(tmp_path) == []
        async with live_call(url) as call:
            call.peer.send({"type": "rtc_server.recording.stop"})  # nothing to stop: no answer, no error
            call.peer.send({"type": "rtc_server.recording.start"})
            started = await call.event("rtc_server.recording.started")
            assert (started["transcript"], started["audible_notice"], started["retention_days"]) == (False, False, 30)
            await one_turn(call)
            call.peer.send({"type": "rtc_server.recording.stop"})
            assert (await call.event("rtc_server.recording.stopped"))["reason"] == "client"
            await one_turn(call, 2)
            call.peer.send({"type": "rtc_server.recording.start"})
            assert (await call.event("error"))["error"]["code"] == "recording_over"
    body = described(tmp_path)
    assert (body["complete"], body["ended_by"]) == (True, "client")
    assert "turns" not in body
    asked, said = (voiced_seconds(files_of(tmp_path)[side]) for side in ("caller", "server"))
    assert asked[0] < said[0] <= body["duration_ms"] / 1_000 < 8  # one turn of the two


async def test_where_every_call_is_recorded_a_client_cannot_stop_it(tmp_path: Path) -> None:
    async with running_server(**recording_to(tmp_path, notice="none")) as url, live_call(url) as call:
        call.peer.send({"type": "rtc_server.recording.stop"})
        assert (await call.event("error"))["error"]["code"] == "recording_required"
        assert not [event for event in call.events if event["type"] == "rtc_server.recording.started"]
    assert described(tmp_path)["notice"] == []


async def test_the_operators_own_sentence_is_said(tmp_path: Path) -> None:
    sentence = tmp_path / "notice.wav"
    with wave.open(str(sentence), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes((10_000 * np.sin(np.arange(8_000) * 2 * np.pi * 440 / 8_000)).astype("<i2").tobytes())
    settings = recording_to(tmp_path / "kept", notice="audible", notice_sound=str(sentence))
    async with running_server(**settings) as url, live_call(url) as call:
        await one_turn(call)
        assert not [event for event in call.events if event["type"] == "rtc_server.recording.started"]
    said = voiced_seconds(files_of(tmp_path / "kept")["server"])
    assert [second for second in said if second < 1.5] == pytest.approx([index / 10 for index in range(11)], abs=0.15)


async def test_a_call_in_g711_is_kept_in_its_own_coding(tmp_path: Path, wire: dict[str, list[bytes]]) -> None:
    async with running_server(**recording_to(tmp_path)) as url:
        call = LiveCall(url)
        (transceiver,) = call.peer.pc.getTransceivers()
        codecs = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([codec for codec in codecs if codec.mimeType == "audio/PCMU"])
        try:
            await call.peer.connect(15)
            await one_turn(call)
        finally:
            await call.close()
    files = files_of(tmp_path)
    for side, on_wire in (("caller", wire["received"]), ("server", wire["sent"])):
        with av.open(str(files[side])) as container:
            assert container.streams.audio[0].codec_context.name == "pcm_mulaw"
        data = b"".join(packets(files[side]))
        loud = max(on_wire, key=lambda payload: len(set(payload)))
        assert loud in data
        assert sum(payload in data for payload in on_wire) > len(on_wire) - 20
        assert len(data) / 8_000 == pytest.approx(described(tmp_path)["duration_ms"] / 1_000, abs=0.2)


async def test_a_call_over_a_websocket_is_kept_as_samples(tmp_path: Path) -> None:
    async with running_server(**recording_to(tmp_path)) as url, socket_call(url) as call:
        started = await call.event("rtc_server.recording.started")
        assert started["audible_notice"] is False  # the client plays by itself: it is told by the event
        await call.say(recording("go_forward_ten_meters"))
        await call.event("response.done")
    files, body = files_of(tmp_path), described(tmp_path)
    assert body["audio"] == {
        "caller": {"coding": "PCM", "sample_rate": 16_000},
        "server": {"coding": "PCM", "sample_rate": 24_000},
    }
    pcm, rate = decoded(files["caller"])
    assert rate == 16_000
    spoken = recording("go_forward_ten_meters")
    assert np.abs(spoken).max() * 0.8 < np.abs(pcm).max()
    assert [turn["role"] for turn in body["turns"]] == ["user", "assistant"]
    with wave.open(str(files["server"])) as file:  # the length is known
        assert file.getframerate() == 24_000


async def test_a_sealed_call_opens_with_the_key_and_not_without(tmp_path: Path) -> None:
    key, folder = tmp_path / "recordings.key", tmp_path / "kept"
    assert CliRunner().invoke(app, ["recordings", "key", str(key)]).exit_code == 0
    async with running_server(**recording_to(folder, key_file=str(key))) as url, live_call(url) as call:
        await one_turn(call)
    files = files_of(folder)
    assert {path.suffix for path in files.values()} == {".enc"}
    call_id = files["json"].name.split(".")[0]
    where = ["--directory", str(folder), "--key", str(key)]
    shown = run_cli("recordings", "show", call_id, *where)
    assert [turn["role"] for turn in json.loads(shown)["turns"]] == ["user", "assistant"]
    run_cli("recordings", "decrypt", call_id, "--to", str(tmp_path / "out"), *where)
    opened = tmp_path / "out" / f"{call_id}.caller.opus"
    assert voiced_seconds(opened)
    assert opened.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="is encrypted"):
        run_cli("recordings", "show", call_id, "--directory", str(folder))


async def test_a_media_worker_records_too(tmp_path: Path) -> None:
    workers = {"server.media_workers": 1, "engine.isolation": "process"}
    settings = recording_to(tmp_path, notice="event") | workers
    async with running_server(**settings) as url, live_call(url) as call:
        await one_turn(call)
    assert described(tmp_path)["complete"] is True
    assert voiced_seconds(files_of(tmp_path)["server"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_a_full_disk_ends_the_recording_and_not_the_call(tmp_path: Path) -> None:
    before = metrics.RECORDING_FAILURES.labels("disk_full")._value.get()
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", size_kb=32):
        async with running_server(**recording_to(tmp_path / "disk", notice="event")) as url, live_call(url) as call:
            call.say("go_forward_ten_meters.wav")
            stopped = await call.event("rtc_server.recording.stopped")
            assert stopped["reason"] == "disk_full"
            await call.event("output_audio_buffer.stopped")
            assert await call.is_alive()
        assert metrics.RECORDING_FAILURES.labels("disk_full")._value.get() - before == 1
        assert metrics.RECORDINGS._value.get() == 0
        assert described(tmp_path / "disk")["complete"] is False
        assert packets(files_of(tmp_path / "disk")["caller"])  # what was written can be played


def run_cli(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def assert_passed_through(kept: list[bytes], on_wire: list[bytes]) -> None:
    """All payloads with sound in them, but for the moment before the call was connected and the one after its end."""
    sound, recorded = ([payload for payload in payloads if len(payload) > 3] for payloads in (on_wire, kept))
    start = sound.index(recorded[0])
    assert sound[start : start + len(recorded)] == recorded
    assert len(recorded) > 50
    assert len(sound) - len(recorded) <= 5
    fillers = {opus_packets.SILENCE, *(opus_packets.filler(payload) for payload in on_wire)}
    assert {payload for payload in kept if len(payload) <= 3} <= fillers | set(on_wire)
