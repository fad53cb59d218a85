"""Uses of stored documents: what reads a document, or which name was probably meant.

A document of any name can be stored, because upstream's clients choose names freely. A document
that nothing reads has no effect, and no response may say that it is in force.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from verdictd_py.documents import releasepolicies
from verdictd_py.documents.schema import closest
from verdictd_py.domain.names import (
    REFERENCE_SETS,
    RELEASE_DATA,
    RELEASE_POLICIES,
    RELEASE_POLICY,
    Name,
)
from verdictd_py.encoding import quoted
from verdictd_py.errors import NotFound, RequestError, StorageError
from verdictd_py.offload import offload
from verdictd_py.ports import Document, DocumentStore, Tees

POLICY: Final = "policy"
DATA: Final = "reference data"

_SUFFIX: Final = ".rego"

_COST: Final = 4096
"""Time to compare a name with all known names, as the number of bytes that `offload` compares."""

_SIMILAR: Final = 0.85
"""Minimum similarity of a suggested name. `teamPolicy.rego` is not similar to `tdxPolicy.rego`."""

_KINDS: Final = {
    RELEASE_POLICY: POLICY,
    RELEASE_DATA: DATA,
    RELEASE_POLICIES: "names of release policies",
    REFERENCE_SETS: "named sets",
}


@dataclass(frozen=True, slots=True)
class DocumentUse:
    """Use of a document.

    Attributes:
        kind: kind of document that has this name; empty if nothing reads it.
        readers: decisions for which the broker reads it; empty if there are none.
        suggestion: the name that was probably meant; empty if something reads the document, or
            no name is similar.
        misspelled: whether it differs from the suggestion only in case, separators or suffix.
        decides: whether the broker uses it now, because its TEE is served.
    """

    name: Name
    kind: str
    readers: tuple[str, ...]
    suggestion: str = ""
    misspelled: bool = False
    decides: bool = False

    @property
    def remark(self) -> str:
        """One sentence about a document that has no effect; empty for a document in use."""
        if self.decides:
            return ""
        if self.readers:
            return f"{self.name} has no effect now: it is for {' and '.join(self.readers)}"
        text = f"nothing reads {self.name}"
        if self.misspelled:
            return f"{text}; did you mean {self.suggestion}?"
        text = f"{text}: it takes effect once {RELEASE_POLICIES} names it for a prefix"
        return f"{text}; or did you mean {self.suggestion}?" if self.suggestion else text


class Catalogue:
    """Uses of the documents in a store.

    Args:
        served: TEEs that have a verifier; the documents of other TEEs have no effect now.
    """

    def __init__(self, documents: DocumentStore, tees: Tees, served: Collection[str]) -> None:
        self._documents = documents
        self._tees = tees
        self._served = served

    async def all(self) -> tuple[tuple[DocumentUse, Document | None], ...]:
        """Return every stored document and its use, by name.

        A document that cannot be read is None.

        Raises:
            StorageError: the store cannot be listed.
        """
        return tuple([(use, await self._read(use.name)) for use in await self.uses()])

    async def uses(self) -> tuple[DocumentUse, ...]:
        """Return the use of every stored document, by name; no document but one is read.

        Raises:
            StorageError: the store cannot be listed.
        """
        readers = await self._readers()
        names = await self._documents.names()
        work = partial(self._uses, names, readers)
        return await offload(_COST * len(names), work)

    def _uses(
        self, names: Iterable[Name], readers: Mapping[Name, tuple[str, ...]]
    ) -> tuple[DocumentUse, ...]:
        return tuple(self._use(name, readers) for name in names)

    async def one(self, name: Name) -> tuple[DocumentUse, Document | None]:
        """Return the use of a name, and the document if it is stored and can be read."""
        return await self.use(name), await self._read(name)

    async def use(self, name: Name) -> DocumentUse:
        """Return the use of a document of this name, whether or not it is stored."""
        return self._use(name, await self._readers())

    async def require_reader(self, name: Name, *, kind: str) -> None:
        """Refuse a misspelled name, and reference data that nothing reads.

        A policy may have any other name: `releasePolicies` may name it later.

        Raises:
            RequestError: the message has the correct name.
        """
        use = await self.use(name)
        if use.readers or (kind == POLICY and not use.misspelled):
            return
        if use.suggestion:
            raise RequestError(f"nothing reads {name}; did you mean {use.suggestion}?")
        known = ", ".join(str(other) for other in self._known() if self._kind(other) != POLICY)
        raise RequestError(f"nothing reads {name}; the broker reads {known}")

    async def _readers(self) -> Mapping[Name, tuple[str, ...]]:
        readers: dict[Name, tuple[str, ...]] = {
            RELEASE_POLICY: ("every release that releasePolicies leaves to it",),
            RELEASE_DATA: ("every release",),
            RELEASE_POLICIES: ("every release",),
            REFERENCE_SETS: ("every appraisal",),
        }
        for tee in self._tees:
            served = "" if tee.name in self._served else " (which is not served)"
            for text in tee.documents.names:
                readers[Name((text,))] = (f"appraisal of {tee.name}{served}",)
        for prefix, name in (await self._release_policies()).items():
            readers[name] = (*readers.get(name, ()), f"release of {quoted(prefix)}")
        return readers

    async def _release_policies(self) -> Mapping[str, Name]:
        document = await self._read(RELEASE_POLICIES)
        try:
            return {} if document is None else releasepolicies.parse(document.text)
        except RequestError:  # every release is denied until the document is fixed
            return {}

    async def _read(self, name: Name) -> Document | None:
        try:
            return await self._documents.get(name)
        except (NotFound, StorageError):
            return None

    def _use(self, name: Name, uses: Mapping[Name, tuple[str, ...]]) -> DocumentUse:
        readers = uses.get(name)
        if readers:
            tee = self._tees.of_document(str(name))
            decides = tee is None or tee.name in self._served or len(readers) > 1
            return DocumentUse(name, self._kind(name), readers, decides=decides)
        known = [str(other) for other in uses]
        for spelling in (str(name), f"{name}{_SUFFIX}"):
            if correct := closest(spelling, known, similarity=1):
                return DocumentUse(name, "", (), correct, misspelled=True)
        return DocumentUse(name, "", (), closest(str(name), known, similarity=_SIMILAR) or "")

    def _kind(self, name: Name) -> str:
        tee = self._tees.of_document(str(name))
        if tee is not None:
            return POLICY if str(name) == tee.documents.policy else DATA
        return _KINDS.get(name, POLICY)

    def _known(self) -> tuple[Name, ...]:
        of_tees = (Name((text,)) for tee in self._tees for text in tee.documents.names)
        return (*of_tees, *_KINDS)
