"""The section of telephone calls: the SIP adapter, who is asked about a call, and who may be called."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from .kinds import IpAddress, Port, Section

_PATTERN = re.compile(r"(\*|tel:[-+*#().\w]+|sips?:[-\w.!~*'()%+#=&$,;?/:@\[\]]+)")
_TRUNK = re.compile(
    r"[-\w.]+(:\d{1,5})?(;transport=(udp|tcp|tls))?|\[[0-9a-fA-F:]+\](:\d{1,5})?(;transport=(udp|tcp|tls))?"
)


def _check_pattern(value: str) -> str:
    if not _PATTERN.fullmatch(value):
        raise ValueError(f"{value!r} is no pattern of telephone addresses; write for example 'tel:+4930*' or '*'")
    return value


def _check_trunk(value: str) -> str:
    if value and not _TRUNK.fullmatch(value):
        raise ValueError(
            f"{value!r} is no trunk; write for example 'sip.example.org' or '192.0.2.1:5060;transport=tcp'"
        )
    return value


def _check_proxy(value: str) -> str:
    host, _, port = value.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        is_good = 1 <= int(port) <= 65_535
    except ValueError:
        is_good = False
    if not is_good:
        raise ValueError(f"{value!r} is not an address and a port; write for example '127.0.0.1:5060'")
    return value


AddressPattern = Annotated[str, AfterValidator(_check_pattern)]
Trunk = Annotated[str, AfterValidator(_check_trunk)]
ProxyAddress = Annotated[str, AfterValidator(_check_proxy)]


class SipSection(Section):
    """Telephone calls, behind a SIP proxy and a media relay (`rtc-server sip up` starts both); see sip.md."""

    enabled: bool = False
    """Take telephone calls from the proxy. Needs the extra `sip`."""
    host: IpAddress = "127.0.0.1"
    """Address that the adapter listens on, UDP. Only the proxy may reach it: it checks no passwords."""
    port: Port = 5070
    """UDP port of the adapter; 0 takes a free one."""
    proxy: ProxyAddress = "127.0.0.1:5060"
    """The proxy, as address and port: the only one whose messages are taken, and where ours go."""
    webhook_url: str = ""
    """Who is told of an incoming call (`realtime.call.incoming`) and accepts or rejects it; "" = every call is answered
    at once, with the server's own session."""
    webhook_secret_file: str = ""
    """File with the secret that signs webhooks (`whsec_...`; `rtc-server sip secret FILE` makes one)."""
    ring_timeout_seconds: float = Field(30.0, ge=1.0, le=180.0)
    """How long an incoming call rings before the caller hears that nobody answered."""
    early_media: str = ""
    """What callers hear before the call is accepted: "" (the ringing of their own telephone), "ringback", or a WAV
    file (16-bit mono PCM, at most 60 s) such as a greeting."""
    refer_targets: tuple[AddressPattern, ...] = ()
    """Addresses that calls may be handed over to, as patterns such as "tel:+4930*" or "sip:*@example.org"."""
    dial_targets: tuple[AddressPattern, ...] = ()
    """Addresses that may be called, as patterns like those of refer_targets."""
    trunk: Trunk = ""
    """Where telephone numbers (`tel:`) are called: a host, with port and transport where needed."""
    trunk_user: str = ""
    """Name for the trunk's digest authentication; "" = none is asked for."""
    trunk_password_file: str = ""
    """File with its password."""
    caller_id: str = ""
    """User part of our address in calls that we make, such as "+493012345"; "" = "rtc-server"."""
    session_expires_seconds: int = Field(1800, ge=90, le=86_400)
    """Session timer (RFC 4028): a call whose peer shows no sign of life for so long is ended."""
    keepalive_seconds: float = Field(30.0, ge=1.0, le=3_600.0)
    """How often the peer of a call is asked whether it is there (OPTIONS); one that twice gives no answer is gone."""

    @model_validator(mode="after")
    def _check(self) -> SipSection:
        if self.webhook_url:
            url = urlsplit(self.webhook_url)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ValueError("webhook_url must be an http or https address")
            if url.username is not None or url.password is not None:
                raise ValueError("webhook_url must not contain a password; the signature proves who asks")
            if not self.webhook_secret_file:
                raise ValueError("webhook_url needs webhook_secret_file: unsigned webhooks could come from anybody")
        if self.trunk_user and not self.trunk_password_file:
            raise ValueError("trunk_user needs trunk_password_file")
        return self
