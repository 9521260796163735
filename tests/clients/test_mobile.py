"""The flow of a phone app through libwebrtc: examples/mobile/node against the real server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from rtc_server.calls.snapshot_timer import SETTLE_SECONDS
from rtc_server.client.recording import save_replies
from tests.clients.dialogue import KEY, speech
from tests.support.faults import workers
from tests.support.npm_clients import NpmClients
from tests.support.phone import NODE, phone, phone_files
from tests.support.server_process import ServerProcess, server_process

RATES = {"wide": 48_000, "middle": 16_000, "narrow": 8_000}
"""Of the microphone: a phone's own, and two of Bluetooth headsets."""

SAID_SECONDS = 1.2
RUN_SECONDS = 120.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> NpmClients:
    """The example, beside the scripts that run it and what they say."""
    clients = phone_files(tmp_path_factory.mktemp("mobile"))
    for name, rate in RATES.items():
        save_replies(clients.folder / f"{name}.wav", [speech("f0_rms", rate)[: int(SAID_SECONDS * rate)]], rate)
    save_replies(clients.folder / "question.wav", [speech("f0_rms", 8_000)], 8_000)
    return clients


# First, as the server that all modules share has to be there before the check for what this module leaves.
def test_an_app_that_was_killed_in_a_reply_goes_on_with_what_was_said(
    files: NpmClients, stock_server: ServerProcess
) -> None:
    with phone(files, stock_server.url, KEY) as first:
        first.do("start")
        session = first.do("event", type="session.created", count=1)["session"]["id"]
        first.do("say", path=str(files.folder / "question.wav"))
        said = first.do("event", type="conversation.item.input_audio_transcription.completed", count=1)
        assert "capital of france" in said["transcript"].lower(), "8 kHz are enough"
        first.do("heard", ms=700)  # of the first syllable alone no word would be left
        token = first.do("report")["token"]
        first.kill()
    with phone(files, stock_server.url, KEY) as second:
        second.do("start", token=token)
        assert second.do("event", type="session.created", count=1)["session"]["id"] == session
        question, reply = second.do("items")["items"]
        assert (question["id"], question["content"][0]["transcript"]) == (said["item_id"], said["transcript"])
        assert reply["role"] == "assistant"
        assert reply["content"][0]["transcript"], "what was heard of it"
        second.write("And of Spain?")
        response = second.do("event", type="response.done", count=1)["response"]
        assert response["status"] == "completed"
        assert response["usage"]["input_token_details"]["cached_tokens"] > 0, "the engine knew the conversation"


def test_the_example_talks(files: NpmClients, stock_server: ServerProcess) -> None:
    variables = {"OPENAI_BASE_URL": f"{stock_server.url}/v1", "OPENAI_API_KEY": KEY}
    printed = files.run("talk.mjs", str(NODE.parents[1] / "question.wav"), env=variables)
    lines = [line.partition(": ") for line in printed.splitlines()]
    assert [value for name, _, value in lines if name == "state"] == ["connecting", "live", "lost", "live", "ended"]
    said = {name: value for name, _, value in lines}
    assert "capital of france" in said["you"].lower()
    assert said["server"].strip()
    assert float(said["heard"].split(" ")[0]) > 0.3


@pytest.fixture(scope="module")
def echo_server() -> Iterator[ServerProcess]:
    settings = {"server.media_workers": 1, "turns.vad": "webrtcvad", "auth.api_keys": [KEY]}
    with server_process("echo", settings) as running:
        yield running


def test_a_call_is_made_moved_lost_gone_on_with_and_ended(files: NpmClients, echo_server: ServerProcess) -> None:
    given = {
        "url": f"{echo_server.url}/v1",
        "key": KEY,
        "say": {name: str(files.folder / f"{name}.wav") for name in RATES},
        "settleMs": SETTLE_SECONDS * 1_000,
    }
    command = ["node", str(files.folder / "mobile_flow.mjs"), json.dumps(given)]
    with subprocess.Popen(
        command, cwd=files.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() == "LOSE\n":
                workers(echo_server)[0].kill()
            stdout, stderr = process.communicate("LOST\n", RUN_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, f"{stderr}\n{echo_server.log}"
    seen = json.loads(stdout.strip().splitlines()[-1])
    for name, turn in seen["turns"].items():
        assert turn["heardMs"] > 400, name
        assert 800 < turn["spokenMs"] < 2_500, name
    assert seen["restart"] == {"newTag": True, "sameCall": True, "sameSource": True}
    assert seen["relaysAsked"] >= 2, "before the call, and before the restart"
    assert seen["staleTag"] == {"status": 412, "code": "precondition_failed"}
    assert seen["staleOffer"] == {"status": 412, "code": "precondition_failed"}
    assert seen["presentTag"] == {"status": 204, "code": None}
    assert seen["foreign"] == {"status": 400, "code": "invalid_sdp"}, "another certificate"
    resumed = seen["resumed"]
    assert resumed["sameSession"]
    assert resumed["otherCall"]
    # The echo does not know what was said, so of spoken turns only the answers are kept; written ones are whole.
    assert len(resumed["items"]) == 4
    assert resumed["items"] == [item for item in resumed["itemsBefore"] if item in resumed["items"]]
    assert resumed["items"][-2:] == resumed["itemsBefore"][-2:]
    assert (seen["late"]["status"], seen["late"]["code"]) == (404, "resume_not_found")
    assert "Start a new call" in seen["late"]["message"]
    assert seen["states"] == ["connecting", "live", "lost", "live", "lost", "live", "ended"]
    echo_server.wait_for_calls(0, 20.0)
    assert "Traceback" not in echo_server.log


CONSTANTS = {
    "CONNECT_MS": "connectSeconds",
    "PATCH_MS": "patchSeconds",
    "RECOVER_MS": "recoverSeconds",
    "REQUEST_MS": "requestSeconds",
    "SILENT_MS": "silentSeconds",
    "WATCH_MS": "watchSeconds",
}
"""In milliseconds in Node and Kotlin; in seconds in Swift."""

STEPS = (
    "start",
    "connect",
    "trickle",
    "watch",
    "networkChanged",
    "recover",
    "restartIce",
    "offerAgain",
    "resume",
    "hangUp",
)


def test_the_examples_for_phones_are_the_one_that_is_run() -> None:
    mobile = NODE.parent
    node = (NODE / "realtime_call.mjs").read_text(encoding="utf-8")
    swift = (mobile / "ios" / "RealtimeCall.swift").read_text(encoding="utf-8")
    kotlin = (mobile / "android" / "RealtimeCall.kt").read_text(encoding="utf-8")
    for name, swift_name in CONSTANTS.items():
        value = re.search(rf"const {name} = ([\d_]+);", node)
        assert value, name
        milliseconds = int(value[1].replace("_", ""))
        assert re.search(rf"val {name} = {value[1]}L", kotlin), name
        in_swift = re.search(rf"let {swift_name} = ([\d.]+)", swift)
        assert in_swift, swift_name
        assert float(in_swift[1]) * 1_000 == pytest.approx(milliseconds)
    for step in STEPS:
        assert re.search(rf"^  (?:async )?#?{step}\(", node, re.MULTILINE), step
        assert re.search(rf"func {step}\(", swift), step
        assert re.search(rf"fun {step}\(", kotlin), step


def test_what_was_never_built_says_so() -> None:
    untested = [path for name in ("ios", "android") for path in (NODE.parent / name).iterdir()]
    assert len(untested) >= 7
    for path in untested:
        assert "NOT BUILT HERE" in path.read_text(encoding="utf-8")[:200], path.name
