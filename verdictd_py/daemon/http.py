"""HTTP clients with the site's proxy and CAs, for collateral and for verifiers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx

from verdictd_py import __version__
from verdictd_py.config import Settings
from verdictd_py.errors import ConfigError
from verdictd_py.ports.tees import HttpGet
from verdictd_py.tees.intel.collateral.http import SubscriptionKey, bounded_get

CONNECT_SECONDS: Final = 10.0
MAX_API_KEY_CHARS: Final = 1024
"""Intel's subscription keys have 32 hex digits."""


@asynccontextmanager
async def site_get(settings: Settings) -> AsyncIterator[HttpGet]:
    """Open a client with the site's CAs and proxy for a verifier; it sends no credentials.

    Raises:
        ConfigError: the CAs or the proxy cannot be used.
    """
    async with http_client(settings) as client:
        yield bounded_get(client)


def http_client(settings: Settings) -> httpx.AsyncClient:
    """Create a client with the site's CAs and proxy.

    Raises:
        ConfigError: the CAs or the proxy cannot be used.
    """
    if settings.collateral_ca is not None:
        _read(settings.collateral_ca, "--collateral-ca")  # its error names the file
    try:
        return httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=settings.collateral_ca),
            proxy=settings.collateral_proxy,
            headers={"User-Agent": f"verdictd-py/{__version__}"},
            timeout=CONNECT_SECONDS,
        )
    except (OSError, ValueError, httpx.InvalidURL) as error:  # SSLError is an OSError
        raise ConfigError(
            "cannot create the client for the collateral service; --collateral-ca must be a file "
            "of PEM certificates, --collateral-proxy an http:// URL"
        ) from error


def collateral_get(client: httpx.AsyncClient, settings: Settings) -> HttpGet:
    """Return a GET for the collateral service; the subscription key goes to the first URL only.

    Raises:
        ConfigError: the key cannot be used.
    """
    key = None
    if settings.collateral_api_key_file is not None and settings.collateral_url:
        value = _api_key(settings.collateral_api_key_file)
        key = SubscriptionKey(settings.collateral_url[0], value)
    return bounded_get(client, key=key)


def _api_key(file: Path) -> str:
    """Read a subscription key, a secret: one line that is valid in an HTTP header."""
    option = "--collateral-api-key-file"
    key = _read(file, option).decode("latin-1").strip()
    if not key or len(key) > MAX_API_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"{file} is not one line of at most {MAX_API_KEY_CHARS} letters and digits; "
            f"give {option} a file that contains only the subscription key"
        )
    return key


def _read(file: Path, option: str) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_API_KEY_CHARS + 2)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; check {option}") from error
