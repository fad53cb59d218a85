"""Policies, reference data and named sets as files below `opa/`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from verdictd_py.domain.evidence import Tee
from verdictd_py.domain.names import Name
from verdictd_py.errors import AlreadyExists, Conflict, NotFound, StorageError
from verdictd_py.ports import ANY, Document, Expected, meets, revision_of
from verdictd_py.storage.defaults import POLICY_FILES
from verdictd_py.storage.directory import Directory, Entry
from verdictd_py.storage.exclusive import exclusively

OPA: Final = "opa"

_SNAPSHOTS: Final = 10
"""Attempts at a snapshot; a change takes milliseconds, and so does reading."""


class PolicyFileNames:
    """Names of the documents of each TEE, as every document store answers them."""

    def policy_name(self, tee: Tee) -> Name:
        return self._names(tee)[0]

    def reference_name(self, tee: Tee) -> Name:
        return self._names(tee)[1]

    @staticmethod
    def _names(tee: Tee) -> tuple[Name, Name]:
        try:
            policy, reference = POLICY_FILES[tee]
        except KeyError:
            raise NotFound(f"no policy is kept for {tee}") from None
        return Name((policy,)), Name((reference,))

    def tee_of(self, name: Name) -> Tee | None:
        for tee, names in POLICY_FILES.items():
            if str(name) in names:
                return tee
        return None


class DirectoryDocumentStore(PolicyFileNames):
    """Port `DocumentStore`: one file for each document, below `opa/`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def get(self, name: Name) -> Document:
        document = await asyncio.to_thread(self._document, name)
        if document is None:
            raise NotFound(f"{OPA}/{name} is missing")
        return document

    async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
        return await asyncio.to_thread(self._snapshot, names)

    async def put(
        self,
        name: Name,
        text: str,
        *,
        expected: Expected,
        unchanged: Mapping[Name, Expected] | None = None,
    ) -> str:
        wanted = {**(unchanged or {}), name: expected}
        content = text.encode()

        def change() -> None:
            for each, revision in wanted.items():
                if revision is not ANY and not meets(self._content(each), revision):
                    raise Conflict(f"{OPA}/{each} has changed since it was read; read it again")
            self._directory.replace((OPA, *name.segments), content)

        try:
            await exclusively(self._directory, change)
        except (AlreadyExists, StorageError) as error:
            raise StorageError(f"{OPA}/{name} {error}") from None
        return revision_of(content)

    def _snapshot(self, names: Sequence[Name]) -> dict[Name, Document]:
        """Read every document, and again if one was replaced meanwhile."""
        for _ in range(_SNAPSHOTS):
            before = [self._entry(name) for name in names]
            read = {name: self._document(name) for name in names}
            if [self._entry(name) for name in names] == before:
                return {name: found for name, found in read.items() if found is not None}
        raise StorageError(f"{OPA} changes too fast to be read; try again")

    def _entry(self, name: Name) -> Entry | None:
        try:
            return self._directory.entry((OPA, *name.segments))
        except NotFound:
            return None
        except StorageError as error:
            raise StorageError(f"{OPA}/{name} {error}") from None

    def _document(self, name: Name) -> Document | None:
        try:
            content = self._content(name)
            return None if content is None else Document(content.decode(), revision_of(content))
        except UnicodeDecodeError:
            raise StorageError(f"{OPA}/{name} is not UTF-8 text") from None
        except StorageError as error:
            raise StorageError(f"{OPA}/{name} {error}") from None

    def _content(self, name: Name) -> bytes | None:
        try:
            return self._directory.read((OPA, *name.segments))
        except NotFound:
            return None
