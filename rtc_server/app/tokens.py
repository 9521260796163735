"""Tokens (JWT) that an operator's own back end signs for its users. PyJWT checks them; this says what is demanded.

The algorithm follows from the configured key. What a token says about it is only compared: a token that names "none",
or an HMAC over a public key, is refused before its signature is looked at.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from rtc_server.config import AuthSection
from rtc_server.errors import ConfigError, UnauthorizedError

MIN_SECRET_BYTES = 32  # as long as the hash (RFC 7518, section 3.2)
MIN_RSA_BITS = 2048
MAX_SUBJECT_CHARS = 256
LEEWAY_SECONDS = 5  # clocks of two machines


@dataclass(frozen=True, slots=True)
class TokenVerifier:
    """One key, one algorithm."""

    key: Any
    """Bytes or a public key of `cryptography`."""
    algorithm: str
    audience: str
    issuer: str
    max_lifetime_seconds: int

    @classmethod
    def of(cls, settings: AuthSection) -> TokenVerifier | None:
        """None when no key is configured. Raises ConfigError."""
        key: Any
        if settings.jwt_secret_file:
            key, algorithm = _secret(Path(settings.jwt_secret_file)), "HS256"
        elif settings.jwt_public_key_file:
            key, algorithm = _public_key(Path(settings.jwt_public_key_file))
        else:
            return None
        return cls(key, algorithm, settings.jwt_audience, settings.jwt_issuer, settings.jwt_max_lifetime_seconds)

    def subject(self, token: str) -> str:
        """`sub` of a good token. Raises UnauthorizedError that says what is wrong, never what is in it."""
        try:
            claims = jwt.decode(
                token,
                self.key,
                algorithms=[self.algorithm],
                audience=self.audience or None,
                issuer=self.issuer or None,
                leeway=LEEWAY_SECONDS,
                options={
                    "require": ["exp", "sub", *(["aud"] if self.audience else []), *(["iss"] if self.issuer else [])],
                    "verify_aud": bool(self.audience),
                },
            )
        except jwt.ExpiredSignatureError:
            raise UnauthorizedError("The token has expired.") from None
        except jwt.InvalidTokenError as error:  # its name is the reason: InvalidAudienceError, InvalidAlgorithmError...
            raise UnauthorizedError(f"The token is not valid here ({type(error).__name__}).") from None
        if int(claims["exp"]) > time.time() + self.max_lifetime_seconds + LEEWAY_SECONDS:
            raise UnauthorizedError(f"The token is valid for longer than {self.max_lifetime_seconds} s.")
        subject = str(claims["sub"])
        if not 1 <= len(subject) <= MAX_SUBJECT_CHARS:
            raise UnauthorizedError(f"The token's 'sub' must have 1 to {MAX_SUBJECT_CHARS} characters.")
        return subject


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}.") from error


def _secret(path: Path) -> bytes:
    secret = _read(path, "auth.jwt_secret_file").strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"auth.jwt_secret_file: {path} holds {len(secret)} bytes; at least {MIN_SECRET_BYTES}.")
    return secret


def _public_key(path: Path) -> tuple[object, str]:
    where = f"auth.jwt_public_key_file: {path}"
    try:
        key = load_pem_public_key(_read(path, "auth.jwt_public_key_file"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{where} is not a public key in PEM.") from error
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key, "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key, "ES256"
    if isinstance(key, Ed25519PublicKey):
        return key, "EdDSA"
    raise ConfigError(f"{where} must be RSA of {MIN_RSA_BITS} bits or more, P-256 or Ed25519.")
