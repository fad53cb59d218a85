"""Port of the store of the keys that sign attestation tokens and seal challenges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredTokenKeys:
    """What is stored: all keys as one document.

    Attributes:
        content: the document, a secret; None if it is not sealed although the site seals: a
            client that can write it could sign tokens, so it is replaced and never used.
        revision: identifies what is stored, for `TokenKeyStore.replace`.
    """

    content: bytes | None = field(repr=False)
    revision: str


class TokenKeyStore(Protocol):
    """Store of one document, which all brokers of a site share. It is sealed if the site seals."""

    async def read(self) -> StoredTokenKeys | None:
        """Return what is stored; None if nothing is.

        Raises:
            SealBroken: it was altered.
            StorageError: it cannot be read or unsealed now; the message has the cause.
        """
        ...

    async def replace(self, content: bytes, *, before: StoredTokenKeys | None) -> bool:
        """Replace what is stored, unless another broker has replaced it since it was read.

        Args:
            before: what `read` returned.

        Returns:
            Whether it was replaced; if not, read it again.

        Raises:
            StorageError: it cannot be stored; the message has the cause.
        """
        ...
