"""`rtc-server check`: what it says of servers that are well, full, slow, closed, or not there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from rtc_server.client.check import QUESTION, run_check
from tests.support.faults import engine, paused
from tests.support.live_call import live_call
from tests.support.running_server import free_port
from tests.support.server_process import server_process

SETTINGS = {"turns.vad": "webrtcvad", "engine.response_timeout_seconds": 1.0}


def run(url: str, *, shallow: bool = False, api_key: str | None = None, ca: Path | None = None) -> int:
    return run_check(url, shallow=shallow, json_output=True, timeout_s=10.0, insecure=False, ca=ca, api_key=api_key)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def test_a_server_that_answers_is_well_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with server_process("echo", SETTINGS) as server:
        assert run(server.url) == 0
        result = said(capsys)
        assert result["ok"] is True
        assert isinstance(result["call"], dict)
        assert result["call"]["turns"][0]["status"] == "completed"
        server.wait_for_calls(0)
        assert run(server.url, shallow=True) == 0
        assert said(capsys)["call"] is None


def test_a_server_whose_engine_stands_still_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    with server_process("echo", SETTINGS) as server:
        with paused(engine(server)):
            assert run(server.url) == 1
        assert said(capsys)["ok"] is False


async def test_a_full_server_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    with server_process("echo", {**SETTINGS, "server.max_calls": 1}) as server:
        async with live_call(server.url):
            assert run(server.url) == 0
    result = said(capsys)
    assert "full" in str(result["message"])
    assert result["call"] is None


def test_a_key_that_is_missing_or_wrong_is_told_in_the_servers_words(capsys: pytest.CaptureFixture[str]) -> None:
    with server_process("echo", {**SETTINGS, "auth.api_keys": ["right-key-of-this-test"]}) as server:
        assert run(server.url, api_key="wrong-key-of-this-test") == 1
        assert "key" in str(said(capsys)["message"])
        assert run(server.url, api_key="right-key-of-this-test") == 0


def test_over_tls_the_authority_must_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    with server_process("echo", SETTINGS, tls=True) as server:
        assert run(server.https_url, shallow=True) == 1
        assert "certificate" in str(said(capsys)["message"]).lower()
        assert run(server.https_url, ca=server.ca_path) == 0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "nonsense", "http://", "http://a:b", "http://a:65536"])
def test_what_is_no_address_is_said(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url) == 1
    assert "is not a server's address" in str(said(capsys)["message"])


async def test_a_server_whose_last_places_are_kept_for_others_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"server.max_calls": 2, "admission.reserved_calls": 1}
    with server_process("echo", {**SETTINGS, **kept}) as server:
        async with live_call(server.url):
            assert await asyncio.to_thread(run, server.url) == 0
    assert "full for this caller" in str(said(capsys)["message"])


def test_no_proxy_is_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with server_process("echo", SETTINGS) as server:
        assert run(server.url, shallow=True) == 0


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"http://127.0.0.1:{free_port()}") == 1
    assert "does not answer" in str(said(capsys)["message"])


def test_the_question_is_part_of_the_package() -> None:
    assert QUESTION.read_bytes() == Path("tests/data/speech/f0_rms.wav").read_bytes()
