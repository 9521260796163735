"""API keys: made here, kept as hashes, found again without a restart when the file changes.

A key is 256 random bits, so guessing one is hopeless at any speed and SHA-256 is all the hash it needs: slow hashes
(scrypt, argon2) exist for secrets that people choose.

The file has one key per line: `name sha256:<64 hex digits>  # comment`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from rtc_server import secret_file
from rtc_server.config import HASH_PREFIX, AuthSection
from rtc_server.errors import ConfigError

log = logging.getLogger(__name__)

KEY_PREFIX = "sk_"
MAX_KEYS = 1_000  # each request is compared with all of them
CHECK_SECONDS = 1.0  # how often a changed file is looked for

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEADER = "# API keys of rtc-server, as SHA-256 hashes. Written by `rtc-server keys add NAME`; one key per line.\n"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, as far as it is known here."""

    name: str
    digest: str
    """SHA-256 in hexadecimal."""
    comment: str = ""

    @property
    def key_id(self) -> str:
        """Stable, and of no use to anybody; a key that is made again under the same name has another one."""
        return self.digest[:16]

    def to_line(self) -> str:
        return f"{self.name} {HASH_PREFIX}{self.digest}" + (f"  # {self.comment}" if self.comment else "")


def hash_key(key: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def parse_keys(text: str, where: str) -> tuple[ApiKey, ...]:
    """Raises ConfigError that names the line, not what is in it."""
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content, _, comment = line.partition("#")
        words = content.split()
        if not words:
            continue
        digest = words[-1].removeprefix(HASH_PREFIX)
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(digest):
            raise ConfigError(f"{where}, line {number}: write `name {HASH_PREFIX}<64 hex digits>  # comment`.")
        if words[0] in keys:
            raise ConfigError(f"{where}, line {number}: there is a key '{words[0]}' already.")
        keys[words[0]] = ApiKey(words[0], digest, comment.strip())
    if len(keys) > MAX_KEYS:
        raise ConfigError(f"{where} holds {len(keys)} keys; {MAX_KEYS} are the most.")
    return tuple(keys.values())


class KeysFile:
    """The file, for `rtc-server keys`. Every change replaces it whole, so a reader never sees half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[ApiKey, ...]:
        """Empty when there is no file. Raises ConfigError."""
        try:
            return parse_keys(self.path.read_text(encoding="utf-8"), str(self.path))
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The file of API keys {self.path} cannot be read: {error}.") from error

    def add(self, name: str, comment: str = "") -> str:
        """Make a key and store its hash; returns the key, which is nowhere else. Raises ConfigError."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a key; use up to 64 letters, digits, '.', '_' and '-'.")
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        with secret_file.locked(self.path):
            keys = self.read()
            if any(known.name == name for known in keys):
                raise ConfigError(f"There is a key '{name}' already; remove it first, or choose another name.")
            self._write((*keys, ApiKey(name, hash_key(key), " ".join(comment.split()))))
        return key

    def remove(self, name: str) -> None:
        """Raises ConfigError when there is none."""
        with secret_file.locked(self.path):
            keys = self.read()
            left = tuple(key for key in keys if key.name != name)
            if len(left) == len(keys):
                raise ConfigError(f"There is no key '{name}' in {self.path}.")
            self._write(left)

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        secret_file.replace(self.path, _HEADER + "".join(key.to_line() + "\n" for key in keys), "The file of API keys")


class KeyRing:
    """Every key that opens this server: those of the settings, and those of the file as it is now."""

    def __init__(self, settings: AuthSection) -> None:
        """Raises ConfigError when the file cannot be used."""
        self._file = KeysFile(Path(settings.keys_file)) if settings.keys_file else None
        digests = (entry.removeprefix(HASH_PREFIX) for entry in settings.api_keys)
        self._configured = tuple(ApiKey(f"settings-{digest[:8]}", digest) for digest in digests)
        self._stamp = self._look()
        self._from_file = self._file.read() if self._file is not None else ()
        self._next_look = 0.0

    def keys(self, now: float) -> tuple[ApiKey, ...]:
        """All keys, after a look at the file if the last one is a second ago."""
        if self._file is not None and now >= self._next_look:
            self._next_look = now + CHECK_SECONDS
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload(self._file)
        return (*self._configured, *self._from_file)

    def find(self, key: str, now: float) -> ApiKey | None:
        """The key that was presented. Takes the same time for every wrong one."""
        digest, found = hash_key(key), None
        for known in self.keys(now):
            if hmac.compare_digest(known.digest, digest):
                found = known
        return found

    def _reload(self, file: KeysFile) -> None:
        try:
            self._from_file = file.read()
        except ConfigError as error:  # a slip of the editor must not lock everybody out, nor let anybody in
            log.error("the file of API keys cannot be used; the last good one stays in force: %s", error.message)
        else:
            log.info("API keys read again", extra={"keys": len(self._from_file)})

    def _look(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            found = self._file.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
