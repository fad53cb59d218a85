"""Keys of attestation tokens in the data directory, which several brokers may share.

Source: port `TokenKeyStore`.
"""

from __future__ import annotations

from typing import Final

from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.formats.sealed import is_sealed
from verdictd_py.ports.revisions import revision_of
from verdictd_py.ports.sealing import SealedName, Sealer
from verdictd_py.ports.tokenkeys import StoredTokenKeys
from verdictd_py.storage import pools
from verdictd_py.storage.directory import Directory, Segments
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps

TOKENS: Final = "tokens"
"""Directory of the file; it is created when the first keys are stored."""

FILE: Final[Segments] = (TOKENS, "keys")

SEALED_NAME: Final = SealedName("token-key", "/".join(FILE))


class DirectoryTokenKeys:
    """Port `TokenKeyStore` in the data directory.

    Args:
        sealer: seals the file; None if the site does not seal.
    """

    def __init__(self, directory: Directory, sealer: Sealer | None = None) -> None:
        self._directory = directory
        self._sealer = sealer

    async def read(self) -> StoredTokenKeys | None:
        try:
            stored = await pools.read(self._read)
        except NotFound:
            return None
        return StoredTokenKeys(await self._unsealed(stored), revision_of(stored))

    async def replace(self, content: bytes, *, before: StoredTokenKeys | None) -> bool:
        if self._sealer is not None:
            content = await self._sealer.seal(SEALED_NAME, content)

        def change() -> Steps[bool]:
            try:
                revision = revision_of(self._read())
            except NotFound:
                revision = None
            if revision != (None if before is None else before.revision):
                return False
            if revision is not None:
                yield from self._directory.replacing(FILE, content)
                return True
            try:
                yield from self._directory.creating(FILE, content)
            except AlreadyExists:
                return False
            return True

        await pools.read(self._directory.make, TOKENS)
        return await exclusively(self._directory, change)

    def _read(self) -> bytes:
        if not self._directory.exists((TOKENS,)):
            raise NotFound("no token keys are stored")
        return self._directory.read(FILE)

    async def _unsealed(self, stored: bytes) -> bytes | None:
        if self._sealer is not None:
            return await self._sealer.unseal(SEALED_NAME, stored) if is_sealed(stored) else None
        if is_sealed(stored):
            raise StorageError("tokens/keys is sealed; start with --seal, or remove the file")
        return stored
