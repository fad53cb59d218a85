"""Files of keys and resources: plain, or sealed with an index of their revisions.

`PlainObjects` is the directory as it always was. `SealedObjects` seals what it writes, and accepts
of what it reads exactly what the index names: an object that was replaced by an older one, by that
of another path, or by a plain one, is refused. While a directory is migrated, an object that was
never sealed is read as it is; from the moment that all are sealed, none is (`State.strict`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from verdictd_py.errors import NotFound, StorageError
from verdictd_py.formats.sealed import is_sealed, parse_header
from verdictd_py.ports.sealing import SealBroken, SealedName, Sealer, SealUnavailable
from verdictd_py.storage import pools
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.files import Steps
from verdictd_py.storage.resident import NotResident
from verdictd_py.storage.sealedindex import INDEX, SEALS, IndexMissing, SealedIndex, State

_ATTEMPTS: Final = 10
_MAX_REPORTED: Final = 1000

_KINDS: Final = {"keys": "key", "resources": "resource", "tokens": "token-key"}

_NO_INDEX: Final = State(frozenset({0}), strict=False)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was read.

    Attributes:
        stored: its bytes.
        content: the object in it.
    """

    stored: bytes = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Bytes that are to be written.

    Attributes:
        stored: the bytes.
        revision: revision of the object in the index; 0 if it is not sealed.
    """

    stored: bytes = field(repr=False)
    revision: int = 0


class Changed(Exception):
    """A file has other bytes than those that a change was prepared for."""


class Objects(Protocol):
    """Files of objects. All names are checked segments.

    Attributes:
        locks: whether each change needs the lock of the directory.
    """

    @property
    def locks(self) -> bool: ...

    async def read(self, segments: Segments) -> Found:
        """Read an object.

        Raises:
            NotFound: there is none.
            SealBroken: it was altered, replaced or removed.
            SealUnavailable: it cannot be unsealed now.
            StorageError: it cannot be read. All texts begin with a verb.
        """
        ...

    async def prepare(self, segments: Segments, content: bytes) -> Prepared:
        """Return what is to be written for an object.

        Raises:
            SealUnavailable: it cannot be sealed now.
        """
        ...

    def changing(
        self, changes: Mapping[Segments, Prepared | None], change: Callable[[], Steps[Result]]
    ) -> Steps[Result]:
        """Make a change of files, while the caller holds the lock of the directory.

        Args:
            changes: what is written; None for a file that is removed.
            change: changes the files.
        """
        ...

    async def ready(self) -> None:
        """Prepare for a change.

        Raises:
            SealUnavailable, SealBroken, StorageError: nothing can be changed now.
        """
        ...

    def size_of(self, entry: Entry) -> int:
        """Return the size of the object in a file, as its header says; waits for a disk."""
        ...


async def stored_bytes(directory: Directory, segments: Segments) -> bytes:
    """Return the content of a file, in a thread unless it is in memory.

    Raises:
        NotFound, StorageError: see `Directory.read`.
    """
    try:
        return directory.read_resident(segments)
    except NotResident:
        return await pools.read(directory.read, segments)


def require_same(directory: Directory, segments: Segments, found: Found | None) -> None:
    """Compare a file with what was found before, while no other process changes it.

    Raises:
        Changed: it has other bytes.
    """
    try:
        stored = directory.read(segments)
    except NotFound:
        stored = None
    if stored != (None if found is None else found.stored):
        raise Changed


async def until_unchanged(attempt: Callable[[], Awaitable[None]]) -> None:
    """Repeat an attempt to change a file while others change it.

    Raises:
        StorageError: others changed it again and again.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await attempt()
        except Changed:
            continue
    raise StorageError("is changed by others again and again; try again")


class PlainObjects:
    """Port `Objects` without sealing; sealed objects are refused."""

    locks = False

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def read(self, segments: Segments) -> Found:
        stored = await stored_bytes(self._directory, segments)
        if is_sealed(stored):
            raise StorageError("is sealed, and this broker was started without --seal")
        return Found(stored, stored)

    async def prepare(self, segments: Segments, content: bytes) -> Prepared:
        del segments
        if is_sealed(content):
            raise StorageError("begins like a sealed object, and would be taken for one")
        return Prepared(content)

    def changing(
        self, changes: Mapping[Segments, Prepared | None], change: Callable[[], Steps[Result]]
    ) -> Steps[Result]:
        del changes
        return change()

    async def ready(self) -> None:
        if await pools.read(self._has_index):
            raise StorageError(
                "cannot be changed: the data directory has an index of sealed objects; start the "
                "broker with --seal, or remove seals/ after 'verdictd-py store unseal'"
            )

    def _has_index(self) -> bool:
        try:
            return self._directory.exists(INDEX)
        except StorageError:  # there is no directory for it
            return False

    def size_of(self, entry: Entry) -> int:
        return entry.size


