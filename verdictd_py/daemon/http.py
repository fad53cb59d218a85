"""HTTP clients with the site's proxies, CAs and pins, for collateral and for verifiers."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx

from verdictd_py import __version__
from verdictd_py.config import Settings
from verdictd_py.daemon.httpcauses import cause
from verdictd_py.daemon.pinnedtls import pinned_context
from verdictd_py.daemon.siteproxy import SiteProxies
from verdictd_py.errors import ConfigError
from verdictd_py.ports.tees import HttpGet
from verdictd_py.tees.intel.collateral.http import SubscriptionKey, bounded_get

CONNECT_SECONDS: Final = 10.0
MAX_API_KEY_CHARS: Final = 1024
"""Intel's subscription keys have 32 hex digits."""

_Origin = tuple[str, str, int | None]


@asynccontextmanager
async def site_get(settings: Settings) -> AsyncIterator[HttpGet]:
    """Open a client with the site's CAs and proxies for a verifier; it sends no credentials.

    Raises:
        ConfigError: the CAs or the proxy cannot be used.
    """
    async with http_client(settings) as client:
        yield bounded_get(client, explain=_explanations(settings))


def site_proxies(settings: Settings, environment: Mapping[str, str] = os.environ) -> SiteProxies:
    """Return the proxy that the operator named, or else those of the environment.

    Raises:
        ConfigError: the operator named a proxy that cannot be used.
    """
    if settings.collateral_proxy is None:
        return SiteProxies.of_environment(environment)
    try:
        return SiteProxies.of_option(settings.collateral_proxy)
    except ValueError:
        raise ConfigError("--collateral-proxy must be an http:// or https:// URL") from None


def http_client(settings: Settings) -> httpx.AsyncClient:
    """Create a client with the site's CAs, pins and proxies.

    Raises:
        ConfigError: the CAs, a pin or the proxy cannot be used.
    """
    return httpx.AsyncClient(
        transport=_SiteTransport(_context(settings), pinned(settings), site_proxies(settings)),
        trust_env=False,  # `site_proxies` reads the environment
        headers={"User-Agent": f"verdictd-py/{__version__}"},
        timeout=CONNECT_SECONDS,
    )


def _context(settings: Settings) -> ssl.SSLContext:
    file = settings.collateral_ca
    if file is not None:
        _read(file, "--collateral-ca")  # its error names the file
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:  # includes ssl.SSLError
        raise ConfigError(f"{file} has no certificates in PEM; check --collateral-ca") from error
    if file is not None:
        # Python 3.13 requires a CA's key usage, which plain `openssl req -x509` does not write.
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    return context


def pinned(settings: Settings) -> dict[_Origin, ssl.SSLContext]:
    """Return the TLS contexts of services whose certificate is pinned.

    The n-th pin is that of the n-th URL. Every other host is verified with the site's CAs.
    """
    if len(settings.collateral_pin) > len(settings.collateral_url):
        raise ConfigError(
            "--collateral-pin has more pins than --collateral-url has URLs; the first pin is for "
            "the first URL"
        )
    contexts: dict[_Origin, ssl.SSLContext] = {}
    for url, pin in zip(settings.collateral_url, settings.collateral_pin, strict=False):
        if not url.lower().startswith("https://"):
            raise ConfigError("--collateral-pin needs an https:// URL in --collateral-url")
        contexts[_origin(httpx.URL(url))] = pinned_context(bytes.fromhex(pin))
    return contexts


def _origin(url: httpx.URL) -> _Origin:
    return (url.scheme, url.host, url.port)


class _SiteTransport(httpx.AsyncBaseTransport):
    """Transport that chooses proxy and TLS rules by the URL of each request.

    Args:
        context: verifies every host without a pin.
        pinned: TLS contexts of pinned services.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        pinned: Mapping[_Origin, ssl.SSLContext],
        proxies: SiteProxies,
    ) -> None:
        self._context = context
        self._pinned = pinned
        self._proxies = proxies
        self._transports: dict[tuple[ssl.SSLContext, str], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        proxy = self._proxies.of(str(request.url))
        if proxy is not None and not proxy.supported:
            raise httpx.UnsupportedProtocol("SOCKS", request=request)
        context = self._pinned.get(_origin(request.url), self._context)
        key = (context, "" if proxy is None else proxy.url)
        if key not in self._transports:
            self._transports[key] = httpx.AsyncHTTPTransport(
                verify=context, proxy=None if proxy is None else self._through(proxy.url)
            )
        return await self._transports[key].handle_async_request(request)

    def _through(self, url: str) -> httpx.Proxy:
        """Return a proxy; one with TLS is verified with the site's CAs, never with a pin."""
        tls = httpx.URL(url).scheme == "https"
        return httpx.Proxy(url, ssl_context=self._context if tls else None)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def _explanations(settings: Settings) -> Callable[[Exception, str], str]:
    """Return a function that tells why a request failed, and names the variable of its proxy."""
    proxies = site_proxies(settings)

    def explain(error: Exception, url: str) -> str:
        proxy = proxies.of(url)
        return cause(error) + ("" if proxy is None else f", through the proxy of {proxy.variable}")

    return explain


def collateral_get(client: httpx.AsyncClient, settings: Settings) -> HttpGet:
    """Return a GET for the collateral service; the subscription key goes to the first URL only.

    Raises:
        ConfigError: the key cannot be used.
    """
    key = None
    if settings.collateral_api_key_file is not None and settings.collateral_url:
        value = _api_key(settings.collateral_api_key_file)
        key = SubscriptionKey(settings.collateral_url[0], value)
    return bounded_get(client, key=key, explain=_explanations(settings))


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
