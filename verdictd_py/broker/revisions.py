"""Earlier texts of the documents that decide, by their digests, so that operators can compare them.

Log, audit trail and history name what decided by digest. The texts here are those that the operator
process found in force; one that was replaced within a second can be missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from verdictd_py.domain.callers import Caller, Right
from verdictd_py.errors import NotFound, VerdictdError
from verdictd_py.offload import offload
from verdictd_py.ports import DocumentStore, PolicySource
from verdictd_py.ports.history import HistoryRow

KIND: Final = "revision"

MAX_TEXT: Final = 256 * 1024
"""Maximum length of a text that is stored, that of a policy."""

MAX_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of all texts together; those that were in force least recently are discarded."""

MAX_REVISIONS: Final = 32
"""Maximum number of revisions of one document; likewise."""

PAUSE_SECONDS: Final = 30.0
"""Longest pause between two readings: named sets expire, and files are edited by hand."""

_POLICY: Final = ".rego"
_PREFIX: Final = "revision:"


@dataclass(frozen=True, slots=True)
class Revision:
    """A text that was in force.

    Attributes:
        name: name of the document; of data with its named sets, that of the reference data.
        sha256: digest of the text, as records of decisions name it.
        since: when it was first found in force.
    """

    name: str
    sha256: str
    since: datetime
    text: str = field(repr=False)

    @classmethod
    def of(cls, name: str, text: str, since: datetime) -> Revision:
        """Return the revision of a text."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(name, digest, since, text)

    @property
    def row(self) -> str:
        """Id of its row in the history; several documents may have had the same text."""
        return f"{_PREFIX}{self.sha256}:{self.name}"


class DecidingTexts:
    """Reader of the documents that are in force: policies, and data with the named sets.

    Args:
        documents: the stored documents.
        deciding: documents by which guests are appraised.
        tees: names of the TEEs that are served.
    """

    def __init__(
        self, documents: DocumentStore, deciding: PolicySource, tees: Iterable[str]
    ) -> None:
        self._documents = documents
        self._deciding = deciding
        self._tees = tuple(tees)

    async def __call__(self) -> Sequence[tuple[str, str]]:
        """Return name and text of each; one that cannot be read is omitted, readiness reports it.

        Raises:
            StorageError: the documents cannot be listed.
        """
        names = [name for name in await self._documents.names() if str(name).endswith(_POLICY)]
        found: list[tuple[str, str]] = []
        for name in names:
            with suppress(VerdictdError):
                found.append((str(name), (await self._documents.get(name)).text))
        for tee in self._tees:
            with suppress(VerdictdError):
                documents = await self._deciding.documents(tee)
                found.append((str(self._documents.reference_name(tee)), documents.data))
        return found


class Revisions:
    """Texts of documents, bounded by number and size.

    Args:
        read: returns name and text of everything that is in force.
        clock: returns the time.
    """

    kind = KIND

    def __init__(
        self,
        read: Callable[[], Awaitable[Sequence[tuple[str, str]]]],
        clock: Callable[[], datetime],
    ) -> None:
        self._read = read
        self._clock = clock
        self._revisions: dict[str, Revision] = {}  # by row, the last in force at the end
        self._current: Mapping[str, str] = {}
        self._changed: dict[str, None] = {}
        self._deleted: dict[str, None] = {}
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Have the documents read soon."""
        self._requested.set()

    async def keep_observing(self) -> None:
        """Read the documents again and again, until cancelled."""
        while True:
            self._requested.clear()
            await self.observe()
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await self._requested.wait()

    async def observe(self) -> None:
        """Store the texts that are in force now. A document that cannot be read is omitted."""
        try:
            found = await self._read()
        except VerdictdError:  # readiness reports it
            return
        now = self._clock()
        size = sum(len(text) for _, text in found)
        read = await offload(size, lambda: [Revision.of(name, text, now) for name, text in found])
        for revision in read:
            if (known := self._revisions.pop(revision.row, None)) is not None:
                self._revisions[revision.row] = known
        for revision in read:
            if revision.row not in self._revisions and len(revision.text) <= MAX_TEXT:
                self._add(revision)
        self._current = {revision.name: revision.sha256 for revision in read}

    def list_of(self, caller: Caller, name: str) -> Sequence[Revision]:
        """Return the revisions of a document, the newest first.

        Raises:
            NotAuthorized: the caller is not allowed to see documents.
        """
        caller.require(Right.MANAGE)
        found = (each for each in self._revisions.values() if each.name == name)
        return sorted(found, key=lambda each: each.since, reverse=True)

    def get(self, caller: Caller, sha256: str) -> Revision:
        """Return the revision with a digest; if several documents had this text, one in force.

        Raises:
            NotAuthorized: the caller is not allowed to see documents.
            NotFound: its text is not stored.
        """
        caller.require(Right.MANAGE)
        found = [each for each in self._revisions.values() if each.sha256 == sha256]
        if not found:
            raise NotFound("no text with this digest is stored; it was in force too long ago")
        return next(filter(self.is_current, found), found[-1])

    def is_current(self, revision: Revision) -> bool:
        """Return whether a revision was in force at the last reading."""
        return self._current.get(revision.name) == revision.sha256

    def restore(self, rows: Sequence[HistoryRow]) -> None:
        """Add the revisions of an earlier run."""
        own, self._revisions = self._revisions, {}
        for row in sorted(rows, key=lambda each: each.at):
            with suppress(ValueError, OverflowError, TypeError, KeyError):
                members = json.loads(row.body)
                at = datetime.fromtimestamp(row.at, UTC)
                revision = Revision.of(str(members["name"]), str(members["text"]), at)
                if row.id == revision.row:
                    self._revisions[row.id] = revision
        for revision in own.values():
            if revision.row not in self._revisions:
                self._add(revision)

    def changes(self) -> tuple[Sequence[HistoryRow], Sequence[str]]:
        """Return the rows that changed since the last call, and the ids of deleted ones."""
        changed, self._changed = self._changed, {}
        deleted, self._deleted = self._deleted, {}
        rows = [_row(self._revisions[each]) for each in changed if each in self._revisions]
        return rows, list(deleted)

    def write_again(self) -> None:
        """Have the next call of `changes` return everything."""
        self._changed = dict.fromkeys(self._revisions)

    def _add(self, revision: Revision) -> None:
        self._revisions[revision.row] = revision
        self._changed[revision.row] = None
        self._deleted.pop(revision.row, None)
        same = [each for each in self._revisions.values() if each.name == revision.name]
        if len(same) > MAX_REVISIONS:
            self._discard(same[0])
        while sum(len(each.text) for each in self._revisions.values()) > MAX_BYTES:
            self._discard(next(iter(self._revisions.values())))

    def _discard(self, revision: Revision) -> None:
        del self._revisions[revision.row]
        self._changed.pop(revision.row, None)
        self._deleted[revision.row] = None


def _row(revision: Revision) -> HistoryRow:
    body = json.dumps({"name": revision.name, "text": revision.text})
    return HistoryRow(revision.row, KIND, revision.since.timestamp(), body)