class SealedObjects:
    """Port `Objects` with a sealer and an index.

    Args:
        strict: whether plain objects are refused even if there is no index.
        warn: receives the path and the details of a refusal, for operators only.
    """

    locks = True

    def __init__(
        self,
        directory: Directory,
        sealer: Sealer,
        *,
        strict: bool = False,
        warn: Callable[[str, StorageError], None] = lambda path, error: None,  # noqa: ARG005
    ) -> None:
        self._directory = directory
        self.sealer = sealer
        self._strict = strict
        self._warn = warn
        self._warned: set[str] = set()
        self.index = SealedIndex(directory, sealer)

    async def read(self, segments: Segments) -> Found:
        try:
            found = await self.examine(segments)
        except SealBroken as error:
            self._report(segments, error)
            raise SealBroken(
                "is refused: its sealed file was altered, replaced or removed; the log has the "
                "details"
            ) from None
        except SealUnavailable as error:
            self._report(segments, error)
            raise SealUnavailable(
                "cannot be unsealed now: the key-encryption key is not available; the log has the "
                "cause"
            ) from None
        return found

    async def examine(self, segments: Segments) -> Found:
        """Read an object; the texts of the errors are for operators only.

        Raises:
            NotFound, SealBroken, SealUnavailable, StorageError: see `read`.
        """
        stored, revision = await self.stored(segments)
        if not revision:
            return Found(stored, stored)
        return Found(stored, await self.unsealed(segments, revision, stored))

    async def stored(self, segments: Segments) -> tuple[bytes, int]:
        """Return a file and the revision that the index names; 0 if it is plain.

        The envelope is not authenticated. The texts of the errors are for operators only.

        Raises:
            NotFound, SealBroken, SealUnavailable, StorageError: see `read`.
        """
        path = "/".join(segments)
        before: tuple[bytes | None, State] | None = None
        for _ in range(_ATTEMPTS):
            try:
                stored = await stored_bytes(self._directory, segments)
            except NotFound:
                stored = None
            state = await self._state(path)
            try:
                revision = self._checked(path, stored, state)
            except SealBroken:
                # A change between the two reads has another result the next time.
                if before == (stored, state):
                    raise
                before = stored, state
                continue
            if stored is None:
                raise NotFound("nothing of that name")
            return stored, revision
        raise StorageError("changes too fast to be read; try again")

    def _checked(self, path: str, stored: bytes | None, state: State) -> int:
        """Return the revision of a file that the index names; 0 if it is absent or plain.

        Raises:
            SealBroken: the index does not name it.
        """
        if stored is not None and is_sealed(stored):
            try:
                revision = parse_header(stored).revision
            except SealBroken as error:
                raise SealBroken(f"{path} {error}; restore it from a backup") from None
            if revision in state.revisions and revision:
                return revision
            valid = ", ".join(str(each) for each in sorted(state.revisions) if each) or "none"
            raise SealBroken(
                f"{path} has the revision {revision}, and the index of sealed objects names "
                f"{valid}: an older or another object was put in its place; restore the newest one"
            )
        if 0 not in state.revisions:
            what = "is missing" if stored is None else "was replaced by a plain file"
            raise SealBroken(
                f"{path} {what}, and the index of sealed objects names it; restore it, or run "
                "'verdictd-py store verify --forget' if an operator removed it"
            )
        if stored is not None and (state.strict or self._strict):
            raise SealBroken(
                f"{path} is not sealed, and all objects must be; if an operator put it there, run "
                "'verdictd-py store seal --accept-plain'"
            )
        return 0

    async def prepare(self, segments: Segments, content: bytes) -> Prepared:
        try:
            return await self.sealed(segments, content)
        except SealUnavailable as error:
            self._report(segments, error)
            raise SealUnavailable(
                "cannot be sealed now: the key-encryption key is not available; the log has the "
                "cause"
            ) from None

    async def sealed(self, segments: Segments, content: bytes) -> Prepared:
        """Seal an object under a new revision; the texts of the errors are for operators only.

        Raises:
            SealUnavailable: see `prepare`.
        """
        revision = self.index.next_revision()
        name = self.name_of(segments, revision)
        return Prepared(await self.sealer.seal(name, content), revision)

    async def unsealed(self, segments: Segments, revision: int, stored: bytes) -> bytes:
        """Unseal an object that has been read; the texts of the errors are for operators only.

        Raises:
            SealBroken, SealUnavailable: see `Sealer.unseal`.
        """
        return await self.sealer.unseal(self.name_of(segments, revision), stored)

    def changing(
        self, changes: Mapping[Segments, Prepared | None], change: Callable[[], Steps[Result]]
    ) -> Steps[Result]:
        revisions = {
            "/".join(segments): 0 if prepared is None else prepared.revision
            for segments, prepared in changes.items()
        }
        return self.index.changing(revisions, change)

    async def ready(self) -> None:
        try:
            await self.index.prepare()
        except (SealBroken, SealUnavailable) as error:
            self._report((SEALS,), error)
            raise type(error)(
                "cannot be changed now: the index of sealed objects cannot be used; the log has "
                "the cause"
            ) from None

    def size_of(self, entry: Entry) -> int:
        try:
            stored = self._directory.read(entry.segments)
            return len(stored) - parse_header(stored).overhead if is_sealed(stored) else len(stored)
        except (NotFound, StorageError):
            return entry.size

    @staticmethod
    def name_of(segments: Segments, revision: int) -> SealedName:
        """Return the name under which an object is sealed."""
        return SealedName(_KINDS.get(segments[0], "image"), "/".join(segments), revision)

    async def _state(self, path: str) -> State:
        try:
            return await self.index.state(path)
        except IndexMissing:
            if await pools.read(self.index.is_expected):
                raise
            return _NO_INDEX

    def _report(self, segments: Segments, error: StorageError) -> None:
        """Report a refusal once; guests may cause the same one any number of times."""
        text = str(error)
        if text not in self._warned:
            if len(self._warned) >= _MAX_REPORTED:
                self._warned.clear()
            self._warned.add(text)
            self._warn("/".join(segments), error)
