"""From the settings to the files of Kamailio and the command of rtpengine. Pure: nothing is read or written here."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rtc_server.config import Settings
from rtc_server.errors import ConfigError

SYSTEM_AUTHORITIES = "/etc/ssl/certs"
"""By hash, looked up when a certificate is checked: reading all of them into each process took 5 s of every start."""
DEFAULT_SIP_PORT = 5060
MAX_BANNED_SECONDS = 86_400
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
MEDIA_TOS = 184  # expedited forwarding (RFC 4594)
PORTS_PER_CALL = 4  # two of the telephone's (RTP, RTCP), two of ours until rtcp-mux is agreed


@dataclass(frozen=True, slots=True)
class EdgePaths:
    """Where what the settings do not say lies."""

    folder: Path
    """Of the rendered files; absolute."""
    users_file: Path
    """Absolute."""
    certificate: Path | None
    """PEM; None = no TLS."""
    key: Path | None
    ng_port: int
    """UDP port on loopback on which the proxy commands the relay."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The edge of one machine."""

    files: dict[str, str]
    """Name -> text, for one folder that only the proxy's user reads; `kamailio.cfg` lies there as it is shipped."""
    relay: tuple[str, ...]
    """Command of rtpengine."""
    proxy: tuple[str, ...]
    """Command of Kamailio."""


def render(settings: Settings, address: str, paths: EdgePaths, registrar_password: str = "") -> Rendered:
    """`address`: of this machine, where `sip_edge.address` names none. Raises ConfigError for settings that do not fit
    together."""
    edge, sip = settings.sip_edge, settings.sip
    address = edge.address or address
    external = edge.external_address or address
    if ipaddress.ip_address(address).is_loopback:
        raise ConfigError(
            f"The edge cannot use {address}: media needs an address that is not loopback; name one with "
            "sip_edge.address."
        )
    if ipaddress.ip_address(address).version != ipaddress.ip_address(external).version:
        raise ConfigError("sip_edge.address and sip_edge.external_address must be of one kind, IPv4 or IPv6.")
    if sip.port == 0:
        raise ConfigError("sip.port is 0, any free port; the proxy has to know it.")
    tls = paths.certificate is not None and edge.tls_port != 0
    files = {
        "site.cfg": _site(settings, address, external, paths, tls),
        "trunks": _trunks(settings),
    }
    if tls:
        files["tls.cfg"] = _tls(settings, paths)
    if edge.registrar:
        folder = "registrations"
        files[f"{folder}/uacreg"] = _registration(settings, address, registrar_password)
        files[f"{folder}/version"] = "id(int,auto) table_name(string) table_version(int)\n1:uacreg:5\n"
    advertised = "" if external == address else f"!{external}"
    relay = (
        *("rtpengine", "--foreground", "--log-stderr", "--log-level=4", "--table=-1"),
        *(f"--interface=phone/{address}{advertised}", f"--interface=server/{address}"),
        f"--listen-ng=127.0.0.1:{paths.ng_port}",
        *(f"--port-min={edge.rtp_port_min}", f"--port-max={edge.rtp_port_max}"),
        *("--dtls-passive", "--dtls-cert-cipher=prime256v1", "--dtls-signature=SHA-256"),
        *(f"--timeout={edge.media_timeout_seconds}", f"--silent-timeout={edge.hold_timeout_seconds}"),
        *("--endpoint-learning=heuristic", "--delete-delay=0", f"--tos={MEDIA_TOS}", "--num-threads=2"),
        f"--max-sessions={(edge.rtp_port_max - edge.rtp_port_min + 1) // PORTS_PER_CALL}",
    )
    proxy = (
        *("kamailio", "-DD", "-E", "-f", str(paths.folder / "kamailio.cfg")),
        *("-P", str(paths.folder / "kamailio.pid"), "-Y", str(paths.folder), "-m", "512", "-M", "16"),
    )
    return Rendered(files, relay, proxy)


def uri_host(address: str) -> str:
    """An address as it stands in a SIP URI."""
    return f"[{address}]" if ":" in address else address


def _text(value: object) -> str:
    """A string of Kamailio's configuration. What the settings hold has no quotes; a path may."""
    text = str(value)
    if any(c in text for c in '"\\\n'):
        raise ConfigError(f"{text!r} cannot be used: a quote or a backslash is in it.")
    return f'"{text}"'


