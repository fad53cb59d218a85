"""Providers `file:` and `credential:`: key-encryption keys in files.

`file:/etc/verdictd/kek` names the newest key: 32 bytes, or base64 of them. Older versions are the
files in the same directory whose names begin with its name and `.old`: `kek.old-2026-01`. A
version is identified by its content, so that a file can be renamed: to rotate, rename `kek` to
`kek.old-...` and put the new key in its place. Files are read again when they change.

`credential:kek` names the same files in the directory of systemd's credentials
(`LoadCredentialEncrypted=kek:/etc/verdictd/kek.cred`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.ports.sealing import DATA_KEY_BYTES, SealBroken, SealUnavailable
from verdictd_py.secretfiles import SecretFileUnusable, credential_file, read_secret_file

KEY_BYTES: Final = 32
MAX_VERSIONS: Final = 1000
_MAX_FILE_BYTES: Final = 256
_NONCE_BYTES: Final = 12
_WRAPPED_BYTES: Final = _NONCE_BYTES + DATA_KEY_BYTES + 16

_States = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and status of the files of all versions."""


def open_key(location: str) -> KeyFile:
    """Open `file:/path`; see `OpenKey`."""
    path = location.removeprefix("file:")
    if path.startswith("///"):
        path = path[2:]
    if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
        raise ConfigError(f"--seal {location}: write an absolute path, file:/etc/verdictd/kek")
    return KeyFile(Path(path))


def open_credential(location: str) -> KeyFile:
    """Open `credential:NAME`; see `OpenKey`."""
    try:
        return KeyFile(credential_file(location))
    except ValueError as error:
        raise ConfigError(f"--seal: {error}") from None


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys that were read while the files had these states."""

    states: _States
    newest: str
    by_version: Mapping[str, SecretBytes]


class KeyFile:
    """Port `KeyEncryptionKey` on files.

    Args:
        path: file of the newest version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: _Keys | None = None

    @property
    def current(self) -> str:
        return "" if self._keys is None else self._keys.newest

    async def wrap(self, data_key: SecretBytes, context: bytes) -> bytes:
        keys = await asyncio.to_thread(self._current)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = AESGCM(keys.by_version[keys.newest].reveal())
        return nonce + cipher.encrypt(nonce, data_key.reveal(), context)

    async def unwrap(self, version: str, wrapped: bytes, context: bytes) -> SecretBytes:
        keys = self._keys
        if keys is None or version not in keys.by_version:
            keys = await asyncio.to_thread(self._current)
        key = keys.by_version.get(version)
        if key is None:
            raise SealBroken(
                f"no key file has the version {version}; put its file next to {self._path}, named "
                f"{self._path.name}.old-..."
            )
        nonce, ciphertext = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        if len(wrapped) != _WRAPPED_BYTES:
            raise SealBroken("the wrapped data key has another size")
        try:
            return SecretBytes(AESGCM(key.reveal()).decrypt(nonce, ciphertext, context))
        except InvalidTag:
            raise SealBroken("the wrapped data key does not authenticate") from None

    async def check(self) -> None:
        await asyncio.to_thread(self._current)

    async def close(self) -> None:
        self._keys = None

    def _current(self) -> _Keys:
        """Return the keys, and read them again if a file has changed.

        Raises:
            SealUnavailable: a file cannot be used.
        """
        keys = self._keys
        try:
            states = self._states()
            if keys is None or keys.states != states:
                keys = self._read(states)
        except SealUnavailable:
            self._keys = None  # a file that cannot be used must not leave its key
            raise
        except OSError as error:
            self._keys = None
            raise SealUnavailable(
                f"cannot read the key file {error.filename or self._path}: {error.strerror}; "
                "restore it, and make it readable for this user only"
            ) from None
        self._keys = keys
        return keys

    def _states(self) -> _States:
        names = [self._path.name]
        with os.scandir(self._path.parent) as entries:
            names += sorted(e.name for e in entries if e.name.startswith(f"{self._path.name}.old"))
        return tuple(
            (name, _state(self._path.with_name(name))) for name in names[: MAX_VERSIONS + 1]
        )

    def _read(self, states: _States) -> _Keys:
        keys = [read_key(self._path.with_name(name)) for name, _ in states]
        by_version = {version_of(key): key for key in reversed(keys)}
        return _Keys(states, version_of(keys[0]), by_version)


def read_key(path: Path) -> SecretBytes:
    """Read a key file.

    Raises:
        SealUnavailable: it cannot be used (see `read_secret_file`), or has no key.
    """
    try:
        content = read_secret_file(path, "key", max_bytes=_MAX_FILE_BYTES).reveal()
    except SecretFileUnusable as error:
        raise SealUnavailable(str(error)) from None
    if len(content) == KEY_BYTES:
        return SecretBytes(content)
    try:
        decoded = base64.b64decode(content.strip(), validate=True)
    except binascii.Error:
        decoded = b""
    if len(decoded) != KEY_BYTES:
        raise SealUnavailable(
            f"the key file {path} has no key: it has 32 bytes, or base64 of 32 bytes; create one "
            f"with 'openssl rand -out {path} 32'"
        )
    return SecretBytes(decoded)


def version_of(key: SecretBytes) -> str:
    """Return the id of a key: 16 hex digits of an HMAC, from which the key cannot be derived."""
    digest = hmac.new(key.reveal(), b"verdictd-py id of a key file", hashlib.sha256)
    return f"file:{digest.hexdigest()[:16]}"


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
