"""The certificate that is served: loaded again without closing a connection, and watched for its end."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rtc_server import certs, metrics
from rtc_server.errors import CertificateError

log = logging.getLogger(__name__)

WARN_BEFORE = timedelta(days=14)  # ours are made anew 30 days before their end, at a start or a reload
WARN_EVERY_SECONDS = 86_400.0


class ServedCertificate:
    """Owns the TLS context of the HTTPS port."""

    def __init__(self, folder: Path) -> None:
        """Finds or makes a certificate in `folder`. Raises CertificateError."""
        paths = certs.ensure_certificates(folder)
        self._folder = folder
        self.context = certs.ssl_context(paths)
        self.not_after = certs.describe(paths).not_after
        """The end of what is served now."""
        metrics.CERTIFICATE_EXPIRES.set(self.not_after.timestamp())
        self._next_warning = 0.0

    def reload(self) -> None:
        """Serve what the folder holds now; connections that there are keep theirs. Raises CertificateError, and serves
        the old one then."""
        paths = certs.ensure_certificates(self._folder)
        details = certs.describe(paths)
        certs.ssl_context(paths)  # a key that does not fit must be found out before the context in use is touched
        try:
            self.context.load_cert_chain(paths.certificate, paths.private_key, password="")
        except (OSError, ValueError) as error:  # written to in this very moment
            raise CertificateError(f"The certificate in {self._folder} cannot be served: {error}.") from error
        self.not_after = details.not_after
        metrics.CERTIFICATE_EXPIRES.set(self.not_after.timestamp())
        self._next_warning = 0.0

    @property
    def is_expired(self) -> bool:
        return datetime.now(UTC) >= self.not_after

    def warn_before_expiry(self) -> None:
        """Once a day when the end is near."""
        if datetime.now(UTC) < self.not_after - WARN_BEFORE or time.monotonic() < self._next_warning:
            return
        self._next_warning = time.monotonic() + WARN_EVERY_SECONDS
        log.warning(
            "the TLS certificate ends soon; renew it and reload", extra={"not_after": self.not_after.isoformat()}
        )
