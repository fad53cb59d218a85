"""Cache of collateral in memory and on disk, renewed before it expires.

Guests wait only for the first fetch of their platform type. After that they are served from
the cache, which is renewed in the background long before the collateral expires.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from verdictd_py.domain.events import (
    CollateralNotRenewed,
    CollateralNotStored,
    CollateralRenewed,
    CollateralUnreadable,
)
from verdictd_py.errors import AttestationError, CollateralUnavailable, StorageError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports import CollateralStore, Events
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import (
    CLOCK_TOLERANCE,
    Validity,
    check_collateral,
    ends_at,
)
from verdictd_py.tees.intel.collateral.flights import SingleFlight
from verdictd_py.tees.intel.collateral.forms import collateral_from_json, collateral_to_json
from verdictd_py.tees.intel.collateral.parts import older_part
from verdictd_py.tees.intel.collateral.pauses import FetchPauses
from verdictd_py.tees.intel.collateral.pcs import Check, ServiceBusy
from verdictd_py.tees.intel.collateral.port import CollateralRequest

MAX_PLATFORMS: Final = 1024
"""Maximum number of cached platform types. The PCK chain is verified before its FMSPC is looked
up, so only Intel's platforms can fill the cache; there are some dozens of types."""

MAX_FETCHES: Final = 16
"""Maximum number of fetches at once; guests of further platform types have to try again."""

RENEW_AT: Final = (0.5, 0.8)
"""Range of the part of the validity after which collateral is renewed. It is random for each set,
so that brokers that start together do not query the service together."""

_LOADS: Final = 2
"""Maximum number of loads for a guest: the first one may have begun before a replacement."""

_NAME: Final = re.compile(r"(tdx|sgx)-([0-9a-f]{12})-(processor|platform)\.json")

Fetch = Callable[[CollateralRequest, Check], Awaitable[tuple[Collateral, Validity]]]


@dataclass(slots=True)
class _CachedSet:
    """One set of collateral, verified when it was cached."""

    collateral: Collateral = field(repr=False)
    validity: Validity
    renew_at: datetime

    def is_valid(self, now: datetime) -> bool:
        """Return whether it can be used at `now`; clocks may deviate at its issue."""
        return self.validity.start - CLOCK_TOLERANCE <= now <= self.validity.end


