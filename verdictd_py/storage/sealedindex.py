"""Index of the sealed objects of a data directory, below `seals/` (`formats.sealindex`).

`seals/key` is the sealed key of the index, `seals/root` the root, and the other files are shards.
Replacing the root is the one step that makes a change of the index effective.

A change of an object has four steps, while its writer holds the lock of the directory:

1. the root with the change as pending: from now on the old and the new object are valid;
2. the change of the object's file;
3. the new shard, under a name of its own;
4. the root with the new shard and without the pending change.

A process that dies in between leaves a pending change, which the next writer completes or drops,
as the file says. Readers need no lock: they read the file, then the index, and read both again if
they do not fit (`objects`).
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, TypeVar

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import AlreadyExists, NotFound, StorageError
from verdictd_py.formats.sealed import is_sealed, parse_header
from verdictd_py.formats.sealindex import SHARDS, Root, Shard, key_of, shard_of
from verdictd_py.ports.sealing import SealBroken, SealedName, Sealer
from verdictd_py.storage import files, pools, walks
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.exclusive import exclusively
from verdictd_py.storage.files import Steps
from verdictd_py.storage.resident import NotResident

SEALS: Final = "seals"
TOKENS: Final = "tokens"
"""Directory of shared token keys; it is created when the first ones are stored."""

TOKEN_KEYS: Final[Segments] = (TOKENS, "keys")
"""File of the shared token keys. A plain one is never used where objects are sealed."""

SEALED_DIRECTORIES: Final = ("keys", "resources", "image", "gpg", TOKENS)
"""Directories whose files are sealed."""

NOT_SEALED: Final = frozenset({("keys", "README.md")})
"""Files in these directories that are not sealed."""

MISSING: Final = (
    "the index of sealed objects is missing: restore the directory seals/ from a backup, or run "
    "'verdictd-py store seal --rebuild-index'"
)

INDEX: Final = (SEALS, "root")
"""Root of the index."""

_KEY: Final = (SEALS, "key")
_KEY_NAME: Final = SealedName("index-key", "seals/key")
_KEY_BYTES: Final = 32
_MAX_CACHED_BYTES: Final = 32 * 1024 * 1024
_ATTEMPTS: Final = 10

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class State:
    """What the index says about one object.

    Attributes:
        revisions: valid revisions: one, or two during a change; 0 for "not sealed or absent".
        strict: whether every object must be sealed.
    """

    revisions: frozenset[int]
    strict: bool


@dataclass(frozen=True, slots=True)
class _Read:
    """A root and the bytes that it was parsed from."""

    content: bytes
    root: Root


class IndexMissing(SealBroken):
    """There is no index: nothing was sealed here, or it was removed."""


class SealedIndex:
    """The index of one data directory. Any thread may use it after `prepare`.

    It creates the directory `seals/`. If this is missing later, no object can be read.
    """

    def __init__(self, directory: Directory, sealer: Sealer) -> None:
        self._directory = directory
        self._sealer = sealer
        self._key: SecretBytes | None = None
        self._last: _Read | None = None
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._lock = threading.Lock()
        with suppress(AlreadyExists, StorageError):  # reported by each read
            directory.make(SEALS)

    async def state(self, path: str) -> State:
        """Return what the index says about an object, by its canonical path.

        Raises:
            IndexMissing: there is no index.
            SealBroken: the index was altered, or is older than one that this process has read.
            SealUnavailable: its key cannot be unsealed now.
            StorageError: it cannot be read.
        """
        await self._load_key()
        for _ in range(_ATTEMPTS):
            seen = self._last
            try:
                root = self._accepted(await self._content(INDEX), seen)
            except NotFound:
                raise IndexMissing(MISSING) from None
            name = root.shard_file(shard_of(path))
            shard = Shard() if name is None else self._shards.get(name)
            if shard is None and name is not None:
                try:
                    shard = self._cached(name, await self._content((SEALS, name)), root, path)
                except NotFound:  # the root was replaced meanwhile, and the shard removed
                    continue
            if shard is not None:
                return _state(root, shard, path)
        raise StorageError("the index of sealed objects changes too fast to be read; try again")

    async def root(self) -> Root:
        """Return the root of the index.

        Raises:
            IndexMissing, SealBroken, SealUnavailable, StorageError: see `state`.
        """
        await self._load_key()
        seen = self._last
        try:
            return self._accepted(await self._content(INDEX), seen)
        except NotFound:
            raise IndexMissing(MISSING) from None

    async def prepare(self) -> None:
        """Make the index ready for changes: load its key, or create the index.

        Raises:
            IndexMissing: there are sealed objects and no index.
            SealUnavailable: the key cannot be sealed or unsealed now.
            StorageError: it cannot be read or written.
        """
        if self._key is not None and self._last is not None:
            return
        if not await pools.read(self._directory.exists, _KEY):
            key = secrets.token_bytes(_KEY_BYTES)
            sealed = await self._sealer.seal(_KEY_NAME, key)

            def create() -> Steps[None]:
                if not self._directory.exists(_KEY):
                    if self._directory.exists(INDEX) or self._has_sealed():
                        raise IndexMissing(MISSING)
                    yield from self._directory.creating(_KEY, sealed)

            await exclusively(self._directory, create)
        await self._load_key()

        def begin() -> Steps[None]:
            if self._directory.exists(INDEX):
                self._read_root()
                return
            if self._has_sealed():
                raise IndexMissing(MISSING)
            yield from self._writing(Root(strict=not self._has_objects(), generation=1))

        await exclusively(self._directory, begin)

    async def rebuild(self, revisions: Mapping[str, int]) -> None:
        """Replace the index by one with these revisions; plain objects are read as well.

        The caller has verified the objects. `prepare` must have failed with `IndexMissing`.
        """
        self._key, self._last = SecretBytes(secrets.token_bytes(_KEY_BYTES)), None
        sealed = await self._sealer.seal(_KEY_NAME, self._key.reveal())

        def change() -> Steps[None]:
            yield from self._directory.replacing(_KEY, sealed)
            root = Root(generation=max((r >> 31 for r in revisions.values()), default=0) + 1)
            yield from self._storing(root, revisions)

        await exclusively(self._directory, change)

    async def reseal_key(self) -> None:
        """Seal the key of the index under the newest version of the KEK."""
        await self.prepare()
        key = self._require_key()
        sealed = await self._sealer.seal(_KEY_NAME, key.reveal())

        def change() -> Steps[None]:
            yield from self._directory.replacing(_KEY, sealed)

        await exclusively(self._directory, change)

    async def require_sealed(self, *, strict: bool) -> None:
        """Have every object refused that is not sealed, or not any more.

        Raises:
            SealBroken: an object is not sealed. It is named.
        """
        await self.prepare()

        def change() -> Steps[None]:
            root = yield from self._settled(self._read_root())
            if strict:
                for entry in self._objects():
                    if entry.segments == TOKEN_KEYS:
                        continue
                    if not is_sealed(self._directory.read(entry.segments)):
                        raise SealBroken(f"{'/'.join(entry.segments)} is not sealed")
            if root.strict != strict:
                yield from self._writing(
                    replace(root, strict=strict, generation=root.generation + 1)
                )

        await exclusively(self._directory, change)

    async def count_missing(self, *, forget: bool = False) -> int:
        """Return how many objects the index names that do not exist.

        Args:
            forget: whether their entries are removed.
        """
        await self.prepare()
        missing = 0

        def change() -> Steps[None]:
            nonlocal missing
            root = yield from self._settled(self._read_root())
            present = {key_of("/".join(entry.segments)) for entry in self._objects()}
            gone = {
                number: absent
                for number in range(SHARDS)
                if (absent := frozenset(self._read_shard(root, number).keys()) - present)
            }
            missing = sum(map(len, gone.values()))
            if not forget:
                return
            for number, absent in gone.items():
                shard = self._read_shard(root, number).without(absent)
                root = yield from self._replacing_shards(root, {number: shard})

        await exclusively(self._directory, change)
        return missing

    def is_expected(self) -> bool:
        """Return whether an index existed: this process has read it, or a part of it is there."""
        return self._last is not None or any(map(self._directory.exists, (_KEY, INDEX)))

    def next_revision(self) -> int:
        """Return a revision that no object has had: the generation, then 31 random bits."""
        last = self._last
        generation = 0 if last is None else last.root.generation
        return ((generation + 1) << 31) | (secrets.randbits(31) or 1)

    def changing(
        self, changes: Mapping[str, int], change: Callable[[], Steps[Result]]
    ) -> Steps[Result]:
        """Make a change of files, and of the index, while the caller holds the lock.

        Args:
            changes: new revision by path; 0 if the object is removed, or is not sealed any more.
            change: changes the files.
        """
        root = yield from self._settled(self._read_root())
        announced = replace(root, pending=dict(changes), generation=root.generation + 1)
        yield from self._writing(announced)
        try:
            result = yield from change()
        except Exception:
            yield from self._settled(announced)
            raise
        yield from self._settled(announced)
        return result

    def _settled(self, root: Root) -> Steps[Root]:
        """Complete the pending changes that were made, and drop the others; return the root."""
        if not root.pending:
            return root
        made = {path: rev for path, rev in root.pending.items() if self._was_made(path, rev)}
        return (yield from self._storing(replace(root, pending={}), made))

    def _storing(self, root: Root, changes: Mapping[str, int]) -> Steps[Root]:
        """Store changes in their shards; return the new root."""
        by_shard: dict[int, dict[str, int]] = {}
        for path, revision in changes.items():
            by_shard.setdefault(shard_of(path), {})[path] = revision
        shards = {
            number: self._read_shard(root, number).changed(of_shard)
            for number, of_shard in by_shard.items()
        }
        return (yield from self._replacing_shards(root, shards))

    def _replacing_shards(self, root: Root, shards: Mapping[int, Shard]) -> Steps[Root]:
        """Write shards under their new names, then the root; remove the shards before."""
        digests = list(root.shards)
        for number, shard in shards.items():
            digests[number] = shard.digest
        new = replace(root, shards=tuple(digests), generation=root.generation + 1)
        changed = [n for n in shards if root.shard_file(n) != new.shard_file(n)]
        for number in changed:
            name = new.shard_file(number)
            if name is not None:
                yield from self._directory.replacing((SEALS, name), shards[number].content)
        yield from self._writing(new)
        for number in changed:
            name = root.shard_file(number)
            if name is not None:
                with suppress(NotFound):
                    yield from self._directory.deleting((SEALS, name))
        return new

    def _writing(self, root: Root) -> Steps[None]:
        content = root.encode(self._require_key())
        yield from self._directory.replacing(INDEX, content)
        self._remember(_Read(content, root))

    def _was_made(self, path: str, revision: int) -> bool:
        """Return whether a pending change of a file was made."""
        try:
            content = self._directory.read(tuple(path.split("/")))
        except NotFound:
            return revision == 0
        if not is_sealed(content):
            return revision == 0
        try:
            return parse_header(content).revision == revision
        except SealBroken:
            return False

    def _read_root(self) -> Root:
        """Read the root in this thread.

        Raises:
            IndexMissing, SealBroken, StorageError: see `state`.
        """
        seen = self._last
        try:
            return self._accepted(self._directory.read(INDEX), seen)
        except NotFound:
            raise IndexMissing(MISSING) from None

    def _read_shard(self, root: Root, number: int) -> Shard:
        name = root.shard_file(number)
        if name is None:
            return Shard()
        try:
            return Shard.parse(self._directory.read((SEALS, name)), root.shards[number])
        except NotFound:
            raise SealBroken(
                f"the part {name} of the index of sealed objects is missing; restore it"
            ) from None

    def _accepted(self, content: bytes, seen: _Read | None) -> Root:
        """Parse a root that was read after `seen`.

        Raises:
            SealBroken: it was altered, or is not newer.
        """
        if seen is not None and content == seen.content:
            return seen.root
        root = Root.parse(content, self._require_key())
        if seen is not None and root.generation <= seen.root.generation:
            raise SealBroken(
                f"the index of sealed objects was replaced by an older one: its generation is "
                f"{root.generation}, and {seen.root.generation} was read before; restore the "
                "newest data directory and start the broker again"
            )
        self._remember(_Read(content, root))
        return root

    def _remember(self, read: _Read) -> None:
        with self._lock:
            last = self._last
            if last is None or read.root.generation > last.root.generation:
                self._last = read

    def _cached(self, name: str, content: bytes, root: Root, path: str) -> Shard:
        shard = Shard.parse(content, root.shards[shard_of(path)])
        with self._lock:
            self._shards[name] = shard
            while sum(len(each.content) for each in self._shards.values()) > _MAX_CACHED_BYTES:
                self._shards.popitem(last=False)
        return shard

    async def _load_key(self) -> None:
        if self._key is not None:
            return
        try:
            sealed = await self._content(_KEY)
        except NotFound:
            raise IndexMissing(MISSING) from None
        key = SecretBytes(await self._sealer.unseal(_KEY_NAME, sealed))
        if self._key is None:
            self._key = key

    def _require_key(self) -> SecretBytes:
        if self._key is None:
            raise StorageError("the index of sealed objects is not loaded")
        return self._key

    async def _content(self, segments: Segments) -> bytes:
        try:
            return self._directory.read_resident(segments)
        except NotResident:
            return await pools.read(self._directory.read, segments)

    def _objects(self) -> Iterator[Entry]:
        return objects_in(self._directory)

    def _has_objects(self) -> bool:
        return next(self._objects(), None) is not None

    def _has_sealed(self) -> bool:
        """Return whether an object is sealed, among the first ones."""
        for entry in islice(self._objects(), 1000):
            with suppress(NotFound):
                if is_sealed(self._directory.read(entry.segments)):
                    return True
        return False


def objects_in(directory: Directory) -> Iterator[Entry]:
    """Yield the files of a data directory that are sealed objects, or can become some.

    Raises:
        StorageError: a directory cannot be read.
    """
    for top in SEALED_DIRECTORIES:
        if top == TOKENS and not directory.exists((top,)):
            continue
        for item in walks.examine(directory, top):
            if not isinstance(item, Entry) or item.segments in NOT_SEALED:
                continue
            if not files.is_temporary(item.segments[-1]):
                yield item


def _state(root: Root, shard: Shard, path: str) -> State:
    revisions = {shard.revision(path) or 0}
    if path in root.pending:
        revisions.add(root.pending[path])
    return State(frozenset(revisions), root.strict)
