"""Settings that change while a call runs, and those that do not."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rtc_server.app.live_settings import FIXED, LIVE, change, is_live
from rtc_server.config import Settings, load_settings, settings_keys
from rtc_server.keys import KeysFile
from tests.app.test_systemd import hear_until
from tests.app.test_tls import write_certificate
from tests.support.live_call import live_call
from tests.support.server_process import ServerProcess, server_process

SETTINGS = {"server.media_workers": 1, "server.max_calls": 1, "turns.vad": "webrtcvad"}


def config_of(server: ServerProcess) -> Path:
    arguments = server.process.args
    assert isinstance(arguments, list)
    return Path(arguments[arguments.index("--config") + 1])


def edit(server: ServerProcess, old: str, new: str) -> None:
    """Change the settings file as an operator would."""
    path = config_of(server)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


async def reload(server: ServerProcess, key: str | None = None) -> tuple[int, dict[str, Any]]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.post(f"{server.url}/admin/reload", headers=headers) as reply:
        return reply.status, await reply.json()


def test_every_pattern_names_keys_that_there_are() -> None:
    names = [key.name for key in settings_keys()]
    for pattern in LIVE:
        assert any(is_live(name) and re.fullmatch(pattern.replace("*", ".*"), name) for name in names), pattern
    assert set(FIXED) < set(names)


def test_what_cannot_change_keeps_its_value_and_is_named() -> None:
    running = Settings()
    path = Path("config/server.toml")
    wanted = load_settings(path, {"server.max_calls": 3, "server.http_port": 1, "turns.vad": "silero"})
    found = change(running, wanted)
    assert found.applied == ("server.max_calls",)
    assert found.needs_restart == ("server.http_port", "turns.vad")
    assert found.settings.server.max_calls == 3
    assert found.settings.server.http_port == running.server.http_port
    assert running.server.max_calls == 10
    assert change(found.settings, wanted).applied == ()


async def test_new_calls_get_what_changed_and_the_running_one_goes_on() -> None:
    with server_process("echo", SETTINGS) as server:
        edit(server, "[server]", '[session]\ninstructions = "Old."\n\n[logging]\nlevel = "info"\n\n[server]')
        await reload(server)
        async with live_call(server.url) as first:
            assert (await first.event("session.created"))["session"]["instructions"] == "Old."
            edit(server, "Old.", "New.")
            edit(server, '"info"', '"debug"')
            edit(server, "max_calls = 1", "max_calls = 2\nhttp_port = 1")
            status, body = await reload(server)
            applied = ["server.max_calls", "session.instructions", "logging.level"]
            # The port of the command line stands above the file: nothing changes there.
            assert (status, body) == (200, {"status": "reloaded", "applied": applied, "needs_restart": []})
            async with live_call(server.url) as second:
                assert (await second.event("session.created"))["session"]["instructions"] == "New."
                assert await first.is_alive()
                assert (await second.answered())["response"]["status"] == "completed"
        assert "DEBUG" in server.log
        edit(server, "max_calls = 2", "max_calls = 2\nmedia_workers = 3")
        edit(server, "media_workers = 1\n", "")
        assert (await reload(server))[1]["needs_restart"] == ["server.media_workers"]
        assert "these settings need a restart" in server.log


async def test_a_file_with_a_mistake_changes_nothing_and_says_why() -> None:
    with server_process("echo", SETTINGS) as server:
        edit(server, "max_calls = 1", "max_calls = 0\nmedia_worker = 2")
        status, body = await reload(server)
        assert (status, body["error"]["code"]) == (422, "settings_refused")
        assert "media_worker" in body["error"]["message"]
        edit(server, "\nmedia_worker = 2", "")
        assert "server.max_calls" in (await reload(server))[1]["error"]["message"]
        server.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while server.log.count("the reload failed") < 3:  # noqa: ASYNC110 - a file is read
                await asyncio.sleep(0.05)
        ready = (await asyncio.to_thread(server.get_json, "/readyz"))[1]
        assert ready["max_calls"] == 1


async def test_keys_lanes_and_the_certificate_follow(tmp_path: Path) -> None:
    file, certs = KeysFile(tmp_path / "keys"), tmp_path / "certs"
    operator, other = file.add("ops"), file.add("other")
    write_certificate(certs, not_after=datetime.now(UTC) + timedelta(days=50))
    auth = {"auth.keys_file": str(file.path), "auth.admin_keys": ["ops"], "server.certs_dir": str(certs)}
    with server_process("echo", {**SETTINGS, **auth}, tls=True) as server:
        before = (await asyncio.to_thread(server.get_json, "/readyz"))[1]["checks"]
        assert (await reload(server))[0] == 401
        assert (await reload(server, other))[0] == 403
        edit(server, '["ops"]', '["ops", "other"]')
        edit(server, "[server]", "[admission]\nreserved_calls = 1\n\n[server]")
        write_certificate(certs, not_after=datetime.now(UTC) + timedelta(days=90))
        status, body = await reload(server, operator)
        assert (status, body["applied"]) == (200, ["auth.admin_keys", "admission.reserved_calls"])
        after = (await asyncio.to_thread(server.get_json, "/readyz"))[1]["checks"]
        assert isinstance(before, dict)
        assert isinstance(after, dict)
        assert after["certificate"]["not_after"] > before["certificate"]["not_after"]
        with pytest.raises(Exception, match="1 more are kept for priority callers"):
            async with live_call(server.url, other):
                pass
        (certs / "server.pem").write_text("no certificate", encoding="utf-8")
        edit(server, "reserved_calls = 1", "reserved_calls = 0")
        status, body = await reload(server, other)
        assert (status, body["error"]["code"]) == (422, "settings_refused")
        with pytest.raises(Exception, match="1 more are kept for priority callers"):
            async with live_call(server.url, other):
                pass


def test_systemd_hears_of_a_reload_by_sighup(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with server_process("echo", SETTINGS, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as server:
            hear_until(manager, "READY=1")
            server.process.send_signal(signal.SIGHUP)
            hear_until(manager, "RELOADING=1\nMONOTONIC_USEC=")
            heard = hear_until(manager, "READY=1")
            assert "settings read again" in server.log
            assert heard[-1] == "READY=1"
            edit(server, "max_calls = 1", "max_calls = none")
            server.process.send_signal(signal.SIGHUP)
            hear_until(manager, "RELOADING=1")
            hear_until(manager, "READY=1")
