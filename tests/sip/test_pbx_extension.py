"""The edge as an extension of a telephone exchange: a second Kamailio with passwords, on the telephones' side."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.support.telephone import Line, telephone_call
from tests.support.namespaces import require_namespaces
from tests.support.sip_stand import TRUNK_ADDRESS, Stand, sip_stand

CONFIG = Path(__file__).parent / "pbx" / "kamailio.cfg.in"
REALM, PASSWORD = "pbx.test", "of-the-extension"
PATIENCE_SECONDS = 45.0  # the edge tries again every 20 s


@contextmanager
def exchange(stand: Stand, folder: Path) -> Iterator[Path]:
    """The exchange at TRUNK_ADDRESS; its log."""
    config, log = folder / "pbx.cfg", folder / "pbx.log"
    text = CONFIG.read_text().replace("@ADDRESS@", TRUNK_ADDRESS).replace("@REALM@", REALM)
    config.write_text(text)
    command = ["kamailio", "-f", str(config), "-DD", "-E", "-m", "64", "-M", "8", "-Y", str(folder)]
    with stand.phone.entered(), log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(20.0)


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while text not in (said := log.read_text(errors="replace")):
        assert time.monotonic() < deadline, said[-3000:]
        time.sleep(0.2)


@contextmanager
def extension(folder: Path, password: str) -> Iterator[Stand]:
    require_namespaces("kamailio", "rtpengine")
    secret = folder / "password"
    secret.write_text(password + "\n")
    secret.chmod(0o600)
    registration = {
        "registrar": TRUNK_ADDRESS,
        "registrar_user": "100",
        "registrar_password_file": str(secret),
    }
    with sip_stand(None, registration) as stand:
        yield stand


def test_the_edge_registers_and_takes_calls_to_its_extension(tmp_path: Path) -> None:
    async def call(stand: Stand) -> int:
        line = Line(stand.phone_address, (TRUNK_ADDRESS, 5060))
        async with telephone_call(line, f"sip:100@{TRUNK_ADDRESS}"):
            return await asyncio.to_thread(stand.num_calls)

    with extension(tmp_path, PASSWORD) as stand, exchange(stand, tmp_path) as log:
        wait_for("registered 100", log)
        with stand.phone.entered():
            assert asyncio.run(call(stand)) == 1
        stand.wait_for_calls(0)


def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    with extension(tmp_path, "not-that-one") as stand, exchange(stand, tmp_path) as log:
        wait_for("authentication failed", stand.folder / "kamailio.log")
        assert "registered 100" not in log.read_text(errors="replace")
