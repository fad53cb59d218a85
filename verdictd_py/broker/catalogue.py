"""What each stored document is for: who reads it, or which name was probably meant.

A document of any name can be stored, because upstream's clients may choose it. A document that
nothing reads decides nothing, and no answer may say that it is in force.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
from verdictd_py.ports import Document, DocumentStore, Tees

POLICY: Final = "policy"
DATA: Final = "reference data"

_SUFFIX: Final = ".rego"

_SIMILAR: Final = 0.85
"""Least similarity of a suggested name; `teamPolicy.rego` is another name than `tdxPolicy.rego`."""

_KINDS: Final = {
    RELEASE_POLICY: POLICY,
    RELEASE_DATA: DATA,
    RELEASE_POLICIES: "names of release policies",
    REFERENCE_SETS: "named sets",
}


@dataclass(frozen=True, slots=True)
class DocumentUse:
    """What a document is for.

    Attributes:
        kind: what a document of this name holds; empty if nothing reads it.
        readers: what the broker decides with it; empty for nothing.
        suggestion: the name that was probably meant; empty if it is read, or none is similar.
        misspelled: whether it differs from the suggestion in case, separators or suffix alone.
        decides: whether the broker decides with it now: its TEE is served.
    """

    name: Name
    kind: str
    readers: tuple[str, ...]
    suggestion: str = ""
    misspelled: bool = False
    decides: bool = False

    @property
    def remark(self) -> str:
        """One sentence about a document that decides nothing; empty for one that decides."""
        if self.decides:
            return ""
        if self.readers:
            return f"{self.name} decides nothing now: it is for {' and '.join(self.readers)}"
        said = f"nothing reads {self.name}"
        if self.misspelled:
            return f"{said}; did you mean {self.suggestion}?"
        said = f"{said}: it decides once {RELEASE_POLICIES} names it for a prefix"
        return f"{said}; or did you mean {self.suggestion}?" if self.suggestion else said


class Catalogue:
    """Uses of the documents in a store.

    Args:
        served: TEEs that have a verifier; the documents of the others decide nothing now.
    """

    def __init__(self, documents: DocumentStore, tees: Tees, served: Collection[str]) -> None:
        self._documents = documents
        self._tees = tees
        self._served = served

    async def all(self) -> tuple[tuple[DocumentUse, Document | None], ...]:
        """Return every stored document and its use, by name.

        Returns:
            None in place of a document that cannot be read.

        Raises:
            StorageError: the store cannot be listed.
        """
        uses = await self._read_by()
        names = await self._documents.names()
        return tuple([(self._use(name, uses), await self._read(name)) for name in names])

    async def one(self, name: Name) -> tuple[DocumentUse, Document | None]:
        """Return the use of a name, and the document if it is stored and can be read."""
        return await self.use(name), await self._read(name)

    async def use(self, name: Name) -> DocumentUse:
        """Return what a document of this name is for, whether or not it is stored."""
        return self._use(name, await self._read_by())

    async def require_reader(self, name: Name, *, kind: str) -> None:
        """Refuse a misspelled name, and reference data that nothing reads.

        A policy of another name may be stored: `releasePolicies` may name it later.

        Raises:
            RequestError: one line with the right name.
        """
        use = await self.use(name)
        if use.readers or (kind == POLICY and not use.misspelled):
            return
        if use.suggestion:
            raise RequestError(f"nothing reads {name}; did you mean {use.suggestion}?")
        known = ", ".join(str(each) for each in self._known() if self._kind(each) != POLICY)
        raise RequestError(f"nothing reads {name}; the broker reads {known}")

    async def _read_by(self) -> Mapping[Name, tuple[str, ...]]:
        found: dict[Name, tuple[str, ...]] = {
            RELEASE_POLICY: ("every release that releasePolicies leaves to it",),
            RELEASE_DATA: ("every release",),
            RELEASE_POLICIES: ("every release",),
            REFERENCE_SETS: ("every appraisal",),
        }
        for tee in self._tees:
            served = "" if tee.name in self._served else " (which is not served)"
            for text in tee.documents.names:
                found[Name((text,))] = (f"appraisal of {tee.name}{served}",)
        for prefix, name in (await self._named()).items():
            found[name] = (*found.get(name, ()), f"release of {quoted(prefix)}")
        return found

    async def _named(self) -> Mapping[str, Name]:
        document = await self._read(RELEASE_POLICIES)
        try:
            return {} if document is None else releasepolicies.parse(document.text)
        except RequestError:  # every release is refused until it is fixed
            return {}

    async def _read(self, name: Name) -> Document | None:
        try:
            return await self._documents.get(name)
        except (NotFound, StorageError):
            return None

    def _use(self, name: Name, uses: Mapping[Name, tuple[str, ...]]) -> DocumentUse:
        readers = uses.get(name, ())
        if readers:
            tee = self._tees.of_document(str(name))
            decides = tee is None or tee.name in self._served or len(readers) > 1
            return DocumentUse(name, self._kind(name), readers, decides=decides)
        known = [str(each) for each in uses]
        for spelled in (str(name), f"{name}{_SUFFIX}"):
            if same := closest(spelled, known, similarity=1):
                return DocumentUse(name, "", (), same, misspelled=True)
        return DocumentUse(name, "", (), closest(str(name), known, similarity=_SIMILAR) or "")

    def _kind(self, name: Name) -> str:
        tee = self._tees.of_document(str(name))
        if tee is not None:
            return POLICY if str(name) == tee.documents.policy else DATA
        return _KINDS.get(name, POLICY)

    def _known(self) -> tuple[Name, ...]:
        of_tees = (Name((text,)) for tee in self._tees for text in tee.documents.names)
        return (*of_tees, *_KINDS)