def _site(settings: Settings, address: str, external: str, paths: EdgePaths, tls: bool) -> str:
    edge, sip = settings.sip_edge, settings.sip
    loopback, _, loopback_port = sip.proxy.rpartition(":")
    loopback_host = loopback.strip("[]")
    host, advertised = uri_host(address), uri_host(external)
    users = paths.users_file
    values: dict[str, object] = {
        "ADAPTER": _text(f"sip:{uri_host(sip.host)}:{sip.port}"),
        "ADAPTER_HOST": _text(sip.host),
        "ADAPTER_PORT": sip.port,
        "LOOPBACK_HOST": _text(loopback_host),
        "PUBLIC_HOST": _text(host),
        "EXTERNAL_HOST": _text(advertised),
        "PUBLIC_PORT": edge.port,
        "TLS_PORT": edge.tls_port or edge.port,
        "REALM": _text(edge.realm),
        "PING_FROM": _text(f"sip:ping@{edge.realm}"),
        "USERS_URL": _text(f"text://{users.parent}"),
        "USERS_TABLE": _text(users.name),
        "TRUNKS_FILE": _text(paths.folder / "trunks"),
        "CONTROL_SOCKET": _text(f"unix:{paths.folder / 'control'}"),
        "RTPENGINE_SOCKET": _text(f"udp:127.0.0.1:{paths.ng_port}"),
        "REQUESTS_IN_TWO_SECONDS": 2 * edge.requests_per_second,
        "MAX_FAILED_LOGINS": edge.max_failed_logins,
        "BAN_SECONDS": edge.ban_seconds,
    }
    if tls:
        values["WITH_TLS"] = ""
        values["TLS_FILE"] = _text(paths.folder / "tls.cfg")
    if edge.strict_media:
        values["STRICT_MEDIA"] = ""
    if edge.registrar:
        values["WITH_REGISTRAR"] = ""
        values["REGISTRATIONS_URL"] = _text(f"text://{paths.folder / 'registrations'}")
        values["REGISTRATION_CONTACT"] = _text(f"{advertised}:{edge.port}")
    lines = ["# Written from the settings [sip] and [sip_edge] of rtc-server; changes here are lost."]
    lines += [f"#!define {name} {value}".rstrip() for name, value in values.items()]
    lines.append("")
    advertise = "" if external == address else f" advertise {advertised}:{{}}"
    for kind, port in (("udp", edge.port), ("tcp", edge.port), ("tls", edge.tls_port if tls else 0)):
        if port:
            lines.append(f"listen={kind}:{host}:{port}{advertise.format(port)}")
    lines.append(f"listen=udp:{loopback}:{loopback_port}")
    if tls:
        lines.append("enable_tls=yes")
    aliases = [f"alias={_text(edge.realm)}"]
    return "\n".join([*lines, *aliases]) + "\n"


def _trunks(settings: Settings) -> str:
    """Lines of Kamailio's module permissions: group, address, mask, port (0 = any)."""
    ranges = [ipaddress.ip_network(text) for text in settings.sip_edge.allowed_addresses]
    host = _host_of(settings.sip_edge.registrar)
    with suppress(ValueError):  # a name; the operator lists its addresses
        ranges += [ipaddress.ip_network(host)] if host else []
    lines = [f"1 {uri_host(str(known.network_address))} {known.prefixlen} 0" for known in ranges]
    return "# Who calls without a password\n" + "".join(line + "\n" for line in lines)


def _tls(settings: Settings, paths: EdgePaths) -> str:
    file = settings.sip_edge.tls_ca_file
    authorities = f"ca_list = {file}" if file else f"ca_path = {SYSTEM_AUTHORITIES}"
    return (
        "[server:default]\n"
        f"method = TLSv1.2+\nverify_certificate = no\nrequire_certificate = no\n"
        f"certificate = {paths.certificate}\nprivate_key = {paths.key}\ncipher_list = {CIPHERS}\n\n"
        "[client:default]\n"
        f"method = TLSv1.2+\nverify_certificate = yes\nrequire_certificate = yes\n{authorities}\n"
        f"cipher_list = {CIPHERS}\n"
    )


def _registration(settings: Settings, address: str, password: str) -> str:
    """A table of Kamailio's module uac: this server as an extension of somebody else's exchange."""
    edge = settings.sip_edge
    domain = edge.registrar_domain or _host_of(edge.registrar)
    columns = (
        "id(int,auto) l_uuid(string,null) l_username(string,null) l_domain(string,null) r_username(string,null) "
        "r_domain(string,null) realm(string,null) auth_username(string,null) auth_password(string,null) "
        "auth_ha1(string,null) auth_proxy(string,null) expires(int) flags(int) reg_delay(int) "
        "contact_addr(string,null) socket(string,null)\n"
    )
    user = edge.registrar_user
    proxy = f"sip:{edge.registrar}"
    socket = f"udp:{uri_host(address)}:{edge.port}"
    fields = ("1", user, user, edge.realm, user, domain, "", user, password, "", proxy, "300", "0", "0", "", socket)
    return columns + ":".join(_field(field) for field in fields) + "\n"


def _field(text: str) -> str:
    """Of db_text, whose separator is the colon. Raises ConfigError for what cannot be written there."""
    if any(ord(c) < 0x20 for c in text):
        raise ConfigError("A password of the telephone exchange must be one line.")
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _host_of(trunk: str) -> str:
    """ "pbx.example.org:5060;transport=tcp" -> "pbx.example.org"."""
    host = trunk.partition(";")[0]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
