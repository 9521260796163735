"""Signatures of webhooks, as Standard Webhooks (standardwebhooks.com) and OpenAI's SDKs have them. Pure.

Signed is `id.timestamp.body` with HMAC-SHA256, so a receiver knows who sent it, that nothing was changed, and that it
is not an old one that somebody sends again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
MIN_BYTES, MAX_BYTES, NEW_BYTES = 24, 64, 32  # the first two are the specification's
MAX_SECRETS = 4  # two while one takes the place of the other


def make_secret() -> str:
    """`whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_BYTES)).decode()


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """The keys in a file with one secret per line; empty lines and lines that begin with "#" do not count. Raises
    ValueError, which names the line and not what is in it."""
    found: list[bytes] = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        try:
            if not word.startswith(PREFIX):
                raise ValueError
            key = base64.b64decode(word.removeprefix(PREFIX), validate=True)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number} is not '{PREFIX}' and a key in base64") from None
        if not MIN_BYTES <= len(key) <= MAX_BYTES:
            raise ValueError(f"line {number} has a key of {len(key)} bytes; {MIN_BYTES} to {MAX_BYTES} are a key")
        found.append(key)
    if not 1 <= len(found) <= MAX_SECRETS:
        raise ValueError(f"it holds {len(found)} secrets; write 1, or up to {MAX_SECRETS} while you replace one")
    return tuple(found)


def signed_headers(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """What goes beside `body`, a signature with every key. `timestamp` is Unix time in whole seconds."""
    content = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
