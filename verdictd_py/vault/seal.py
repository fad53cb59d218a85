"""Provider `vault:` of `--seal`: the KEK is a key of Transit, and never leaves Vault.

The id of a version is `vault:MOUNT/NAME:vN`. A wrapped data key is the ciphertext of Transit
without its prefix `vault:vN:` and without base64, so that it has one form only.

The context is authenticated twice: as `associated_data` (and as `context`, from which a key with
`derived` derives its subkey), and by its SHA-256 next to the data key inside the ciphertext. The
second protects also where a server ignores `associated_data`, as Vault before 1.12 does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any, Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports.sealing import (
    DATA_KEY_BYTES,
    MAX_VERSION_BYTES,
    MAX_WRAPPED_BYTES,
    SealBroken,
    SealUnavailable,
)
from verdictd_py.vault.client import NOT_FOUND, OK, Answer, VaultClient, is_number
from verdictd_py.vault.location import Location

_CIPHERS: Final = ("aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305", "aes128-gcm96")
_CIPHERTEXT: Final = re.compile(r"vault:v([1-9][0-9]{0,9}):([A-Za-z0-9+/]+={0,2})")
_ATTEMPTS: Final = 3
"""Attempts to wrap with the newest version: answers of the older one may still be on their way."""
_VERSION: Final = re.compile(r"[1-9][0-9]{0,9}")


def open_key(location: str) -> TransitKey:
    """Open `vault:https://host:8200/transit/NAME?...`; see `OpenKey`."""
    parsed = Location.parse(location, "--seal")
    if len(parsed.path) < 2:
        raise ConfigError("--seal: the URL must have a mount and the name of a key: transit/NAME")
    if len("/".join(parsed.path)) > MAX_VERSION_BYTES - len("vault::v") - 10:
        raise ConfigError("--seal: the path of the key is too long")
    return TransitKey(parsed)


@dataclass(frozen=True, slots=True)
class _Description:
    """What Transit says about the key: whether each context has a subkey of its own."""

    derived: bool


class TransitKey:
    """Port `KeyEncryptionKey` on a key of Transit.

    A key that does not exist is never created: Transit would do so for a token with the right to.
    """

    def __init__(self, location: Location, client: VaultClient | None = None) -> None:
        self._client = VaultClient(location) if client is None else client
        self._mount, self._name = "/".join(location.path[:-1]), location.path[-1]
        self._description: _Description | None = None
        self._newest = 0

    @property
    def current(self) -> str:
        return f"{self._prefix}{self._newest}" if self._newest else ""

    async def wrap(self, data_key: SecretBytes, context: bytes) -> bytes:
        for _ in range(_ATTEMPTS):
            number, wrapped = await self._encrypted(data_key, context)
            if number >= self._newest:
                self._newest = number
                return wrapped
        raise SealUnavailable("Transit encrypts with an older version than it has")

    async def _encrypted(self, data_key: SecretBytes, context: bytes) -> tuple[int, bytes]:
        """Return a wrapped data key and the version that wrapped it."""
        description = self._description or await self._describe()
        plaintext = data_key.reveal() + _digest(context)
        answer = await self._call("encrypt", _bound(context, description, plaintext=plaintext))
        if answer.status != OK:
            await self._describe()  # reports a key that is gone
            raise SealUnavailable(
                f"Transit does not encrypt with {self._name} (status {answer.status})"
            )
        match = _CIPHERTEXT.fullmatch(str(_data(answer).get("ciphertext")))
        wrapped = _decoded(match.group(2)) if match else None
        if match is None or wrapped is None or len(wrapped) > MAX_WRAPPED_BYTES:
            raise SealUnavailable("Transit's answer has no ciphertext")
        return int(match.group(1)), wrapped

    async def unwrap(self, version: str, wrapped: bytes, context: bytes) -> SecretBytes:
        number = version.removeprefix(self._prefix)
        if not version.startswith(self._prefix) or not _VERSION.fullmatch(number):
            raise SealBroken(f"the data key was wrapped by {version!r}, not by this key of Transit")
        description = self._description or await self._describe()
        ciphertext = f"vault:v{number}:{base64.b64encode(wrapped).decode()}"
        body = _bound(context, description) | {"ciphertext": ciphertext}
        answer = await self._call("decrypt", body)
        if answer.status != OK:
            await self._describe()  # reports a key that is gone: that says nothing of the object
            raise SealBroken(
                "Transit does not decrypt the data key: it was altered, or its version is retired"
            )
        plaintext = _decoded(_data(answer).get("plaintext"))
        if plaintext is None or len(plaintext) != DATA_KEY_BYTES + hashlib.sha256().digest_size:
            raise SealBroken("the wrapped data key has another size")
        if not hmac.compare_digest(plaintext[DATA_KEY_BYTES:], _digest(context)):
            raise SealBroken("the data key was wrapped for another object")
        return SecretBytes(plaintext[:DATA_KEY_BYTES])

    async def check(self) -> None:
        await self._describe()

    async def close(self) -> None:
        await self._client.close()

    @property
    def _prefix(self) -> str:
        return f"vault:{self._mount}/{self._name}:v"

    async def _describe(self) -> _Description:
        """Read the description of the key.

        Raises:
            SealUnavailable: there is no such key, or it cannot be used.
        """
        self._description = None
        answer = await self._call("keys")
        if answer.status == NOT_FOUND:
            raise SealUnavailable(
                f"Transit has no key {self._name} in {self._mount}/; create it with "
                f"'vault write -f {self._mount}/keys/{self._name}'"
            )
        data = _data(answer)
        latest, kind = data.get("latest_version"), data.get("type")
        if kind not in _CIPHERS:
            raise SealUnavailable(
                f"the key {self._name} of Transit has the type {str(kind)[:40]!r}, which does not "
                "authenticate; create one of the type aes256-gcm96"
            )
        if not is_number(latest) or not 0 < latest < 10**10:
            raise SealUnavailable("Transit's answer has no version of the key")
        self._newest = latest
        self._description = _Description(data.get("derived") is True)
        return self._description

    async def _call(self, action: str, body: dict[str, JsonValue] | None = None) -> Answer:
        path = f"{self._mount}/{action}/{self._name}"
        try:
            return await self._client.request("GET" if body is None else "POST", path, body)
        except StorageError as error:
            raise SealUnavailable(str(error)) from None


def _bound(
    context: bytes, description: _Description, *, plaintext: bytes | None = None
) -> dict[str, JsonValue]:
    """Return the members of a request that bind the context."""
    text = base64.b64encode(context).decode()
    body: dict[str, JsonValue] = {"associated_data": text}
    if description.derived:
        body["context"] = text
    if plaintext is not None:
        body["plaintext"] = base64.b64encode(plaintext).decode()
    return body


def _digest(context: bytes) -> bytes:
    return hashlib.sha256(context).digest()


def _data(answer: Answer) -> dict[str, Any]:
    try:
        return dict(answer.data)
    except StorageError as error:
        raise SealUnavailable(str(error)) from None


def _decoded(text: object) -> bytes | None:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        return None
