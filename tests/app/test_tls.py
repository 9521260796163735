"""The certificate that is served: watched for its end, and replaced while the port is open."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from rtc_server.app.tls import ServedCertificate
from rtc_server.errors import CertificateError
from tests.support.server_process import READY_SECONDS, server_process


def write_certificate(folder: Path, **dates: datetime) -> str:
    """An operator's own certificate; its PEM."""
    folder.mkdir(exist_ok=True)
    leaf = trustme.CA().issue_cert("speech.example", **dates)
    (folder / "server.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
    (folder / "server.key").write_bytes(leaf.private_key_pem.bytes())
    return leaf.cert_chain_pems[0].bytes().decode()


async def served(context: ssl.SSLContext) -> str:
    """PEM of what a new connection gets."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        return await asyncio.to_thread(ssl.get_server_certificate, server.sockets[0].getsockname())


@pytest.mark.parametrize(("days", "warnings"), [(100, 0), (13, 1)])
def test_the_end_is_warned_of_beforehand_and_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, warnings: int
) -> None:
    write_certificate(tmp_path, not_after=datetime.now(UTC) + timedelta(days=days))
    certificate = ServedCertificate(tmp_path)
    for _ in range(3):
        certificate.warn_before_expiry()
    assert [m for m in caplog.messages if "ends soon" in m] == [
        "the TLS certificate ends soon; renew it and reload"
    ] * warnings
    assert not certificate.is_expired


async def test_a_renewed_certificate_is_served_to_new_connections(tmp_path: Path) -> None:
    old = write_certificate(tmp_path, not_after=datetime.now(UTC) + timedelta(days=2))
    certificate = ServedCertificate(tmp_path)
    assert await served(certificate.context) == old
    new = write_certificate(tmp_path, not_after=datetime.now(UTC) + timedelta(days=90))
    certificate.reload()
    assert await served(certificate.context) == new
    assert certificate.not_after > datetime.now(UTC) + timedelta(days=80)


async def test_a_certificate_that_does_not_fit_its_key_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    old = write_certificate(tmp_path, not_after=datetime.now(UTC) + timedelta(days=60))
    certificate = ServedCertificate(tmp_path)
    before, key = certificate.not_after, (tmp_path / "server.key").read_bytes()
    write_certificate(tmp_path, not_after=datetime.now(UTC) + timedelta(days=90))
    (tmp_path / "server.key").write_bytes(key)
    with pytest.raises(CertificateError):
        certificate.reload()
    assert await served(certificate.context) == old
    assert certificate.not_after == before


def test_an_expired_certificate_makes_the_server_unready(tmp_path: Path) -> None:
    write_certificate(tmp_path, not_after=datetime(2020, 1, 1, tzinfo=UTC))
    settings = {"server.media_workers": 0, "turns.vad": "webrtcvad", "server.certs_dir": str(tmp_path)}
    with server_process("echo", settings, tls=True, wait=False) as server:
        deadline = time.monotonic() + READY_SECONDS
        while "rtc-server ready" not in server.log:
            assert time.monotonic() < deadline, server.log
            time.sleep(0.05)
        status, body = server.get_json("/readyz")
        assert (status, body["reason"]) == (503, "certificate_expired")
        checks = body["checks"]
        assert isinstance(checks, dict)
        assert checks["certificate"] == {
            "ok": False,
            "reason": "certificate_expired",
            "not_after": "2020-01-01T00:00:00+00:00",
        }
