"""A phone in software: libwebrtc in Node with the call of examples/mobile/node, told what to do (mobile_phone.mjs)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.npm_clients import FILES, NpmClients, npm_clients

NODE = Path(__file__).resolve().parents[2] / "examples" / "mobile" / "node"
STOP_SECONDS = 20.0


class RefusedError(Exception):
    """A command failed; `code` and `status` when the server refused it."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: str | None = error["code"]
        self.status: int | None = error["status"]


@dataclass(slots=True)
class Phone:
    """Made by `phone`. What it does blocks; `later` is for tests whose server runs on their own event loop."""

    process: subprocess.Popen[str]

    def do(self, command: str, **fields: Any) -> dict[str, Any]:
        """One command of mobile_phone.mjs, to its end. Raises RefusedError, and AssertionError when it has died."""
        stdin, stdout, stderr = self.process.stdin, self.process.stdout, self.process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        stdin.write(json.dumps({"command": command, **fields}) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, f"the phone died: {stderr.read()[-4_000:]}"
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer and set(answer["error"]) == {"status", "code", "message"}:
            raise RefusedError(answer["error"])
        return answer

    async def later(self, command: str, **fields: Any) -> dict[str, Any]:
        """`do`, beside the event loop."""
        return await asyncio.to_thread(self.do, command, **fields)

    def write(self, text: str) -> None:
        """A turn in writing, to be answered."""
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        self.do("send", event={"type": "conversation.item.create", "item": item})
        self.do("send", event={"type": "response.create"})

    def suspend(self) -> None:
        """The system stops the app, as in the background: no sound, no events, no answers to ICE's checks."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """It goes on where it was."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """The system ends the app, which cannot say goodbye."""
        self.process.kill()
        self.process.wait()


def phone_files(folder: Path) -> NpmClients:
    """The example in a folder, with the scripts that drive it and the packages. Skips without npm or network."""
    clients = npm_clients(folder, NODE)
    for script in FILES.glob("mobile_*.mjs"):
        (clients.folder / script.name).write_bytes(script.read_bytes())
    return clients


@contextmanager
def phone(files: NpmClients, url: str, key: str | None = None) -> Iterator[Phone]:
    """A phone that talks to the server at `url` ("http://host:port"); it hangs up at the end if it still lives. A test
    whose server is in its own process does that before: the end blocks."""
    command = ["node", str(files.folder / "mobile_phone.mjs"), json.dumps({"url": f"{url}/v1", "key": key})]
    process = subprocess.Popen(
        command, cwd=files.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield Phone(process)
        process.communicate(timeout=STOP_SECONDS)  # the end of its commands
    finally:
        process.kill()
        process.communicate()
