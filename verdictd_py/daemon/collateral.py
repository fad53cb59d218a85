"""Construction of the source of collateral: files, a service with its cache, or guests."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from verdictd_py.config import Settings
from verdictd_py.daemon.supervisor import Work
from verdictd_py.domain.events import WarningEnvironment
from verdictd_py.errors import (
    AttestationError,
    CollateralUnavailable,
    ConfigError,
    StorageError,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports import CollateralStore, Events
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.cache import CollateralCache, Fetch
from verdictd_py.tees.intel.collateral.check import check_collateral, ends_at, issued_at
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.pcs import Pcs
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.collateral.sources import (
    EndorsementsOnly,
    FileCollateral,
    FirstAnswer,
    Inspect,
)
from verdictd_py.tees.intel.tee import IntelService

if TYPE_CHECKING:
    import httpx


class CollateralService:
    """The daemon's source of collateral, with its background work.

    If the operator names files, only they are used and nothing is fetched. Otherwise it is a
    service with its cache. Without either, guests have to send collateral.

    Args:
        changed: called when collateral has changed, so that guests are appraised again.
        elsewhere: fetches and renews collateral in another process of the broker, instead of
            this one; None if this process queries the service itself.

    Attributes:
        intel: the source, and what the verifiers of Intel's TEEs share in addition.
        background: work that renews collateral before it expires.

    Raises:
        ConfigError: a file or address that the settings name cannot be used, or there is no
            source at all.
    """

    def __init__(
        self,
        settings: Settings,
        store: CollateralStore,
        *,
        clock: Callable[[], datetime],
        events: Events,
        root_ca_der: bytes | None,
        changed: Callable[[], None] = lambda: None,
        elsewhere: Fetch | None = None,
    ) -> None:
        self._changed = changed
        self._elsewhere = elsewhere
        self._client: httpx.AsyncClient | None = None
        self._cache: CollateralCache | None = None
        self._files: FileCollateral | None = None
        self._newest = NewestCollateral(
            root_key_digest(root_ca_der), store=store, events=events, changed=changed
        )
        self._grace = timedelta(days=settings.collateral_grace)
        self.background: tuple[Work, ...] = ()
        self.intel = IntelService(
            self._source(settings, store, clock=clock, events=events, root_ca_der=root_ca_der),
            grace=self._grace,
            minimum_evaluation=settings.min_tcb_evaluation,
            newest=self._newest,
            refuse_endorsements=settings.refuse_endorsements,
        )

    def _source(
        self,
        settings: Settings,
        store: CollateralStore,
        *,
        clock: Callable[[], datetime],
        events: Events,
        root_ca_der: bytes | None,
    ) -> CollateralSource:
        """Build the source that the settings name."""
        root_key = root_key_digest(root_ca_der)
        if settings.collateral is not None or not settings.collateral_url:
            inspect = partial(_problem_of, root_key, clock)
            source = collateral_source(
                settings.collateral,
                events,
                inspect,
                refuse_endorsements=settings.refuse_endorsements,
                changed=self._changed,
            )
            self._files = _files(source)
            return source
        self._cache = CollateralCache(
            self._elsewhere or self._service(settings, events, root_key).fetch,
            store,
            clock=clock,
            events=events,
            root_ca_der=root_ca_der,
            minimum_evaluation=settings.min_tcb_evaluation,
            chance=random.uniform if self._elsewhere is None else _when_it_expires,
            changed=self._changed,
        )
        if self._elsewhere is None:
            self.background = (Work("renew collateral", self._cache.keep_renewed),)
        return self._cache

    def _service(self, settings: Settings, events: Events, root_key: bytes) -> Pcs:
        # Late: it takes a tenth of the start, and is not needed with the operator's collateral.
        from verdictd_py.daemon.http import (  # noqa: PLC0415
            collateral_get,
            http_client,
            site_proxies,
        )

        if warning := site_proxies(settings).warning:
            events.record(WarningEnvironment(reason=warning))
        self._client = http_client(settings)
        return Pcs(
            collateral_get(self._client, settings),
            settings.collateral_url,
            root_key=root_key,
            update=settings.collateral_update,
        )

    async def sets(self) -> tuple[tuple[CollateralRequest, Collateral], ...]:
        """Return the collateral that the broker has now, by platform type.

        Another process may fetch for this one; the copies that it stored are read first.
        """
        if self._cache is not None:
            with suppress(StorageError):  # the health reports it
                await self._cache.restore()
            return self._cache.sets()
        return () if self._files is None else self._files.sets()

    @property
    def grace(self) -> timedelta:
        """How long collateral is still used after it expired."""
        return self._grace

    async def valid(self, request: CollateralRequest) -> Collateral:
        """Return valid collateral of the service, for another process of the broker.

        All processes together cause one fetch, as the guests of one process do.

        Raises:
            CollateralUnavailable: there is none.
        """
        if self._cache is None:
            raise CollateralUnavailable("this process queries no collateral service")
        return await self._cache.valid(request)

    @property
    def validity(self) -> tuple[tuple[datetime, datetime], ...]:
        """Issue and end of the collateral in memory, the newest set of each platform type."""
        if self._cache is not None:
            return tuple((each.start, each.end) for each in self._cache.validity)
        found = []
        for _, collateral in () if self._files is None else self._files.sets():
            with suppress(ValueError, AttestationError):  # it has no dates; a warning reports it
                found.append((issued_at(collateral), ends_at(collateral)))
        return tuple(found)

    async def problem(self) -> str:
        """Return for which platform types there is no valid collateral; empty for none."""
        expired = () if self._cache is None else self._cache.expired(self._grace)
        if not expired:
            return ""
        return f"the collateral of {', '.join(expired)} has expired; check --collateral-url"

    async def close(self) -> None:
        """Cancel every fetch, close every connection, and wait until copies are stored."""
        if self._cache is not None:
            await self._cache.stop()
        if self._client is not None:
            await self._client.aclose()
        await self._newest.flush()


def _files(source: CollateralSource) -> FileCollateral | None:
    """Return the operator's files in a source of `collateral_source`."""
    sources = source.sources if isinstance(source, FirstAnswer) else (source,)
    return next((each for each in sources if isinstance(each, FileCollateral)), None)


