"""Certificates: made, kept, renewed, and never overwritten when they are the operator's."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from rtc_server import certs
from rtc_server.certs import CertificatePaths, describe, ensure_certificates, find_certificates, ssl_context
from rtc_server.errors import CertificateError

NAMES = ["localhost", "127.0.0.1", "::1", "speech.example"]


def shake_hands(paths: CertificatePaths, ca: Path, name: str) -> str | None:
    """A TLS handshake in memory, the client trusting `ca`. Returns the protocol; raises ssl.SSLError."""
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    trusting = ssl.create_default_context(cafile=str(ca))
    client = trusting.wrap_bio(client_in, client_out, server_hostname=name)
    server = ssl_context(paths).wrap_bio(server_in, server_out, server_side=True)
    waiting = [client, server]
    for _ in range(20):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
            server_in.write(client_out.read())
            client_in.write(server_out.read())
        if not waiting:
            return client.version()
    raise AssertionError("the handshake did not end")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_own_certificate(folder: Path, **dates: datetime) -> bytes:
    """What an operator would bring: signed by somebody else."""
    folder.mkdir(exist_ok=True)
    leaf = trustme.CA().issue_cert("speech.example", **dates)
    (folder / "server.pem").write_bytes(leaf.cert_chain_pems[0].bytes())
    (folder / "server.key").write_bytes(leaf.private_key_pem.bytes())
    return leaf.cert_chain_pems[0].bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_trusts_the_authority_connects_by_every_name(tmp_path: Path, name: str) -> None:
    paths = ensure_certificates(tmp_path / "certs", NAMES)
    assert paths.ca is not None
    assert shake_hands(paths, paths.ca, name) == "TLSv1.3"


def test_a_client_refuses_a_name_that_is_not_covered(tmp_path: Path) -> None:
    paths = ensure_certificates(tmp_path / "certs", NAMES)
    assert paths.ca is not None
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(paths, paths.ca, "other.example")


def test_keys_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    ensure_certificates(folder, NAMES)
    assert (mode(folder / "ca.key"), mode(folder / "server.key")) == (0o600, 0o600)


def test_loose_permissions_of_a_key_are_tightened(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    ensure_certificates(folder, NAMES)
    (folder / "server.key").chmod(0o644)
    ensure_certificates(folder, NAMES)
    assert mode(folder / "server.key") == 0o600


def test_a_good_certificate_is_kept(tmp_path: Path) -> None:
    paths = ensure_certificates(tmp_path / "certs", NAMES)
    before = paths.certificate.read_bytes()
    ensure_certificates(tmp_path / "certs", NAMES[:2])
    assert paths.certificate.read_bytes() == before


def test_phones_accept_its_length(tmp_path: Path) -> None:
    paths = ensure_certificates(tmp_path / "certs", NAMES)
    certificate = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= timedelta(days=398)


def test_a_new_address_renews_it_under_the_same_authority(tmp_path: Path) -> None:
    paths = ensure_certificates(tmp_path / "certs", NAMES)
    assert paths.ca is not None
    authority = paths.ca.read_bytes()
    again = ensure_certificates(tmp_path / "certs", ["127.0.0.1", "192.0.2.7"])
    assert paths.ca.read_bytes() == authority
    assert set(describe(again).names) == {"127.0.0.1", "192.0.2.7", "localhost", "speech.example"}  # names are kept
    assert shake_hands(again, paths.ca, "192.0.2.7")


def test_one_that_ends_soon_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certs, "VALID_DAYS", certs.RENEW_DAYS - 5)
    ensure_certificates(tmp_path / "certs", NAMES)
    monkeypatch.undo()
    paths = ensure_certificates(tmp_path / "certs", NAMES)
    assert describe(paths).not_after > datetime.now(UTC) + timedelta(days=300)


@pytest.mark.parametrize("damage", ["", "garbage"])
def test_a_damaged_key_of_ours_is_replaced(tmp_path: Path, damage: str) -> None:
    paths = ensure_certificates(tmp_path / "certs", NAMES)
    paths.private_key.write_text(damage)
    ssl_context(ensure_certificates(tmp_path / "certs", NAMES))


def test_a_certificate_without_the_authority_s_key_serves_until_it_must_be_renewed(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    ensure_certificates(folder, NAMES)
    (folder / "ca.key").unlink()
    ensure_certificates(folder, NAMES)
    with pytest.raises(CertificateError, match="Restore it"):
        ensure_certificates(folder, [*NAMES, "192.0.2.7"])


def test_an_authority_with_the_wrong_key_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    ensure_certificates(folder, NAMES)
    (folder / "ca.key").write_bytes(trustme.CA().private_key_pem.bytes())
    with pytest.raises(CertificateError, match="is not the key of"):
        ensure_certificates(folder, [*NAMES, "192.0.2.7"])


def test_the_operator_s_certificate_is_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    own = write_own_certificate(folder)
    paths = ensure_certificates(folder, NAMES)
    assert paths.ca is None
    assert paths.certificate.read_bytes() == own
    assert not (folder / "ca.pem").exists()
    assert describe(paths) == certs.CertificateDetails(("speech.example",), datetime(3000, 1, 1, tzinfo=UTC), False, "")


def test_the_operator_s_certificate_beside_an_authority_is_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    ensure_certificates(folder, NAMES)
    own = write_own_certificate(folder)
    assert ensure_certificates(folder, NAMES).certificate.read_bytes() == own


def test_an_expired_certificate_of_the_operator_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_own_certificate(tmp_path / "certs", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    ensure_certificates(tmp_path / "certs", NAMES)
    assert "the certificate has expired" in caplog.messages


@pytest.mark.parametrize("missing", ["server.pem", "server.key"])
def test_half_of_the_operator_s_pair_is_refused(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "certs"
    write_own_certificate(folder)
    (folder / missing).unlink()
    with pytest.raises(CertificateError, match=f"{missing} is missing"):
        ensure_certificates(folder, NAMES)


def test_the_operator_s_key_must_fit(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    write_own_certificate(folder)
    (folder / "server.key").write_bytes(trustme.CA().private_key_pem.bytes())
    with pytest.raises(CertificateError, match="cannot be used for HTTPS"):
        ensure_certificates(folder, NAMES)


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CertificateError, match="chmod o-w"):
        ensure_certificates(folder, NAMES)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateError, match="cannot be used"):
        ensure_certificates(tmp_path / "file" / "certs", NAMES)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    assert find_certificates(folder) is None
    assert not folder.exists()
    assert find_certificates(ensure_certificates(folder, NAMES).certificate.parent) is not None


def test_the_machine_has_loopback_names_and_no_scoped_addresses() -> None:
    names = certs.machine_names()
    assert names[:3] == ["localhost", "127.0.0.1", "::1"]
    assert not [name for name in names if "%" in name or name.startswith("fe80")]
