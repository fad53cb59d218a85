"""Builds the sources of collateral: files, a service with its cache, the guest's own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx

from verdictd_py import __version__
from verdictd_py.config import Settings
from verdictd_py.daemon.supervisor import Work
from verdictd_py.domain.evidence import Collateral
from verdictd_py.errors import AttestationError, ConfigError
from verdictd_py.ports import CollateralRequest, CollateralSource, CollateralStore, Events
from verdictd_py.tees.intel.collateral.cache import CollateralCache
from verdictd_py.tees.intel.collateral.check import check_collateral
from verdictd_py.tees.intel.collateral.http import bounded_get
from verdictd_py.tees.intel.collateral.pcs import Pcs
from verdictd_py.tees.intel.collateral.sources import (
    EndorsementsOnly,
    FileCollateral,
    FirstAnswer,
    Inspect,
)
from verdictd_py.tees.intel.pck import root_key_digest

CONNECT_SECONDS = 10.0
MAX_API_KEY_CHARS = 1024  # Intel's have 32 hex digits


class CollateralService:
    """The daemon's source of collateral, with what runs in the background for it.

    Files where the operator names them, and then nothing is ever fetched; otherwise a
    service with its cache; without either only what guests bring along.

    Attributes:
        source: the port.
        background: renews collateral before it expires.

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
            inspect = partial(_inspected, root_key_digest(root_ca_der), clock)
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


def http_client(settings: Settings) -> httpx.AsyncClient:
    """A client with the operator's CAs, proxy and subscription key.

    Raises:
        ConfigError: one of them cannot be used.
    """
    headers = {"User-Agent": f"verdictd-py/{__version__}"}
    if settings.collateral_api_key_file is not None:
        headers["Ocp-Apim-Subscription-Key"] = _api_key(settings.collateral_api_key_file)
    if settings.collateral_ca is not None:
        _read(settings.collateral_ca, "--collateral-ca")  # says which file, OpenSSL does not
    try:
        return httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=settings.collateral_ca),
            proxy=settings.collateral_proxy,
            headers=headers,
            timeout=CONNECT_SECONDS,
        )
    except (OSError, ValueError, httpx.InvalidURL) as error:  # SSLError is an OSError
        raise ConfigError(
            "the collateral service cannot be reached like this; --collateral-ca is a file of PEM "
            "certificates, --collateral-proxy an http:// URL"
        ) from error


def _api_key(file: Path) -> str:
    """A subscription key: one line that can stand in an HTTP header. It is a secret."""
    option = "--collateral-api-key-file"
    key = _read(file, option).decode("latin-1").strip()
    if not key or len(key) > MAX_API_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"{file} is not one line of at most {MAX_API_KEY_CHARS} letters and digits; "
            f"give a file with the subscription key alone to {option}"
        )
    return key


def _read(file: Path, option: str) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_API_KEY_CHARS + 2)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; check {option}") from error


def _inspected(
    root_key: bytes,
    clock: Callable[[], datetime],
    request: CollateralRequest,
    collateral: Collateral,
) -> str:
    """What is wrong with a set of the operator's now, empty where nothing is."""
    try:
        check_collateral(collateral, request, root_key=root_key, now=clock())
    except AttestationError as error:
        return "; ".join(reason.text for reason in error.reasons)
    return ""


def collateral_source(
    path: Path | None, events: Events | None = None, inspect: Inspect | None = None
) -> CollateralSource:
    """Collateral of the operator's, and only where it has none the guest's own.

    Raises:
        ConfigError: `path` cannot be read.
    """
    if path is None:
        return EndorsementsOnly()
    return FirstAnswer(FileCollateral(path, events=events, inspect=inspect), EndorsementsOnly())
