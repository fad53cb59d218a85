"""HTTP clients with the site's proxy and CAs, for collateral and for verifiers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx

from verdictd_py import __version__
from verdictd_py.config import Settings
from verdictd_py.errors import ConfigError
from verdictd_py.ports.tees import HttpGet
from verdictd_py.tees.intel.collateral.http import bounded_get

CONNECT_SECONDS: Final = 10.0
MAX_API_KEY_CHARS: Final = 1024
"""Intel's subscription keys have 32 hex digits."""


@asynccontextmanager
async def site_get(settings: Settings) -> AsyncIterator[HttpGet]:
    """Open a client with the site's CAs and proxy for a verifier; it sends no credentials.

    Raises:
        ConfigError: the CAs or the proxy cannot be used.
    """
    async with _client(settings, {}) as client:
        yield bounded_get(client)


def http_client(settings: Settings) -> httpx.AsyncClient:
    """Create a client with the site's CAs and proxy, and Intel's subscription key.

    Raises:
        ConfigError: the CAs, the proxy or the key cannot be used.
    """
    headers = {}
    if settings.collateral_api_key_file is not None:
        headers["Ocp-Apim-Subscription-Key"] = _api_key(settings.collateral_api_key_file)
    return _client(settings, headers)


def _client(settings: Settings, headers: Mapping[str, str]) -> httpx.AsyncClient:
    if settings.collateral_ca is not None:
        _read(settings.collateral_ca, "--collateral-ca")  # its error names the file
    try:
        return httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=settings.collateral_ca),
            proxy=settings.collateral_proxy,
            headers={"User-Agent": f"verdictd-py/{__version__}", **headers},
            timeout=CONNECT_SECONDS,
        )
    except (OSError, ValueError, httpx.InvalidURL) as error:  # SSLError is an OSError
        raise ConfigError(
            "cannot create the client for the collateral service; --collateral-ca must be a file "
            "of PEM certificates, --collateral-proxy an http:// URL"
        ) from error


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
