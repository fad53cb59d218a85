"""Construction of the source of collateral: files, a service with its cache, or guests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx

from verdictd_py.config import Settings
from verdictd_py.daemon.http import http_client
from verdictd_py.daemon.supervisor import Work
from verdictd_py.errors import AttestationError, CollateralUnavailable
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports import CollateralStore, Events
from verdictd_py.tees.intel.collateral.cache import CollateralCache
from verdictd_py.tees.intel.collateral.check import check_collateral
from verdictd_py.tees.intel.collateral.http import bounded_get
from verdictd_py.tees.intel.collateral.pcs import Pcs
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.collateral.sources import (
    EndorsementsOnly,
    FileCollateral,
    FirstAnswer,
    Inspect,
)
from verdictd_py.tees.intel.pck import root_key_digest


class CollateralService:
    """The daemon's source of collateral, with its background work.

    If the operator names files, only they are used and nothing is fetched. Otherwise it is a
    service with its cache. Without either, guests have to send collateral.

    Attributes:
        source: the source.
        background: work that renews collateral before it expires.

    Raises:
        ConfigError: a file or address that the settings name cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        store: CollateralStore,
        *,
        clock: Callable[[], datetime],
        events: Events,
        root_ca_der: bytes | None,
    ) -> None:
        self._client: httpx.AsyncClient | None = None
        self._cache: CollateralCache | None = None
        self.background: tuple[Work, ...] = ()
        if settings.collateral is not None or not settings.collateral_url:
            inspect = partial(_problem_of, root_key_digest(root_ca_der), clock)
            self.source = collateral_source(settings.collateral, events, inspect)
            return
        self._client = http_client(settings)
        get = bounded_get(self._client)
        service = Pcs(
            get,
            settings.collateral_url,
            root_key=root_key_digest(root_ca_der),
            update=settings.collateral_update,
        )
        self.source = self._cache = CollateralCache(
            service.fetch,
            store,
            clock=clock,
            events=events,
            root_ca_der=root_ca_der,
            minimum_evaluation=settings.min_tcb_evaluation,
        )
        self.background = (Work("renew collateral", self._cache.keep_renewed),)

    async def close(self) -> None:
        """Cancel every fetch, and close every connection."""
        if self._cache is not None:
            await self._cache.stop()
        if self._client is not None:
            await self._client.aclose()


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
    path: Path | None, events: Events | None = None, inspect: Inspect | None = None
) -> CollateralSource:
    """Return a source of the operator's collateral, or else the guest's own.

    Raises:
        ConfigError: `path` cannot be read.
    """
    if path is None:
        return EndorsementsOnly()
    return FirstAnswer(FileCollateral(path, events=events, inspect=inspect), EndorsementsOnly())
