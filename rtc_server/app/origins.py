"""Which web pages may talk to the server, and under which names an open server may be addressed.

Browsers name the page that asks in `Origin`; programs do not send it. A page may always talk to the server that it came
from. That alone does not protect an open server on this machine: a hostile site can make its own name lead to 127.0.0.1
(DNS rebinding) and is then its own origin. So an open server also looks at the name in `Host`: addresses cannot be
rebound, and names must be its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

DEFAULT_PORTS = {"http": 80, "https": 443}


class OriginPolicy:
    """Decides; changes nothing."""

    def __init__(self, allowed_origins: Iterable[str], own_names: Iterable[str]) -> None:
        """`allowed_origins`: exact, or "*"; `own_names`: of this machine, without ports."""
        self._allowed = frozenset(allowed_origins)
        self._names = frozenset(name.lower().rstrip(".") for name in own_names)

    def allows_origin(self, origin: str, host: str) -> bool:
        """The page at `origin` may ask the server that it addresses as `host` (the header)."""
        return "*" in self._allowed or origin.lower() in self._allowed or is_same_origin(origin, host)

    def allows_host(self, host: str) -> bool:
        """An open server may be addressed as `host` (the header)."""
        name = split_host(host)[0]
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.split("%")[0])
        except ValueError:
            return False
        return True


def is_same_origin(origin: str, host: str) -> bool:
    """Name and port are the same. The scheme may differ: behind a proxy that ends TLS the server sees plain HTTP."""
    scheme, separator, place = origin.lower().partition("://")
    if not separator or scheme not in DEFAULT_PORTS or not place or not host:
        return False
    port = DEFAULT_PORTS[scheme]
    (origin_name, origin_port), (name, host_port) = split_host(place), split_host(host)
    return bool(name) and origin_name == name and (origin_port or port) == (host_port or port)


def split_host(host: str) -> tuple[str, int | None]:
    """ "[::1]:8000" -> ("::1", 8000); the name in lower case, without a dot at the end. Nonsense gives ("", None)."""
    text = host.strip().lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return "", None
        port = rest[1:]
    else:
        name, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return "", None
    return name.rstrip("."), int(port) if port else None
