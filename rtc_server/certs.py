"""The TLS certificate: a local authority made with trustme, or whatever the operator put in its place.

    certs_dir/ca.pem, ca.key           our authority; made once and kept, so that phones trusting it stay happy
    certs_dir/server.pem, server.key   what HTTPS presents: ours, renewed when needed, or the operator's own

A `server.pem` that our authority did not sign belongs to the operator and is never written to. Keys have
mode 0600. Two processes may run at once: the second waits for the first.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import trustme
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from rtc_server.errors import CertificateError

log = logging.getLogger(__name__)

VALID_DAYS = 397  # the longest that all browsers accept; phones refuse more than 825
RENEW_DAYS = 30  # a server that is restarted once a month never presents an expired certificate
CLOCK_SKEW = timedelta(days=1)  # a phone's clock may be behind ours

_KEY_MODE = 0o600
_DNS_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CertificatePaths:
    """Files of a certificate that is ready to serve."""

    certificate: Path
    """PEM; may hold the chain too."""
    private_key: Path
    ca: Path | None
    """Certificate to install on phones; None when the operator brought a certificate of their own."""


@dataclass(frozen=True, slots=True)
class CertificateDetails:
    """What a certificate says, for people and for `doctor`."""

    names: tuple[str, ...]
    """DNS names and addresses it is valid for."""
    not_after: datetime
    is_own: bool
    """True when our local authority signed it."""
    ca_fingerprint: str
    """SHA-256 of the authority, as phones show it; "" when it is not ours."""


def ensure_certificates(certs_dir: Path, names: Sequence[str] | None = None) -> CertificatePaths:
    """Make `certs_dir` hold a certificate that can be served, and return its files.

    `names` are the DNS names and addresses that ours must cover; by default those of this machine. Ours is
    made anew when one is missing, when it ends within 30 days, or when it is damaged. The operator's own is
    taken as it is. Raises CertificateError.
    """
    try:
        _prepare_folder(certs_dir)
        with _lock(certs_dir / ".lock"):
            return _ensure(certs_dir, machine_names() if names is None else names)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CertificateError(f"The certificate folder {certs_dir} cannot be used: {reason}.") from error


def find_certificates(certs_dir: Path) -> CertificatePaths | None:
    """What `certs_dir` holds, without changing anything; None when there is no certificate yet.

    Raises CertificateError for files that cannot be read.
    """
    certificate, key, ca = (certs_dir / name for name in ("server.pem", "server.key", "ca.pem"))
    if not certificate.exists():
        return None
    is_ours = _is_signed_by(certificate, _load_certificate(ca) if ca.exists() else None)
    return CertificatePaths(certificate, key, ca if is_ours else None)


def describe(paths: CertificatePaths) -> CertificateDetails:
    """Read back what `paths` holds. Raises CertificateError if it is not a certificate."""
    certificate = _load_certificate(paths.certificate)
    fingerprint = ""
    if paths.ca is not None:
        fingerprint = _load_certificate(paths.ca).fingerprint(SHA256()).hex(":").upper()
    return CertificateDetails(
        _names_of(certificate), certificate.not_valid_after_utc, paths.ca is not None, fingerprint
    )


def ssl_context(paths: CertificatePaths) -> ssl.SSLContext:
    """A context for serving HTTPS: TLS 1.2 or newer. Raises CertificateError for a key that does not fit."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An encrypted key must not make the server stop and ask for its password.
        context.load_cert_chain(paths.certificate, paths.private_key, password="")
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"{paths.certificate} and {paths.private_key} cannot be used for HTTPS: {error}. Put a PEM "
            "certificate with its unencrypted key there, or remove both to have a local one made."
        ) from error
    return context


def machine_names() -> list[str]:
    """Names and addresses under which other devices reach this machine; loopback first, at most 64."""
    host = socket.gethostname()
    names = ["localhost", "127.0.0.1", "::1", host, host.split(".")[0] + ".local"]
    for interface in psutil.net_if_addrs().values():
        names += [entry.address for entry in interface if entry.family in (socket.AF_INET, socket.AF_INET6)]
    return list(dict.fromkeys(name for name in names if _is_usable(name)))[:64]


def _is_usable(name: str) -> bool:
    if _is_ip(name):
        return not ipaddress.ip_address(name).is_link_local
    return _DNS_NAME.fullmatch(name) is not None  # host names with underscores do not fit in a certificate


def _prepare_folder(certs_dir: Path) -> None:
    certs_dir.mkdir(parents=True, exist_ok=True)
    mode = certs_dir.stat().st_mode
    if mode & stat.S_IWOTH:
        raise CertificateError(
            f"Everybody may write to the certificate folder {certs_dir} (mode {stat.S_IMODE(mode):o}), so its keys "
            f"are not safe. Run `chmod o-w {certs_dir}` or choose another folder with server.certs_dir."
        )