def _when_it_expires(low: float, high: float) -> float:
    """Return the part of the validity after which a process renews what another one renews."""
    del low, high
    return 1.0


def _problem_of(
    root_key: bytes,
    clock: Callable[[], datetime],
    request: CollateralRequest,
    collateral: Collateral,
) -> str:
    """Return the problem of a set of the operator's collateral; empty if it verifies now."""
    try:
        check_collateral(collateral, request, root_key=root_key, now=clock())
    except AttestationError as error:
        return "; ".join(reason.text for reason in error.reasons)
    except CollateralUnavailable as error:  # this host's clock
        return str(error)
    return ""


def collateral_source(
    path: Path | None,
    events: Events | None = None,
    inspect: Inspect | None = None,
    *,
    refuse_endorsements: bool = False,
    changed: Callable[[], None] = lambda: None,
) -> CollateralSource:
    """Return a source of the operator's collateral, or else the guest's own.

    Args:
        changed: called when the collateral has changed.

    Raises:
        ConfigError: `path` cannot be read, or no collateral can ever be used.
    """
    if path is None:
        if refuse_endorsements:
            raise ConfigError(
                "no guest can be verified: --refuse-endorsements excludes the collateral of "
                "guests, and there is no other; set --collateral-url or --collateral"
            )
        return EndorsementsOnly()
    files = FileCollateral(path, events=events, inspect=inspect, changed=changed)
    return files if refuse_endorsements else FirstAnswer(files, EndorsementsOnly())
