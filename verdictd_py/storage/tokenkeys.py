"""Keys of attestation tokens in the data directory, which several brokers may share.

Source: port `TokenKeyStore`.
"""

from __future__ import annotations

from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.formats.sealed import is_sealed, parse_header
from verdictd_py.ports.revisions import revision_of
from verdictd_py.ports.sealing import SealBroken
from verdictd_py.ports.tokenkeys import StoredTokenKeys
from verdictd_py.storage import pools
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps
from verdictd_py.storage.objects import SealedObjects
from verdictd_py.storage.sealedindex import TOKEN_KEYS, TOKENS


class DirectoryTokenKeys:
    """Port `TokenKeyStore` in the data directory.

    A sealed file that the index does not name is refused, so that keys that were removed cannot
    be put back. A file that was removed counts as absent, unlike other sealed objects: brokers
    then create other keys, which no attacker has.

    Args:
        objects: sealed objects of the directory; None if the site does not seal.
    """

    def __init__(self, directory: Directory, objects: SealedObjects | None = None) -> None:
        self._directory = directory
        self._objects = objects

    async def read(self) -> StoredTokenKeys | None:
        try:
            stored = await pools.read(self._read)
            if self._objects is None:
                return StoredTokenKeys(_plain(stored), revision_of(stored))
            if not _has_revision(stored):
                return StoredTokenKeys(None, revision_of(stored))
            found = await self._objects.read(TOKEN_KEYS)
        except NotFound:
            return None
        except SealBroken as error:
            raise SealBroken(
                f"tokens/keys {error}; remove the file to have brokers create other keys"
            ) from None
        content = found.content if is_sealed(found.stored) else None
        return StoredTokenKeys(content, revision_of(found.stored))

    async def replace(self, content: bytes, *, before: StoredTokenKeys | None) -> bool:
        objects, stored, prepared = self._objects, content, None
        if objects is not None:
            await objects.ready()
            prepared = await objects.prepare(TOKEN_KEYS, content)
            stored = prepared.stored

        def change() -> Steps[bool]:
            try:
                revision = revision_of(self._read())
            except NotFound:
                revision = None
            if revision != (None if before is None else before.revision):
                return False
            if objects is None:
                yield from self._write(stored, replace=revision is not None)
            else:
                yield from objects.changing(
                    {TOKEN_KEYS: prepared},
                    lambda: self._write(stored, replace=revision is not None),
                )
            return True

        await pools.read(self._directory.make, TOKENS)
        try:
            return await exclusively(self._directory, change)
        except AlreadyExists:
            return False

    def _write(self, stored: bytes, *, replace: bool) -> Steps[None]:
        if replace:
            yield from self._directory.replacing(TOKEN_KEYS, stored)
        else:
            yield from self._directory.creating(TOKEN_KEYS, stored)

    def _read(self) -> bytes:
        if not self._directory.exists((TOKENS,)):
            raise NotFound("no token keys are stored")
        return self._directory.read(TOKEN_KEYS)


def _plain(stored: bytes) -> bytes:
    if is_sealed(stored):
        raise StorageError("tokens/keys is sealed; start with --seal, or remove the file")
    return stored


def _has_revision(stored: bytes) -> bool:
    """Return whether a file is sealed under a revision. The first releases had none (0)."""
    return is_sealed(stored) and parse_header(stored).revision > 0
