"""Keys of attestation tokens in the database, which all of its brokers share.

Source: port `TokenKeyStore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from verdictd_py.ports.tokenkeys import StoredTokenKeys
from verdictd_py.postgres.objects import Objects, State, Write

PATH: Final = "tokens/keys"
KIND: Final = "token-key"


class PostgresTokenKeys:
    """Port `TokenKeyStore`. Objects in the database are always sealed."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def read(self) -> StoredTokenKeys | None:
        content = await self._objects.read(PATH)
        entry = self._objects.known.get(PATH)
        if content is None or entry is None:
            return None
        return StoredTokenKeys(content, str(entry.revision))

    async def replace(self, content: bytes, *, before: StoredTokenKeys | None) -> bool:
        expected = "" if before is None else before.revision
        replaced = False

        async def plan(state: State) -> Sequence[Write]:
            nonlocal replaced
            entry = state.entries.get(PATH)
            present = "" if entry is None or entry.is_deleted else str(entry.revision)
            replaced = present == expected
            return (Write(PATH, KIND, content),) if replaced else ()

        await self._objects.change(plan)
        return replaced
