"""The OpenAPI document: complete, served, and true under schemathesis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rtc_server.app.openapi import document
from rtc_server.app.operations import OPERATIONS
from scripts import compatibility
from tests.support.running_server import running_server
from tests.support.server_process import server_process

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
UNLIMITED = {
    "limits.requests_per_minute": 1_000_000,
    "limits.burst": 100_000,
    "limits.address_requests_per_minute": 1_000_000,
    "limits.address_burst": 100_000,
}


async def test_the_document_is_public_and_names_every_route() -> None:
    async with (
        running_server() as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/openapi.json") as reply,
    ):
        assert reply.status == 200
        body = await reply.json()
    described = {(method.upper(), path) for path, methods in body["paths"].items() for method in methods}
    assert described == set(OPERATIONS)


def test_a_route_that_is_not_described_stops_the_server() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/new", handler)
    with pytest.raises(ValueError, match="/new"):
        document(app.router.routes(), OPERATIONS)


def test_the_table_of_what_there_is_is_up_to_date() -> None:
    stale = "run `python -m scripts.compatibility`"
    assert compatibility.DOCUMENT.read_text(encoding="utf-8") == compatibility.document_text(), stale


@pytest.mark.parametrize("needs_key", [False, True], ids=["open", "with-a-key"])
def test_schemathesis_finds_no_error_of_ours_and_no_status_that_is_not_described(needs_key: bool) -> None:
    settings = {**UNLIMITED, "server.echo_test": True, "turns.vad": "webrtcvad", "server.max_calls": 50}
    key = "sk_" + "k" * 40
    if needs_key:
        settings |= {"auth.api_keys": [key]}
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--checks", CHECKS, "--max-examples", "20"]
    command += ["--exclude-path-regex", "^/admin/"]  # its first request would end the server
    command += [
        "--phases",
        "examples,coverage,fuzzing",
        "--generation-deterministic",
        "--no-color",
        "--warnings",
        "off",
    ]
    if needs_key:
        command += ["--header", f"Authorization: Bearer {key}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.support.openapi_hooks"}
    with server_process("echo", settings) as server:
        done = subprocess.run(
            [*command, f"{server.url}/openapi.json"],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in server.log, server.log
        assert key not in server.log
        server.wait_for_calls(0, 30.0)
