"""The section of the telephone edge: the SIP proxy and the media relay that `rtc-server sip up` starts."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from .kinds import Port, Section
from .sip import Trunk

_REALM = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,61}[A-Za-z0-9])?")
_USER = re.compile(r"[-\w.+*]{0,64}", re.ASCII)


def _check_realm(value: str) -> str:
    if not _REALM.fullmatch(value):
        raise ValueError(f"{value!r} is no realm; write a name such as 'voice.example.org'")
    return value.lower()


def _check_optional_address(value: str) -> str:
    if value:
        ipaddress.ip_address(value)
    return value


def _check_network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(
            f"{value!r} is no address or network; write for example '192.0.2.7' or '192.0.2.0/28'"
        ) from None


def _check_user(value: str) -> str:
    if not _USER.fullmatch(value):
        raise ValueError(f"{value!r} is no user name of a telephone exchange")
    return value


Realm = Annotated[str, AfterValidator(_check_realm)]
OptionalAddress = Annotated[str, AfterValidator(_check_optional_address)]
AddressRange = Annotated[str, AfterValidator(_check_network)]
UserName = Annotated[str, AfterValidator(_check_user)]


class SipEdgeSection(Section):
    """The SIP proxy and the media relay between telephones and this server (`rtc-server sip up`); see sip-edge.md."""

    address: OptionalAddress = ""
    """Address of this machine that telephones and trunks reach; "" = its first one that is not loopback."""
    external_address: OptionalAddress = ""
    """The same as they know it, where a router or a cloud translates addresses; "" = the same."""
    realm: Realm = "rtc-server"
    """Realm of the passwords, and the domain of registered telephones: `sip:NAME@REALM` calls one. A change makes every
    password in users_file useless."""
    port: Port = 5060
    """SIP over UDP and TCP."""
    tls_port: Port = 5061
    """SIP over TLS, on which media must be encrypted too; 0 = none."""
    rtp_port_min: int = Field(30_000, ge=1_024, le=65_000)
    """First UDP port for media of telephones and trunks."""
    rtp_port_max: int = Field(30_999, ge=1_025, le=65_535)
    """Last one. A call takes four."""
    users_file: str = Field("config/sip-users", min_length=1)
    """Who may call and register, with hashed passwords; `rtc-server sip user add NAME` writes it."""
    allowed_addresses: tuple[AddressRange, ...] = ()
    """Trunks: addresses and networks that call without a password. Not for addresses that others can take."""
    tls_certificate: str = ""
    """PEM file with the certificate and its chain; "" = the one in server.certs_dir."""
    tls_key: str = ""
    """PEM file with its key."""
    tls_ca_file: str = ""
    """Authorities that trunks over TLS are checked against; "" = those of this machine."""
    requests_per_second: int = Field(15, ge=1, le=10_000)
    """From one address, on average over two seconds; trunks are not limited. Who sends more is banned."""
    max_failed_logins: int = Field(10, ge=1, le=1_000)
    """Wrong passwords from one address within ban_seconds; the next one is a ban."""
    ban_seconds: int = Field(300, ge=1, le=86_400)
    """How long a banned address gets no answer."""
    strict_media: bool = True
    """Media of a telephone counts only from the address and port that it names; behind a router, from where it came in
    the first three seconds. false for telephones that send from another port than they receive on (against RFC 4961):
    then strangers who find the port of a call can disturb it."""
    media_timeout_seconds: int = Field(60, ge=5, le=3_600)
    """The relay forgets a call in which neither side sent media for so long."""
    hold_timeout_seconds: int = Field(3_600, ge=5, le=86_400)
    """The same for a call on hold."""
    registrar: Trunk = ""
    """A telephone exchange to register at as an extension: host, with port and transport where needed; "" = none."""
    registrar_domain: str = Field("", max_length=253)
    """Domain of the extension; "" = the registrar's host."""
    registrar_user: UserName = ""
    """The extension."""
    registrar_password_file: str = ""
    """File with its password."""

    @model_validator(mode="after")
    def _check(self) -> SipEdgeSection:
        if self.rtp_port_max - self.rtp_port_min < 3:
            raise ValueError("rtp_port_max must be at least 3 above rtp_port_min")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key belong together")
        if self.registrar and not (self.registrar_user and self.registrar_password_file):
            raise ValueError("registrar needs registrar_user and registrar_password_file")
        if self.tls_port == self.port:
            raise ValueError("port and tls_port must differ")
        return self