class CollateralCache:
    """Port `CollateralSource` over a service (`Pcs.fetch`) and a store.

    Args:
        fetch: queries the service; raises `CollateralUnavailable` without a usable answer.
        store: persistent store.
        clock: current time, aware.
        monotonic: monotonic clock in seconds, for pauses.
        root_ca_der: trusted root, None for Intel's.
        minimum_evaluation: lowest accepted `tcbEvaluationDataNumber`.
        events: records every renewal and failure.
        changed: called when the cache has other collateral than before.
    """

    def __init__(  # noqa: PLR0913  # its collaborators, all by keyword except the ports
        self,
        fetch: Fetch,
        store: CollateralStore,
        *,
        clock: Callable[[], datetime],
        events: Events,
        monotonic: Callable[[], float] = time.monotonic,
        root_ca_der: bytes | None = None,
        minimum_evaluation: int = 0,
        chance: Callable[[float, float], float] = random.uniform,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._fetch = fetch
        self._store = store
        self._clock = clock
        self._events = events
        self._root_key = root_key_digest(root_ca_der)
        self._minimum = minimum_evaluation
        self._chance = chance
        self._changed = changed
        self._cached: dict[CollateralRequest, _CachedSet] = {}
        self._loaded: dict[CollateralRequest, Hashable] = {}
        self._pauses = FetchPauses(monotonic)
        self._loads = SingleFlight(self._load)
        self._fetches = SingleFlight(self._fetch_and_store, limit=MAX_FETCHES)

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Return collateral for a platform type.

        1. Valid cached collateral is returned at once; if it is due, a renewal starts, unless
           the last fetch was recent.
        2. Otherwise collateral is fetched, once for all guests that wait for it, unless a
           fetch has failed recently.
        3. If that fails, expired cached collateral (the verifier refuses it, or applies its
           grace period), and then the guest's own collateral.

        Raises:
            CollateralUnavailable: there is none.
        """
        cached = await self._cached_or_stored(request)
        now = self._clock()
        if cached is not None and cached.is_valid(now):  # 1
            if now >= cached.renew_at and not self._pauses.is_active(request):
                with suppress(CollateralUnavailable):  # too many others: the next guest tries again
                    self._fetches.start(request)
            return (cached.collateral,)
        try:
            return ((await self._fetched(request)).collateral,)  # 2
        except CollateralUnavailable:
            expired = None if cached is None else cached.collateral  # 3
            fallbacks = tuple(
                collateral for collateral in (expired, endorsements) if collateral is not None
            )
            if not fallbacks:
                raise
            return fallbacks

    async def valid(self, request: CollateralRequest) -> Collateral:
        """Return valid collateral, which is cached or fetched.

        Raises:
            CollateralUnavailable: there is none.
        """
        cached = await self._cached_or_stored(request)
        if cached is None or not cached.is_valid(self._clock()):
            cached = await self._fetched(request)
        return cached.collateral

    def remedy(self, request: CollateralRequest) -> str:
        failure = self._pauses.failure(request) or "it has not answered"
        return f"the collateral service has no newer one: {failure}; check --collateral-url"

    def expired(self, grace: timedelta) -> tuple[str, ...]:
        """Return the platform types whose cached collateral can no longer be used."""
        now = self._clock() - grace
        return tuple(
            sorted(
                f"{request.tee} {request.fmspc}"
                for request, cached in self._cached.items()
                if now > cached.validity.end
            )
        )

    @property
    def validity(self) -> tuple[Validity, ...]:
        """Validity of each cached set."""
        return tuple(cached.validity for cached in self._cached.values())

    def sets(self) -> tuple[tuple[CollateralRequest, Collateral], ...]:
        """Return the cached sets by platform type."""
        return tuple((request, cached.collateral) for request, cached in self._cached.items())

    async def restore(self) -> None:
        """Load all stored collateral, so that it is renewed before a guest needs it.

        Raises:
            StorageError: the store cannot be listed.
        """
        for name in (await self._store.names())[:MAX_PLATFORMS]:
            if (request := _request(name)) is not None:
                await self._cached_or_stored(request)

    async def renew_due(self) -> None:
        """Renew all sets that are due, and wait for the fetches. Failures are recorded."""
        now = self._clock()
        due = [
            request
            for request, cached in self._cached.items()
            if now >= cached.renew_at and not self._pauses.is_active(request)
        ]
        for request in due:
            with suppress(CollateralUnavailable):  # too many others: at the next call
                self._fetches.start(request)
        await self._fetches.wait()

    async def keep_renewed(self, *, every_seconds: float = 60) -> None:
        """Call `restore` until it succeeds, and `renew_due` periodically, until cancelled."""
        is_restored = False
        while True:
            if not is_restored:
                with suppress(StorageError):  # the broker's readiness reports it
                    await self.restore()
                    is_restored = True
            await self.renew_due()
            await asyncio.sleep(every_seconds)

    async def stop(self) -> None:
        """Cancel every load and fetch; guests that wait for one get `CollateralUnavailable`."""
        await self._loads.stop()
        await self._fetches.stop()

    async def _cached_or_stored(self, request: CollateralRequest) -> _CachedSet | None:
        """Return the set in memory; load it if the stored one was replaced since the last load.

        Guests that connect at the same time after a restart wait for the same load. Otherwise
        the cache in memory could be taken for complete while the store is still being read.
        """
        (state,) = await self._store.states([_name(request)])
        for _ in range(_LOADS):
            if request in self._loaded and self._loaded[request] == state:
                break
            await self._loads.result(request)
        return self._cached.get(request)

    async def _load(self, request: CollateralRequest) -> None:
        """Cache the stored set, if it is newer than the cached one.

        Other processes on the same directory store what they fetch too.
        """
        (state,) = await self._store.states([_name(request)])
        try:
            text = await self._store.load(_name(request))
        except StorageError as error:
            self._events.record(CollateralUnreadable(problem=str(error)))
            text = None
        if text is not None:
            self._cache_stored(request, text)
        self._loaded[request] = state

    def _cache_stored(self, request: CollateralRequest, text: bytes) -> None:
        cached = self._cached.get(request)
        try:
            collateral, validity = self._verified(request, text)
            if cached is None or (
                collateral != cached.collateral
                and older_part(collateral, cached.collateral) is None
            ):
                self._cache(request, collateral, validity)
        except (ValueError, AttestationError, CollateralUnavailable) as error:
            problem = f"the collateral stored for {_label(request)} is not used: {error}"
            self._events.record(CollateralUnreadable(problem=problem))

    def _verified(self, request: CollateralRequest, text: bytes) -> tuple[Collateral, Validity]:
        """Verify a stored set again, because files can be changed.

        Expired collateral is accepted too, as it would be without the restart: the operator may
        have set a grace period.

        Raises:
            ValueError: it cannot be read.
            AttestationError: it does not verify.
            CollateralUnavailable: it is older than the operator requires, or issued after now.
        """
        collateral = collateral_from_json(text)
        last = ends_at(collateral) - timedelta(seconds=1)
        return collateral, self._check(request, collateral, min(self._clock(), last))

    async def _fetched(self, request: CollateralRequest) -> _CachedSet:
        if (failure := self._pauses.failure(request)) is not None:
            raise CollateralUnavailable(failure)
        return await self._fetches.result(request)

    async def _fetch_and_store(self, request: CollateralRequest) -> _CachedSet:
        """Fetch collateral, verify it, and put it into the cache and the store.

        A set that another process has stored meanwhile is used instead if it is not due.

        Raises:
            CollateralUnavailable: no answer, or one that does not verify.
        """
        await self._load(request)
        cached = self._cached.get(request)
        if cached is not None and cached.is_valid(now := self._clock()) and now < cached.renew_at:
            return cached
        try:
            collateral, validity = await self._fetch(
                request, lambda fetched: self._check_fetched(request, fetched)
            )
            cached = self._cache(request, collateral, validity)
        except ServiceBusy as error:
            self._failed(request, str(error), at_least=timedelta(seconds=error.seconds))
            raise
        except (AttestationError, CollateralUnavailable) as error:
            self._failed(request, str(error))
            raise CollateralUnavailable(str(error)) from error
        except Exception as error:
            # Recorded here, because a renewal has no caller that would report it.
            self._failed(request, f"internal error: {type(error).__name__}")
            raise
        self._succeeded(request, validity)
        try:
            await self._store.update(_name(request), partial(self._stored, request, collateral))
        except StorageError as error:
            self._events.record(CollateralNotStored(problem=str(error)))
        return cached

    def _succeeded(self, request: CollateralRequest, validity: Validity) -> None:
        self._pauses.succeeded(request, validity.end - self._clock())
        self._events.record(
            CollateralRenewed(
                tee=request.tee,
                fmspc=request.fmspc,
                ca=request.ca,
                until=validity.end.isoformat(),
                evaluation=validity.evaluation_number,
            )
        )

    def _stored(
        self, request: CollateralRequest, collateral: Collateral, text: bytes | None
    ) -> bytes | None:
        """Return what to store in place of `text`; None if that is valid and newer in part."""
        with suppress(ValueError, AttestationError, CollateralUnavailable):
            if text is not None and older_part(collateral, self._verified(request, text)[0]):
                return None
        return collateral_to_json(collateral).encode()

    def _check_fetched(self, request: CollateralRequest, collateral: Collateral) -> Validity:
        validity = self._check(request, collateral, self._clock())
        self._refuse_older(request, collateral)
        return validity

    def _check(self, request: CollateralRequest, collateral: Collateral, now: datetime) -> Validity:
        validity = check_collateral(collateral, request, root_key=self._root_key, now=now)
        if validity.evaluation_number < self._minimum:
            raise CollateralUnavailable(
                f"its TCB evaluation number is {validity.evaluation_number}, "
                f"at least {self._minimum} is required"
            )
        return validity

    def _refuse_older(self, request: CollateralRequest, collateral: Collateral) -> None:
        """Refuse fetched collateral if a part of it is older than that of the cached set.

        A malicious service could send what Intel signed before a revocation or a TCB recovery.
        """
        cached = self._cached.get(request)
        if cached is None:
            return
        try:
            part = older_part(collateral, cached.collateral)
        except ValueError as error:
            raise CollateralUnavailable(str(error)) from error
        if part is not None:
            raise CollateralUnavailable(
                f"the service's {part.name} ({part.age(collateral)}) is older than the cached one "
                f"({part.age(cached.collateral)})"
            )

    def _cache(
        self, request: CollateralRequest, collateral: Collateral, validity: Validity
    ) -> _CachedSet:
        if request not in self._cached and len(self._cached) >= MAX_PLATFORMS:
            raise CollateralUnavailable("the cache has too many platform types")
        part = self._chance(*RENEW_AT)
        renew_at = validity.start + (validity.end - validity.start) * part
        before = self._cached.get(request)
        cached = self._cached[request] = _CachedSet(collateral, validity, renew_at)
        if before is None or before.collateral != collateral:
            self._changed()
        return cached

    def _failed(
        self, request: CollateralRequest, text: str, *, at_least: timedelta = timedelta(0)
    ) -> None:
        pause = self._pauses.failed(request, text, at_least=at_least)
        self._events.record(
            CollateralNotRenewed(
                tee=request.tee,
                fmspc=request.fmspc,
                ca=request.ca,
                problem=text,
                again_after_seconds=int(pause.total_seconds()),
            )
        )


def _name(request: CollateralRequest) -> str:
    """Return the name in the store; all three parts have restricted alphabets."""
    return f"{request.tee}-{request.fmspc}-{request.ca}.json"


def _request(name: str) -> CollateralRequest | None:
    """Return the platform type of a name in the store; None for other files."""
    match = _NAME.fullmatch(name)
    return None if match is None else CollateralRequest(match[1], match[2], match[3])


def _label(request: CollateralRequest) -> str:
    return f"{request.tee.upper()} FMSPC {request.fmspc} ({request.ca} CA)"
