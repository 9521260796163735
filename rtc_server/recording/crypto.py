"""Recordings at rest: a stream of sealed chunks that can be written as it grows, and that notices every change.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway and Vizár 2015, section 7; age uses it too) over AES-256-GCM:
each chunk's nonce is its number and whether it is the last, so a chunk that is missing, moved, repeated or cut off does
not open. Each file has a key of its own, derived (HKDF-SHA256) from the operator's key, a random salt and the file's
name, so nonces never meet and files cannot be exchanged.

    "RTCREC01"  key id (8)  salt (32)  name length (2)  name  { length (4)  ciphertext + tag (16) }*
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rtc_server.errors import ConfigError

from .errors import SealedFileError

MAGIC = b"RTCREC01"
KEY_BYTES = 32
SALT_BYTES = 32
ID_BYTES = 8
TAG_BYTES = 16
MAX_CHUNK = 1 << 16  # of plaintext: what a reader holds before it knows that it is genuine
_PREFIX = struct.Struct(f"<8s{ID_BYTES}s{SALT_BYTES}sH")
_LENGTH = struct.Struct("<I")


def new_key_text() -> str:
    """What `rtc-server recordings key` writes: 32 random bytes as base64."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def read_key(path: Path) -> bytes:
    """The operator's key from a file: 32 bytes as base64. Raises ConfigError, which never quotes the key."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"The key file of recordings, {path}, cannot be read: {reason}.") from error
    try:
        key = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"The key file of recordings, {path}, must hold {KEY_BYTES} bytes as base64; "
            "`rtc-server recordings key FILE` makes one."
        )
    return key


def key_id(key: bytes) -> bytes:
    """Tells keys apart, and nothing about them."""
    return HKDF(hashes.SHA256(), ID_BYTES, None, b"rtc-server recording key id").derive(key)


def _cipher(key: bytes, salt: bytes, name: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), KEY_BYTES, salt, b"rtc-server recording " + name).derive(key))


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([is_last])


class Sealer:
    """Seals one file. Every method returns the bytes to append."""

    def __init__(self, key: bytes, name: str) -> None:
        """`name` is bound to the contents: "CALL_ID.caller.opus"."""
        encoded, salt = name.encode(), os.urandom(SALT_BYTES)
        self._cipher = _cipher(key, salt, encoded)
        self._number = 0
        self._header = _PREFIX.pack(MAGIC, key_id(key), salt, len(encoded)) + encoded

    def seal(self, data: bytes) -> bytes:
        """More of the file."""
        sealed = [self._chunk(data[start : start + MAX_CHUNK], False) for start in range(0, len(data), MAX_CHUNK)]
        return b"".join(sealed)

    def finish(self) -> bytes:
        """Its end: without it a reader says that something is missing."""
        return self._chunk(b"", True)

    def _chunk(self, data: bytes, is_last: bool) -> bytes:
        header, self._header = self._header, b""
        ciphertext = self._cipher.encrypt(_nonce(self._number, is_last), data, None)
        self._number += 1
        return header + _LENGTH.pack(len(ciphertext)) + ciphertext


def open_sealed(stream: BinaryIO, key: bytes, name: str) -> Iterator[bytes]:
    """The plaintext of the file `name`, chunk by chunk, each genuine and in its place. Raises SealedFileError where it
    is not, and at the end when the file was cut off there: `is_cut_off` tells that from the rest."""
    prefix = stream.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
        raise SealedFileError(f"{name} is not a sealed recording of this server.")
    _, sealed_with, salt, length = _PREFIX.unpack(prefix)
    if stream.read(length) != name.encode():
        raise SealedFileError(f"{name} holds another recording; files must keep the names that they were sealed under.")
    if sealed_with != key_id(key):
        raise SealedFileError(f"{name} was sealed with another key, number {sealed_with.hex()}.")
    cipher = _cipher(key, salt, name.encode())
    number = 0
    while True:
        size = stream.read(_LENGTH.size)
        ciphertext = b""
        if len(size) == _LENGTH.size and _LENGTH.unpack(size)[0] <= MAX_CHUNK + TAG_BYTES:
            ciphertext = stream.read(_LENGTH.unpack(size)[0])
        elif len(size) == _LENGTH.size:
            raise SealedFileError(f"{name} was changed: chunk {number} is longer than there are.")
        if len(size) < _LENGTH.size or len(ciphertext) < _LENGTH.unpack(size)[0]:
            raise SealedFileError(f"{name} was cut off after chunk {number}.", is_cut_off=True)
        is_last = len(ciphertext) == TAG_BYTES
        try:
            data = cipher.decrypt(_nonce(number, is_last), ciphertext, None)
        except InvalidTag:
            raise SealedFileError(f"{name} was changed: chunk {number} is not genuine.") from None
        if is_last:
            if stream.read(1):
                raise SealedFileError(f"{name} was changed: something follows its end.")
            return
        yield data
        number += 1
