"""Who may call and register: a table that Kamailio reads (db_text), with HA1 hashes instead of passwords.

One line per user, `name:realm:HA1`, below a line that names the columns. HA1 = MD5(name:realm:password) is what digest
authentication (RFC 2617) needs; passwords are random, so that it tells nothing about them, but it opens the door as the
password does: the file is for the proxy alone.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from rtc_server import secret_file
from rtc_server.errors import ConfigError

HEADER = "username(string) realm(string) ha1(string)\n"
PASSWORD_CHARS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without those that look alike
PASSWORD_LENGTH = 20  # 117 bits
MIN_PASSWORD_CHARS = 12
MAX_USERS = 10_000  # the proxy reads all of them

_NAME = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_HA1 = re.compile(r"[0-9a-f]{32}")
_RESERVED = frozenset({"echo"})  # calls to this name are echo tests


@dataclass(frozen=True, slots=True)
class SipUser:
    """One user, as far as it is known here."""

    name: str
    realm: str
    ha1: str


def ha1(name: str, realm: str, password: str) -> str:
    """RFC 2617 section 3.2.2.2, in hexadecimal."""
    return hashlib.md5(f"{name}:{realm}:{password}".encode(), usedforsecurity=False).hexdigest()


def make_password() -> str:
    """A good one that can be typed into a telephone."""
    return "".join(secrets.choice(PASSWORD_CHARS) for _ in range(PASSWORD_LENGTH))


def parse_users(text: str, where: str) -> tuple[SipUser, ...]:
    """Raises ConfigError that names the line, not what is in it."""
    lines = text.splitlines()
    if lines and lines[0].strip() != HEADER.strip():
        raise ConfigError(f"{where} is no file of telephone users; `rtc-server sip user add NAME` makes one.")
    users: dict[str, SipUser] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        fields = line.split(":")
        if len(fields) != 3 or not _NAME.fullmatch(fields[0]) or not _HA1.fullmatch(fields[2]):
            raise ConfigError(f"{where}, line {number}: write `name:realm:` and 32 hexadecimal digits.")
        if fields[0] in users:
            raise ConfigError(f"{where}, line {number}: there is a user '{fields[0]}' already.")
        users[fields[0]] = SipUser(*fields)
    return tuple(users.values())


class UsersFile:
    """The file. Every change replaces it whole; a running proxy reads it again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[SipUser, ...]:
        """Empty when there is no file. Raises ConfigError."""
        try:
            return parse_users(self.path.read_text(encoding="ascii"), str(self.path))
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The file of telephone users {self.path} cannot be read: {error}.") from error

    def ensure(self) -> None:
        """Make an empty one if there is none: the proxy needs it. Raises ConfigError."""
        with secret_file.locked(self.path):
            if not self.path.exists():
                self._write(())

    def add(self, name: str, realm: str, password: str | None = None) -> str:
        """Store a user; returns the password, made here unless given. Raises ConfigError."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a user; use up to 64 letters, digits, '.', '_', '+' and '-'.")
        if name in _RESERVED:
            raise ConfigError(f"'{name}' is the name of the echo test; choose another one.")
        if password is not None and len(password) < MIN_PASSWORD_CHARS:
            raise ConfigError(f"A password needs at least {MIN_PASSWORD_CHARS} characters; strangers try to guess it.")
        password = password or make_password()
        with secret_file.locked(self.path):
            users = self.read()
            if any(known.name.lower() == name.lower() for known in users):
                raise ConfigError(f"There is a user '{name}' already; remove it first, or choose another name.")
            if len(users) >= MAX_USERS:
                raise ConfigError(f"{self.path} holds {len(users)} users; {MAX_USERS} are the most.")
            self._write((*users, SipUser(name, realm, ha1(name, realm, password))))
        return password

    def remove(self, name: str) -> None:
        """Raises ConfigError when there is none."""
        with secret_file.locked(self.path):
            users = self.read()
            left = tuple(user for user in users if user.name != name)
            if len(left) == len(users):
                raise ConfigError(f"There is no user '{name}' in {self.path}.")
            self._write(left)

    def _write(self, users: tuple[SipUser, ...]) -> None:
        lines = "".join(f"{user.name}:{user.realm}:{user.ha1}\n" for user in users)
        # It stays with its owner and group: in production it may belong to the proxy's.
        secret_file.replace(self.path, HEADER + lines, "The file of telephone users", keeps_owner=True)
