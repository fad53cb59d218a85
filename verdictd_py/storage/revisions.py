"""Revisions of the documents that decide: policies, reference data and named sets.

Each change of a document's content, by an operator, by hand or by another broker, gets the next
number. So the number only increases, and a content that returns after others is recognised: the
document was rolled back. That is recorded with both digests, and never refused: an operator may
want it.

`revisions/documents` has the newest number of each document and the digests of its latest
contents. Records of `file.changed` in the audit trail have the number too, so that a trail outside
this host proves which numbers were used already, if this file is rolled back with the documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.domain.events import WarningRolledBack, WarningStorage
from verdictd_py.errors import NotFound, StorageError
from verdictd_py.ports import Events
from verdictd_py.ports.revisions import revision_of
from verdictd_py.storage.directory import Directory, Segments
from verdictd_py.storage.documents import OPA
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps

REVISIONS: Final = "revisions"
FILE: Final[Segments] = (REVISIONS, "documents")
MAX_DIGESTS: Final = 256
"""Latest contents of a document that are recognised."""

_VERSION: Final = 1


@dataclass(slots=True)
class Lineage:
    """Contents that a document has had.

    Attributes:
        number: number of the newest one.
        digests: SHA-256 of the latest ones, the newest last.
    """

    number: int = 0
    digests: list[str] = field(default_factory=list)

    def add(self, digest: str) -> int | None:
        """Add a content; return the number that it had before, None if it is new."""
        earlier = None
        for back, known in enumerate(reversed(self.digests)):
            if known == digest:
                earlier = self.number - back
                break
        self.number += 1
        self.digests = [*self.digests, digest][-MAX_DIGESTS:]
        return earlier


class DocumentRevisions:
    """Numbers of the documents in `opa/` of one data directory, for all brokers that use it."""

    def __init__(self, directory: Directory, events: Events) -> None:
        self._directory = directory
        self._events = events
        self._failed = False
        self._unrecorded: list[WarningRolledBack] = []

    async def note(self, changed: Mapping[str, str | None]) -> dict[str, int]:
        """Number the documents that have changed; return the number of each.

        Roll-backs are recorded. If the numbers cannot be stored, that is recorded once, and nothing
        is returned: the documents are used nevertheless.

        Args:
            changed: SHA-256 of files in the data directory, None for a file that is missing.

        Raises:
            StorageError: a roll-back could not be recorded.
        """
        digests = {
            file: digest
            for file, digest in changed.items()
            if digest is not None and file.startswith(f"{OPA}/")
        }
        if not digests:
            return {}
        try:
            numbers, rolled_back = await exclusively(
                self._directory, lambda: self._numbering(digests)
            )
        except StorageError as error:
            if not self._failed:
                self._failed = True
                self._events.record(
                    WarningStorage(
                        reason=f"revisions/documents cannot be used: {error}; until it can, a "
                        "policy that is rolled back is not recognised"
                    )
                )
            return {}
        self._failed = False
        # The documents decide nothing until this is recorded: the caller tries again.
        self._unrecorded += rolled_back
        if self._unrecorded:
            await self._events.commit(*self._unrecorded)
            self._unrecorded.clear()
        return numbers

    def _numbering(
        self, digests: Mapping[str, str]
    ) -> Steps[tuple[dict[str, int], list[WarningRolledBack]]]:
        lineages, rolled_back, is_changed = self._read(), [], False
        for file, digest in digests.items():
            lineage = lineages.setdefault(file, Lineage())
            newest = lineage.digests[-1] if lineage.digests else None
            # Another process may have replaced it since it was read here: it numbers what it wrote.
            if digest == newest or not self._is_current(file, digest):
                continue
            earlier, is_changed = lineage.add(digest), True
            if earlier is not None and newest is not None:
                rolled_back.append(
                    WarningRolledBack(
                        file=file,
                        revision=lineage.number,
                        earlier=earlier,
                        sha256=digest,
                        replaced=newest,
                    )
                )
        if is_changed:
            self._directory.make(REVISIONS)
            yield from self._directory.replacing(FILE, _encode(lineages))
        numbers = {
            file: lineages[file].number
            for file, digest in digests.items()
            if lineages[file].digests[-1:] == [digest]
        }
        return numbers, rolled_back

    def _is_current(self, file: str, digest: str) -> bool:
        try:
            return revision_of(self._directory.read(tuple(file.split("/")))) == digest
        except (NotFound, StorageError):
            return False

    def _read(self) -> dict[str, Lineage]:
        try:
            if not self._directory.exists((REVISIONS,)):
                return {}
            return _parse(self._directory.read(FILE))
        except NotFound:
            return {}


def _encode(lineages: Mapping[str, Lineage]) -> bytes:
    documents = {
        file: {"revision": lineage.number, "digests": lineage.digests}
        for file, lineage in sorted(lineages.items())
    }
    return json.dumps({"version": _VERSION, "documents": documents}, indent=1).encode()


def _parse(content: bytes) -> dict[str, Lineage]:
    """Parse the file.

    Raises:
        StorageError: it is damaged. It is never replaced by an empty one, which would forget
            every content.
    """
    try:
        document = json.loads(content)
        if document["version"] != _VERSION:
            raise ValueError
        return {
            str(file): Lineage(int(known["revision"]), [str(each) for each in known["digests"]])
            for file, known in document["documents"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StorageError(
            "it is damaged, or of a newer version; restore it from a backup, or remove it"
        ) from None
