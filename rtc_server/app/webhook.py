"""The webhook that tells an application of a telephone call that rings: OpenAI's `realtime.call.incoming`.

Owns the HTTP client. The application answers by `accept` or `reject` of the call, often before it answers the webhook.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from rtc_server import metrics
from rtc_server.config import SipSection
from rtc_server.errors import ConfigError, WebhookError
from rtc_server.sip.base import IncomingCall

from .webhook_signature import parse_secrets, signed_headers

log = logging.getLogger(__name__)

ATTEMPT_SECONDS = 5.0  # somebody waits with a telephone at the ear
PAUSES_SECONDS = (0.25, 1.0, 2.0)  # before the second attempt, and those after it
RETRY_AFTER_SECONDS = 30  # for the caller, when nobody could be told
WORTH_A_RETRY = frozenset({408, 425, 429})  # and 5xx; what else is refused is refused again


class IncomingCallWebhook:
    """`tell` is a `rtc_server.sip.base.OnIncoming`. Close it on the loop that it was used on."""

    def __init__(
        self,
        url: str,
        keys: Sequence[bytes],
        rings: Callable[[str], bool],
        *,
        attempt_seconds: float = ATTEMPT_SECONDS,
        pauses_seconds: Sequence[float] = PAUSES_SECONDS,
    ) -> None:
        """`rings(call_id)`: the call was neither accepted nor given up yet. One attempt more than there are pauses."""
        self._url = url
        self._keys = tuple(keys)
        self._rings = rings
        self._pauses = tuple(pauses_seconds)
        self._attempt_seconds = attempt_seconds
        self._http: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, settings: SipSection, rings: Callable[[str], bool]) -> IncomingCallWebhook | None:
        """None where `sip.webhook_url` is empty. Raises ConfigError when the secret cannot be used."""
        if not settings.webhook_url:
            return None
        return cls(settings.webhook_url, read_secrets(settings), rings)

    async def tell(self, call: IncomingCall) -> None:
        """Returns once the application has heard of the call, or once the call rings no more. Raises WebhookError when
        it cannot be told."""
        webhook_id, body = _event(call, int(time.time()))
        problem = ""
        for pause in (0.0, *self._pauses):
            await asyncio.sleep(pause)
            if not self._rings(call.call_id):  # accepted by an application whose reply was lost, or given up
                return
            problem, is_final = await self._post(webhook_id, body)
            if not problem:
                metrics.WEBHOOKS.labels("delivered").inc()
                return
            log.info("webhook not taken", extra={"call_id": call.call_id, "problem": problem})
            if is_final:
                break
        if not self._rings(call.call_id):
            return
        metrics.WEBHOOKS.labels("failed").inc()
        log.error("nobody could be told of a call", extra={"call_id": call.call_id, "problem": problem})
        raise WebhookError("The application that answers calls cannot be reached.", retry_after=RETRY_AFTER_SECONDS)

    async def close(self) -> None:
        """Attempts under way fail. Idempotent."""
        if self._http is not None:
            await self._http.close()

    async def _post(self, webhook_id: str, body: bytes) -> tuple[str, bool]:
        """What is wrong, "" if nothing; and whether it would be wrong again. The signature is made anew each time: an
        old timestamp is refused."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "rtc-server",
            **signed_headers(self._keys, webhook_id, int(time.time()), body),
        }
        if self._http is None:
            # No proxy and no .netrc: where it goes is what the setting says. As many at once as there are calls that
            # ring.
            timeout = aiohttp.ClientTimeout(total=self._attempt_seconds)
            self._http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        try:
            # A redirect is not followed: who is told of calls is the operator's to say.
            async with self._http.post(self._url, data=body, headers=headers, allow_redirects=False) as reply:
                status = reply.status
        except aiohttp.ClientSSLError as error:  # a certificate that is refused; the name says more than the text may
            return type(error).__name__, True
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__, False
        if 200 <= status < 300:
            return "", True
        return f"HTTP {status}", status < 500 and status not in WORTH_A_RETRY


def read_secrets(settings: SipSection) -> tuple[bytes, ...]:
    """Those of `sip.webhook_secret_file`. Raises ConfigError."""
    path = Path(settings.webhook_secret_file)
    try:
        return parse_secrets(path.read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(f"sip.webhook_secret_file: cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"sip.webhook_secret_file: {path} is not a text file.") from None
    except ValueError as error:
        raise ConfigError(
            f"sip.webhook_secret_file: {path}: {error}; `rtc-server sip secret FILE` makes one."
        ) from None


def _event(call: IncomingCall, created_at: int) -> tuple[str, bytes]:
    """The event's id, and itself as JSON."""
    event_id = f"evt_{secrets.token_hex(16)}"
    event = {
        "id": event_id,
        "object": "event",
        "created_at": created_at,
        "type": "realtime.call.incoming",
        "data": {
            "call_id": call.call_id,
            "sip_headers": [{"name": name, "value": value} for name, value in call.headers],
        },
    }
    return event_id, json.dumps(event, separators=(",", ":")).encode()
