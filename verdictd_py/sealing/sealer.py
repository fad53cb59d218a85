"""Sealer of envelopes: a new data key for each object, wrapped by a key-encryption key.

A data key and a content exist as long as the call that needs them. Python cannot erase the memory
that they had: it is reused, and a process that can read the memory of the broker reads secrets
anyway. Only `DataKeys` retains data keys, for the time that the operator has chosen.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.formats.sealed import (
    NONCE_BYTES,
    Envelope,
    Header,
    associated_data,
    is_sealed,
    key_context,
)
from verdictd_py.offload import offload
from verdictd_py.ports.sealing import (
    DATA_KEY_BYTES,
    KeyEncryptionKey,
    SealBroken,
    SealedName,
    SealUnavailable,
)
from verdictd_py.sealing.datakeys import DataKeys

_WRAPS: Final = 5
"""Attempts to wrap a data key while the KEK is rotated."""


class EnvelopeSealer:
    """Port `Sealer` on a key-encryption key.

    Args:
        key: the KEK.
        data_keys: cache of unwrapped data keys; None to unwrap at each use.
    """

    def __init__(self, key: KeyEncryptionKey, data_keys: DataKeys | None = None) -> None:
        self.key = key
        self._data_keys = data_keys

    async def seal(self, name: SealedName, content: bytes) -> bytes:
        data_key = SecretBytes(secrets.token_bytes(DATA_KEY_BYTES))
        version, wrapped = await self._wrapped(data_key, key_context(name))
        header = Header(name.revision, version, wrapped, secrets.token_bytes(NONCE_BYTES))
        encoded = header.encode()
        data = associated_data(name, encoded)

        def encrypt() -> bytes:
            return encoded + AESGCM(data_key.reveal()).encrypt(header.nonce, content, data)

        return await offload(len(content), encrypt)

    async def unseal(self, name: SealedName, sealed: bytes) -> bytes:
        if not is_sealed(sealed):
            raise SealBroken(f"{name.path} is not sealed; run 'verdictd-py store seal'")
        try:
            envelope = Envelope.parse(sealed)
        except SealBroken as error:
            raise SealBroken(f"{name.path} {error}; restore it from a backup") from None
        header = envelope.header
        if header.revision != name.revision:
            raise SealBroken(
                f"{name.path} has the revision {header.revision} and not {name.revision}: it was "
                "replaced by an older or another object; restore it from a backup"
            )
        data_key = await self._unwrapped(name, header)
        data = associated_data(name, envelope.encoded_header)

        def decrypt() -> bytes:
            return AESGCM(data_key.reveal()).decrypt(header.nonce, envelope.ciphertext, data)

        try:
            return await offload(len(sealed), decrypt)
        except InvalidTag:
            raise broken(name) from None

    async def check(self) -> None:
        """Verify that the KEK can be used; see `KeyEncryptionKey.check`."""
        await self.key.check()

    async def close(self) -> None:
        """Discard the cached data keys, and close the KEK."""
        if self._data_keys is not None:
            self._data_keys.clear()
        await self.key.close()

    async def _wrapped(self, data_key: SecretBytes, context: bytes) -> tuple[str, bytes]:
        """Wrap a data key; return the KEK's version and the wrapped key."""
        for _ in range(_WRAPS):
            version = self.key.current
            wrapped = await self.key.wrap(data_key, context)
            if version and self.key.current == version:
                return version, wrapped
        raise SealUnavailable("the key-encryption key changes too fast; try again")

    async def _unwrapped(self, name: SealedName, header: Header) -> SecretBytes:
        context = key_context(name)
        known = self._data_keys
        if known is not None:
            cached = known.get(header.version, header.wrapped, context)
            if cached is not None:
                return cached
        try:
            data_key = await self.key.unwrap(header.version, header.wrapped, context)
        except SealBroken as error:
            raise SealBroken(f"{broken(name)} ({error})") from None
        except SealUnavailable as error:
            raise SealUnavailable(f"{name.path} cannot be unsealed now: {error}") from None
        if len(data_key) != DATA_KEY_BYTES:
            raise broken(name)
        if known is not None:
            known.add(header.version, header.wrapped, context, data_key)
            asyncio.get_running_loop().call_later(known.seconds, known.expire)
        return data_key


def broken(name: SealedName) -> SealBroken:
    """Return the error for an envelope that does not authenticate."""
    return SealBroken(
        f"{name.path} does not authenticate: it was altered, is the object of another name, or "
        "was sealed under another key; restore it from a backup"
    )
