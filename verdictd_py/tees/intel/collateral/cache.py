"""Collateral that never stalls: kept in memory and on disk, fetched once, renewed ahead.

Guests wait only for the first fetch of their platform type. After that they are served
from what is kept, while it is renewed in the background long before it ends.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from verdictd_py.domain.events import (
    CollateralNotRenewed,
    CollateralNotStored,
    CollateralRenewed,
    CollateralUnreadable,
)
from verdictd_py.domain.evidence import Collateral, Tee
from verdictd_py.errors import AttestationError, CollateralUnavailable, StorageError
from verdictd_py.ports import CollateralRequest, CollateralStore, Events
from verdictd_py.tees.intel.collateral.check import Validity, check_collateral, ends_at
from verdictd_py.tees.intel.collateral.flights import Flights
from verdictd_py.tees.intel.collateral.forms import collateral_from_json, collateral_to_json
from verdictd_py.tees.intel.collateral.pcs import Check
from verdictd_py.tees.intel.pck import root_key_digest

MAX_PLATFORMS: Final = 1024
"""Kept at once. The PCK chain is verified before its FMSPC gets here, so only platforms that
Intel made can fill it; there are some dozens of types."""

MAX_FLIGHTS: Final = 16
"""Fetches at once; a guest of one type more is told to come back."""

RENEW_AT: Final = (0.5, 0.8)
"""Part of the validity after which collateral is renewed, chosen anew for each set in this
range: many brokers started together do not ask together."""

FIRST_BACK_OFF: Final = timedelta(seconds=5)
LONGEST_BACK_OFF: Final = timedelta(minutes=5)
"""After a failed fetch nobody asks again for so long; doubled at each failure."""

_NAME: Final = re.compile(r"(tdx|sgx)-([0-9a-f]{12})-(processor|platform)\.json")

Fetch = Callable[[CollateralRequest, Check], Awaitable[tuple[Collateral, Validity]]]


@dataclass(slots=True)
class _Kept:
    """One set, verified when it came."""

    collateral: Collateral = field(repr=False)
    validity: Validity
    renew_at: datetime


@dataclass(slots=True)
class _Failure:
    """The last fetch, which failed."""

    until: datetime
    pause: timedelta
    text: str


class CollateralCache:
    """Port `CollateralSource` over a service (`Pcs.fetch`) and a store.

    Args:
        fetch: asks the service; `CollateralUnavailable` where it has no answer.
        store: what survives a restart.
        clock: now, with a time zone.
        root_ca_der: trusted root, None for Intel's.
        minimum_evaluation: lowest `tcbEvaluationDataNumber` that is accepted.
        events: told of every renewal and failure.
    """

    def __init__(
        self,
        fetch: Fetch,
        store: CollateralStore,
        *,
        clock: Callable[[], datetime],
        events: Events,
        root_ca_der: bytes | None = None,
        minimum_evaluation: int = 0,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._fetch = fetch
        self._store = store
        self._clock = clock
        self._events = events
        self._root_key = root_key_digest(root_ca_der)
        self._minimum = minimum_evaluation
        self._chance = chance
        self._kept: dict[CollateralRequest, _Kept] = {}
        self._loaded: set[CollateralRequest] = set()
        self._failures: dict[CollateralRequest, _Failure] = {}
        self._loads = Flights(self._load)
        self._fetches = Flights(self._fetch_and_keep, limit=MAX_FLIGHTS)

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Collateral for a platform type.

        1. What is kept and valid, at once; if it is due, it is renewed meanwhile.
        2. Otherwise a fetch, one for all who ask; not while the last failure is recent.
        3. If that fails, what is kept although it has ended (the verifier says so), and
           then what the guest brought along.

        Raises:
            CollateralUnavailable: there is none.
        """
        kept = await self._known(request)
        now = self._clock()
        if kept is not None and kept.validity.start <= now <= kept.validity.end:  # 1
            if now >= kept.renew_at and not self._is_pausing(request, now):
                with suppress(CollateralUnavailable):  # too many others: the next guest tries again
                    self._fetches.start(request)
            return (kept.collateral,)
        try:
            return ((await self._fetched(request, now)).collateral,)  # 2
        except CollateralUnavailable:
            ended = None if kept is None else kept.collateral  # 3
            found = tuple(each for each in (ended, endorsements) if each is not None)
            if not found:
                raise
            return found

    async def restore(self) -> None:
        """Load everything from the store, so that it is renewed before a guest needs it.

        Raises:
            StorageError: the store cannot be listed.
        """
        for name in (await self._store.names())[:MAX_PLATFORMS]:
            if (request := _request(name)) is not None:
                await self._known(request)

    async def renew_due(self) -> None:
        """Renew everything that is due now, and wait for it. Failures are recorded."""
        now = self._clock()
        due = [
            request
            for request, kept in self._kept.items()
            if now >= kept.renew_at and not self._is_pausing(request, now)
        ]
        for request in due:
            with suppress(CollateralUnavailable):  # too many others: at the next call
                self._fetches.start(request)
        await self._fetches.wait()

    async def keep_renewed(self, *, every_seconds: float = 60) -> None:
        """Call `restore`, then `renew_due` again and again. Returns never.

        Raises:
            StorageError: the store cannot be listed.
        """
        await self.restore()
        while True:
            await self.renew_due()
            await asyncio.sleep(every_seconds)

    async def stop(self) -> None:
        """Cancel every load and fetch; guests that wait for one get `CollateralUnavailable`."""
        await self._loads.stop()
        await self._fetches.stop()

    async def _known(self, request: CollateralRequest) -> _Kept | None:
        """Return what is in memory; the first time, load it from the store.

        Guests that arrive together after a restart wait for the same load: none of them may
        conclude from an empty memory that there is nothing on disk.
        """
        if request not in self._loaded:
            await self._loads.result(request)
        return self._kept.get(request)

    async def _load(self, request: CollateralRequest) -> None:
        try:
            text = await self._store.load(_name(request))
        except StorageError as error:
            self._events.record(CollateralUnreadable(problem=str(error)))
            text = None
        if text is not None:
            self._take_stored(request, text)
        self._loaded.add(request)

    def _take_stored(self, request: CollateralRequest, text: bytes) -> None:
        """What was verified when it was stored is verified again: files can be written over.

        What has ended meanwhile is kept, as it would be without the restart: the operator may
        have set a grace.
        """
        try:
            collateral = collateral_from_json(text)
            last = ends_at(collateral) - timedelta(seconds=1)
            validity = self._check(request, collateral, min(self._clock(), last))
            self._keep(request, collateral, validity)
        except (ValueError, AttestationError, CollateralUnavailable) as error:
            problem = f"the collateral kept for {_label(request)} is not used: {error}"
            self._events.record(CollateralUnreadable(problem=problem))

    async def _fetched(self, request: CollateralRequest, now: datetime) -> _Kept:
        failure = self._failures.get(request)
        if failure is not None and now < failure.until:
            raise CollateralUnavailable(failure.text)
        return await self._fetches.result(request)

    def _is_pausing(self, request: CollateralRequest, now: datetime) -> bool:
        failure = self._failures.get(request)
        return failure is not None and now < failure.until

    async def _fetch_and_keep(self, request: CollateralRequest) -> _Kept:
        """Fetch, verify, keep and store.

        Raises:
            CollateralUnavailable: no answer, or one that does not verify.
        """
        try:
            collateral, validity = await self._fetch(
                request, lambda found: self._acceptable(request, found)
            )
            kept = self._keep(request, collateral, validity)
        except (AttestationError, CollateralUnavailable) as error:
            self._failed(request, str(error))
            raise CollateralUnavailable(str(error)) from error
        except Exception as error:
            # A bug. It is recorded here, because a renewal has no caller that would report it.
            self._failed(request, f"internal error: {type(error).__name__}")
            raise
        self._failures.pop(request, None)
        self._events.record(
            CollateralRenewed(
                tee=request.tee,
                fmspc=request.fmspc,
                ca=request.ca,
                until=validity.end.isoformat(),
                evaluation=validity.evaluation_number,
            )
        )
        try:
            await self._store.save(_name(request), collateral_to_json(collateral).encode())
        except StorageError as error:
            self._events.record(CollateralNotStored(problem=str(error)))
        return kept

    def _acceptable(self, request: CollateralRequest, collateral: Collateral) -> Validity:
        validity = self._check(request, collateral, self._clock())
        self._refuse_older(request, validity)
        return validity

    def _check(self, request: CollateralRequest, collateral: Collateral, now: datetime) -> Validity:
        validity = check_collateral(collateral, request, root_key=self._root_key, now=now)
        if validity.evaluation_number < self._minimum:
            raise CollateralUnavailable(
                f"its TCB evaluation number is {validity.evaluation_number}, "
                f"at least {self._minimum} is asked for"
            )
        return validity

    def _refuse_older(self, request: CollateralRequest, validity: Validity) -> None:
        """A service that lies could repeat what Intel signed before the last TCB recovery."""
        kept = self._kept.get(request)
        if kept is None:
            return
        if validity.evaluation_number < kept.validity.evaluation_number:
            raise CollateralUnavailable("the service's collateral is older than what is kept")

    def _keep(
        self, request: CollateralRequest, collateral: Collateral, validity: Validity
    ) -> _Kept:
        if request not in self._kept and len(self._kept) >= MAX_PLATFORMS:
            raise CollateralUnavailable("too many platform types are kept")
        part = self._chance(*RENEW_AT)
        kept = _Kept(collateral, validity, validity.start + (validity.end - validity.start) * part)
        self._kept[request] = kept
        return kept

    def _failed(self, request: CollateralRequest, text: str) -> None:
        before = self._failures.get(request)
        pause = FIRST_BACK_OFF if before is None else min(before.pause * 2, LONGEST_BACK_OFF)
        self._failures[request] = _Failure(self._clock() + pause, pause, text)
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
    """Below the store: all three parts are of known alphabets."""
    return f"{request.tee.value}-{request.fmspc}-{request.ca}.json"


def _request(name: str) -> CollateralRequest | None:
    """What a name in the store is of; None for files of somebody else's."""
    found = _NAME.fullmatch(name)
    return None if found is None else CollateralRequest(Tee(found[1]), found[2], found[3])


def _label(request: CollateralRequest) -> str:
    kind = "TDX" if request.tee is Tee.TDX else "SGX"
    return f"{kind} FMSPC {request.fmspc} ({request.ca} CA)"
