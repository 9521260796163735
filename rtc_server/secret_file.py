"""A small file of secrets that commands change while others read it: locked, replaced whole, for its owner alone."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtc_server.errors import ConfigError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile; its folder is made if it is not there. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"The folder {path.parent} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def replace(path: Path, text: str, what: str, *, keeps_owner: bool = False) -> None:
    """Give the file this content, for its owner alone; a reader sees the old one or the new one. With `keeps_owner` one
    that exists keeps its owner, its group and whether the group reads it. `what` names it in messages. Raises
    ConfigError."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        old = path.stat() if keeps_owner and path.exists() else None
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if old is not None:
            os.chown(new, old.st_uid, old.st_gid)
            os.chmod(new, 0o600 | (old.st_mode & 0o040))
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ConfigError(f"{what} {path} cannot be written: {error.strerror}.") from error
