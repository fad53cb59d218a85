"""The newest known copy of every part of collateral: no source can roll a part back.

Everything that a source sends is signed, so an attacker can only replay what was signed
before: a CRL without a revocation, or TCB levels from before a TCB recovery. The broker
therefore uses the newest copy of each part that it has ever verified, whatever the source, and
stores these copies for the time after a restart and for other processes on the same directory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Final

from verdictd_py.domain.events import CollateralNotStored, CollateralUnreadable
from verdictd_py.errors import AttestationError, CollateralUnavailable, StorageError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports import CollateralStore, Events
from verdictd_py.tees.intel.collateral.check import (
    issued_at,
    require_issued,
    require_platform,
)
from verdictd_py.tees.intel.collateral.flights import SingleFlight
from verdictd_py.tees.intel.collateral.forms import collateral_from_json, collateral_to_json
from verdictd_py.tees.intel.collateral.parts import (
    PARTS,
    PCK_CRL,
    QE_IDENTITY,
    ROOT_CRL,
    TCB_INFO,
    Part,
)
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.collateral.signers import rejected, verify_signers
from verdictd_py.tees.intel.collateral.sources import platform_of

MAX_COPIES: Final = 4096
"""Maximum number of copies. Only collateral for platforms that Intel certified is recorded."""

_RESULTS: Final = 64
"""Maximum number of platform types whose last result is cached."""

_GUESTS: Final = "-guests"
"""End of the scope of parts that guests sent."""


@dataclass(frozen=True, slots=True)
class _Key:
    """Part of one scope.

    Attributes:
        scope: platform type to which the part applies, as a part of the name of a file.
    """

    part: Part
    scope: str

    @property
    def file(self) -> str:
        return f"intel-newest-{self.part.slug}{self.scope}.json"


@dataclass(frozen=True, slots=True)
class _Result:
    """Result of `apply` that changed no copy, with everything that it depends on but the time.

    Attributes:
        collateral: the set of the source.
        states: of the stored copies.
        changes: number of changes of copies before it.
        newest: the set that was returned.
    """

    collateral: Collateral
    states: tuple[Hashable, ...]
    changes: int
    newest: Collateral


class NewestCollateral:
    """Newest known copy of each part of collateral.

    CRLs of any source count for every guest. TCB info and QE identity that a guest sent count
    only for guests without other collateral: `standard` and `early` TCB recoveries are the
    operator's choice, which no guest may make for the others.

    Args:
        root_key: SHA-256 of the trusted root's SubjectPublicKeyInfo.
        store: persistent store; None: the copies are lost at the end of the process.
        events: records failures of the store.
        changed: called when a newer copy of a part replaces a known one.
    """

    def __init__(
        self,
        root_key: bytes,
        *,
        store: CollateralStore | None = None,
        events: Events | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._root_key = root_key
        self._store = store
        self._events = events
        self._copies: dict[_Key, Collateral] = {}
        """For each part a verified set that contains it."""
        self._changes = 0
        self._results: dict[tuple[CollateralRequest, bool], _Result] = {}
        self._loaded: dict[_Key, Hashable] = {}
        self._unsaved: set[_Key] = set()
        self._saves = SingleFlight(self._save)

    async def apply(
        self,
        collateral: Collateral,
        request: CollateralRequest,
        *,
        now: datetime,
        chosen_by_guest: bool,
    ) -> Collateral:
        """Replace each part of a set that is older than a known copy, and record newer parts.

        1. Signatures and signers of the set are verified, and that it is for the platform.
        2. The root CRL comes first, because it decides which signers are revoked.
        3. Nothing of a set with a revoked signer is recorded, except the root CRL.

        The last result of each platform type is cached. It is invalidated by another set, a change
        of a stored copy, and any new copy. The dates of issue are compared with `now` each time.

        Returns:
            A set whose signatures were verified, and whose signers are not revoked.

        Raises:
            CollateralRejected: the set does not verify.
            QuoteInvalid: one of its signers is revoked.
            CollateralUnavailable: this host's clock is wrong, or there are too many copies.
        """
        last = self._results.get((request, chosen_by_guest))
        if last is None or last.collateral != collateral:
            last = None
            verify_signers(collateral, request.ca, self._root_key)  # 1
            require_platform(collateral, request)
        require_issued(issued_at(collateral), now)
        keys = _keys(request, chosen_by_guest)
        states = await self._states(request, chosen_by_guest)
        changes = self._changes
        if last is not None and (last.states, last.changes) == (states, changes):
            return last.newest
        try:
            newest = await self._combined(collateral, request, keys, states)
            verify_signers(newest, request.ca, self._root_key).require_not_revoked()  # 3
            for key in _recorded(request, chosen_by_guest):
                self._record(key, newest)
        except ValueError as error:
            raise rejected(str(error)) from error
        if self._changes == changes:
            while len(self._results) >= _RESULTS:
                del self._results[next(iter(self._results))]
            result = _Result(collateral, states, changes, newest)
            self._results[request, chosen_by_guest] = result
        return newest

    async def _combined(
        self,
        collateral: Collateral,
        request: CollateralRequest,
        keys: Sequence[_Key],
        states: Sequence[Hashable],
    ) -> Collateral:
        """Replace each part of a set that is older than a known copy; record the root CRL."""
        for key, state in zip(keys, states, strict=True):
            await self._load(key, state)
            collateral = self._with_newest(key, collateral, request)
            if key.part is ROOT_CRL:  # 2
                self._record(key, collateral)
        return collateral

    async def flush(self) -> None:
        """Wait until everything that was recorded is stored, or could not be."""
        await self._saves.wait()

    def _with_newest(
        self, key: _Key, collateral: Collateral, request: CollateralRequest
    ) -> Collateral:
        copy = self._copies.get(key)
        if copy is None or not key.part.is_older(collateral, copy):
            return collateral
        combined = key.part.copied(copy, collateral)
        return combined if self._is_usable(combined, key.part, request) else collateral

    def _is_usable(self, collateral: Collateral, part: Part, request: CollateralRequest) -> bool:
        """Return whether a combined set verifies, and its signers are not revoked.

        The root CRL is used even if it revokes the signers of the other parts.
        """
        try:
            signers = verify_signers(collateral, request.ca, self._root_key)
            if part is not ROOT_CRL:
                signers.require_not_revoked()
        except AttestationError:
            return False
        return True

    def _record(self, key: _Key, collateral: Collateral) -> None:
        copy = self._copies.get(key)
        if copy is None and len(self._copies) >= MAX_COPIES:
            raise CollateralUnavailable("there are too many platform types")
        if copy is not None and not _is_newer(key.part, collateral, copy):
            return
        self._replace_copy(key, collateral)
        if self._store is not None:
            self._unsaved.add(key)
            self._saves.start(key)

    def _replace_copy(self, key: _Key, copy: Collateral) -> None:
        known = key in self._copies
        self._copies[key] = copy
        self._changes += 1
        if known:
            self._changed()

    async def _states(
        self, request: CollateralRequest, chosen_by_guest: bool
    ) -> tuple[Hashable, ...]:
        """Return the states of the stored copies that `_keys` names."""
        files = _files(request, chosen_by_guest)
        if self._store is None:
            return (None,) * len(files)
        return await self._store.states(files)

    async def _load(self, key: _Key, state: Hashable) -> None:
        """Read a stored copy if it was replaced since the last time; use it if it is newer.

        Other processes on the same directory store what they learn, for example a revocation.
        """
        if self._store is None or (key in self._loaded and self._loaded[key] == state):
            return
        try:
            text = await self._store.load(key.file)
        except StorageError as error:
            self._report(str(error))
            text = None
        self._loaded[key] = state
        if text is None:
            return
        try:
            stored = self._verified(key, text)
        except (ValueError, AttestationError) as error:
            self._report(f"{key.file} is not used: {error}")
            return
        known = self._copies.get(key)
        if known is None or _is_newer(key.part, stored, known):
            self._replace_copy(key, stored)

    def _verified(self, key: _Key, text: bytes) -> Collateral:
        """Return a stored set, whose signatures are verified again: files can be changed.

        Raises:
            ValueError: it cannot be read, or is for another platform type.
            CollateralRejected: it does not verify.
        """
        stored = collateral_from_json(text)
        own = platform_of(stored)
        verify_signers(stored, own.ca, self._root_key)
        require_platform(stored, own)
        if key.scope.removesuffix(_GUESTS) != _scope(key.part, own):
            raise ValueError("it is for another platform type")
        key.part.age(stored)
        return stored

    async def _save(self, key: _Key) -> None:
        """Store a copy, and again what was recorded meanwhile."""
        while self._store is not None and key in self._unsaved:
            self._unsaved.discard(key)
            change = partial(self._stored, key, self._copies[key])
            try:
                await self._store.update(key.file, change)
            except StorageError as error:
                if self._events is not None:
                    self._events.record(CollateralNotStored(problem=str(error)))

    def _stored(self, key: _Key, copy: Collateral, text: bytes | None) -> bytes | None:
        """Return what to store in place of `text`; None if that is valid and newer."""
        with suppress(ValueError, AttestationError):
            if text is not None and key.part.is_older(copy, self._verified(key, text)):
                return None
        return collateral_to_json(copy).encode()

    def _report(self, problem: str) -> None:
        if self._events is not None:
            self._events.record(CollateralUnreadable(problem=problem))


def _is_newer(part: Part, collateral: Collateral, than: Collateral) -> bool:
    return part.age(collateral) != part.age(than) and not part.is_older(collateral, than)


@lru_cache(maxsize=_RESULTS)
def _keys(request: CollateralRequest, chosen_by_guest: bool) -> tuple[_Key, ...]:
    """Return the copies that count for a set, the root CRL first."""
    own = tuple(_Key(part, _scope(part, request)) for part in PARTS)
    return own + _of_guests(request) if chosen_by_guest else own


@lru_cache(maxsize=_RESULTS)
def _files(request: CollateralRequest, chosen_by_guest: bool) -> tuple[str, ...]:
    return tuple(key.file for key in _keys(request, chosen_by_guest))


def _recorded(request: CollateralRequest, chosen_by_guest: bool) -> tuple[_Key, ...]:
    """Return the copies that a set can replace, except the root CRL."""
    if not chosen_by_guest:
        return tuple(_Key(part, _scope(part, request)) for part in PARTS if part is not ROOT_CRL)
    return (_Key(PCK_CRL, _scope(PCK_CRL, request)), *_of_guests(request))


def _of_guests(request: CollateralRequest) -> tuple[_Key, ...]:
    return tuple(_Key(part, _scope(part, request) + _GUESTS) for part in (TCB_INFO, QE_IDENTITY))


def _scope(part: Part, request: CollateralRequest) -> str:
    """Return which platform types a part is for."""
    scopes = {
        PCK_CRL: f"-{request.ca}",
        TCB_INFO: f"-{request.tee}-{request.fmspc}",
        QE_IDENTITY: f"-{request.tee}",
    }
    return scopes.get(part, "")
