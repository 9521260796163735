"""`rtc-server call`: output, exit codes, and one sentence for every failure."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rtc_server.client.command import run_call
from rtc_server.client.report import TurnReport, turns_table
from tests.client.standin import RATE, Script, standin, tone
from tests.support.running_server import free_port


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    with path.open("wb") as raw, wave.open(raw, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.concatenate([tone(300), np.zeros(RATE // 10, np.int16)]).astype("<i2").tobytes())
    return path


@contextmanager
def standin_in_a_thread(script: Script | None = None) -> Iterator[str]:
    """The stand-in on a loop of its own: the command runs its own, in the main thread."""
    urls: list[str] = []
    is_up, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with standin(script) as (url, _):
            urls.append(url)
            is_up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="standin")
    thread.start()
    try:
        assert is_up.wait(10)
        yield urls[0]
    finally:
        stop.set()
        thread.join()


def test_the_last_line_is_json_and_the_reply_is_saved(
    question: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reply.wav"
    with standin_in_a_thread() as url:
        code = run_call(url, [question], None, out, True, 10.0, False)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0
    assert report["packets_lost"] == 0
    assert report["connected_ms"] > 0
    (turn,) = report["turns"]
    wanted = {
        "user_transcript",
        "reply_transcript",
        "response_latency_ms",
        "reply_duration_ms",
        "interrupted",
        "stages",
    }
    assert wanted | {"interruption_stop_ms", "heard_transcript"} <= turn.keys()
    with wave.open(str(out)) as file:
        assert file.getnframes() / file.getframerate() * 1e3 == pytest.approx(turn["reply_duration_ms"] + 200, abs=1)


def test_people_see_who_said_what(question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with standin_in_a_thread() as url:
        assert run_call(url, [question], None, None, False, 10.0, False) == 0
    output = capsys.readouterr().out
    assert "question 0" in output
    assert "one two" in output
    assert "0 lost" in output


def failure(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The sentence of a call that fails with exit code 2."""
    assert run_call(*args) == 2  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_nobody_there(question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = failure(capsys, url, [question], None, None, True, 5.0, False)
    assert said == f"Error: {url} cannot be reached (Connection refused); is the server running there?\n"


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_not_a_url(url: str, question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected something like http://" in failure(capsys, url, [question], None, None, True, 5.0, False)


def test_not_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF nonsense")
    said = failure(capsys, "http://127.0.0.1:1", [bad], None, None, True, 5.0, False)
    assert "bad.wav cannot be read as audio" in said


def test_nothing_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to say" in failure(capsys, "http://127.0.0.1:1", [], None, None, True, 5.0, False)


def test_a_folder_that_is_not_there(question: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "no" / "reply.wav"
    assert "there is no folder" in failure(capsys, "http://127.0.0.1:1", [question], None, out, True, 5.0, False)


def test_an_authority_that_is_not_one(question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, "https://127.0.0.1:1", [question], None, None, True, 5.0, False, question)
    assert "not a certificate authority's PEM file" in said


def test_no_reply_in_time(question: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with standin_in_a_thread(Script(replies=False)) as url:
        said = failure(capsys, url, [question], None, None, True, 1.0, False)
    assert "sent nothing for 1 s" in said


def test_the_table_shows_what_was_cut_off_and_what_failed() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    turns = [
        TurnReport("a.wav", "Hi", "Good day to you", 500.0, 700.0, True, 210.0, "Good day", 700, status="cancelled"),
        TurnReport("b.wav", "Ho", status="failed", error="The engine was lost.", is_over=True),
    ]
    console.print(turns_table(turns))
    text = console.export_text()
    assert "cut off, silent after 210 ms" in text
    assert "failed: The engine was lost." in text