def _ensure(certs_dir: Path, names: Sequence[str]) -> CertificatePaths:
    paths = CertificatePaths(certs_dir / "server.pem", certs_dir / "server.key", certs_dir / "ca.pem")
    authority = _load_certificate(certs_dir / "ca.pem") if (certs_dir / "ca.pem").exists() else None
    if paths.certificate.exists() or paths.private_key.exists():
        if not _is_signed_by(paths.certificate, authority):
            return _check_foreign(CertificatePaths(paths.certificate, paths.private_key, None))
        reason = _renewal_reason(paths, names)
        if reason is None:
            _protect(paths.private_key)
            return paths
        log.info("local certificate is renewed", extra={"reason": reason})
        names = [*names, *(name for name in _dns_names_of(paths.certificate) if name not in names)]
    ca = _load_or_make_ca(certs_dir)
    now = datetime.now(UTC)
    leaf = ca.issue_cert(
        *names,
        organization_name="rtc-server",
        organization_unit_name=socket.gethostname()[:64],
        not_before=now - CLOCK_SKEW,
        not_after=now - CLOCK_SKEW + timedelta(days=VALID_DAYS),
    )
    _write(paths.private_key, leaf.private_key_pem.bytes(), _KEY_MODE)
    _write(paths.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems), 0o644)
    return paths


def _load_or_make_ca(certs_dir: Path) -> trustme.CA:
    certificate, key = certs_dir / "ca.pem", certs_dir / "ca.key"
    if certificate.exists() and key.exists():
        _protect(key)
        if _public_key_of(key) != _public_key_bytes(_load_certificate(certificate)):
            raise CertificateError(
                f"{key} is not the key of {certificate}. Restore the right one, or remove both to make a new "
                "authority, which phones have to trust again."
            )
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    if certificate.exists():
        raise CertificateError(
            f"The certificate of this server has to be renewed, but the key of its authority, {key}, is gone. "
            f"Restore it, or remove {certificate} too to make a new authority, which phones have to trust again."
        )
    # path_length 0: the authority may sign servers but no further authorities.
    ca = trustme.CA(
        path_length=0,
        organization_name="rtc-server",
        organization_unit_name=f"Local authority of {socket.gethostname()}"[:64],
    )
    _write(key, ca.private_key_pem.bytes(), _KEY_MODE)
    _write(certificate, ca.cert_pem.bytes(), 0o644)
    log.info("local certificate authority was made", extra={"path": str(certificate)})
    return ca


def _check_foreign(paths: CertificatePaths) -> CertificatePaths:
    """The operator's own files: both must be there and fit; nothing is changed."""
    for path in (paths.certificate, paths.private_key):
        if not path.exists():
            raise CertificateError(
                f"{path} is missing, while its counterpart is there. A certificate of your own needs both "
                f"{paths.certificate} and {paths.private_key}; remove both to have a local one made."
            )
    ssl_context(paths)
    if _load_certificate(paths.certificate).not_valid_after_utc < datetime.now(UTC):
        log.warning("the certificate has expired", extra={"path": str(paths.certificate)})
    if paths.private_key.stat().st_mode & 0o077:
        log.warning("the certificate's key can be read by others", extra={"path": str(paths.private_key)})
    return paths


def _renewal_reason(paths: CertificatePaths, names: Sequence[str]) -> str | None:
    """Why our own certificate has to be made anew; None when it need not."""
    certificate = _load_certificate(paths.certificate)
    if not paths.private_key.exists() or _public_key_of(paths.private_key) != _public_key_bytes(certificate):
        return "key does not fit"
    if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=RENEW_DAYS):
        return "ends soon"
    if not set(names) <= set(_names_of(certificate)):
        return "addresses changed"
    return None


def _is_signed_by(path: Path, authority: x509.Certificate | None) -> bool:
    if authority is None or not path.exists():
        return False
    try:
        _load_certificate(path).verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} is not a PEM certificate that can be read: {error}.") from error


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )


def _dns_names_of(path: Path) -> list[str]:
    """Names given earlier, which a renewal keeps; addresses are not kept, because they move on."""
    return [name for name in _names_of(_load_certificate(path)) if _DNS_NAME.fullmatch(name) and not _is_ip(name)]


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _public_key_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_key_of(key: Path) -> bytes | None:
    """The public half of a private key file; None when it cannot be read as one."""
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _protect(key: Path) -> None:
    if stat.S_IMODE(key.stat().st_mode) != _KEY_MODE:
        log.warning("key had loose permissions", extra={"path": str(key)})
        key.chmod(_KEY_MODE)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace `path` as a whole; it never exists half written or with a wider mode."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.chmod(mode)  # whatever the umask took away
    part.replace(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
