"""Causes of HTTP requests that got no answer, in the words of operators."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import httpx

_WRONG_NAME: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_ERRNO: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "the connection was reset",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EHOSTUNREACH: "the host is unreachable",
}

_NO_TLS: Final = "; the server seems to use no TLS: check https:// and the port in --collateral-url"
_PLAIN_ANSWERS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""Reasons of OpenSSL, by version, for an answer that is not TLS."""

_KINDS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (socket.gaierror, "unknown host name"),
    (httpx.ConnectTimeout, "no connection in time"),
    (
        httpx.RemoteProtocolError,
        "the answer is not HTTP; check http:// or https://, and the port, in --collateral-url",
    ),
    (httpx.InvalidURL, "the URL is invalid"),
    (httpx.ProxyError, "the proxy refused the request"),
    (
        httpx.UnsupportedProtocol,
        "SOCKS proxies are not supported; give --collateral-proxy, or add the host to NO_PROXY",
    ),
)
"""Texts of other exceptions, by type."""


class WrongPin(ssl.SSLCertVerificationError):
    """The service's certificate is not the pinned one.

    Attributes:
        presented: SHA-256 of the presented certificate, in hex.
    """

    presented = ""


def cause(error: Exception) -> str:
    """Return why a request failed, in one line.

    The texts of exceptions are not used: they may contain the URL of a proxy with its password.
    """
    for link in _chain(error):
        if (text := _text(link)) is not None:
            return text
    return f"no answer ({type(error).__name__})"


def _text(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, OSError) and error.errno in _ERRNO:
        return _ERRNO[error.errno]
    return next((text for kind, text in _KINDS if isinstance(error, kind)), None)


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, WrongPin):
        return (
            f"the certificate is not the pinned one, its SHA-256 is {error.presented}; "
            "check --collateral-pin"
        )
    if not isinstance(error, ssl.SSLCertVerificationError):
        hint = _NO_TLS if error.reason in _PLAIN_ANSWERS else ""
        return f"TLS failed ({error.reason or type(error).__name__}){hint}"
    if error.verify_code in _WRONG_NAME:
        return (
            "the certificate has another name than the URL's host; correct --collateral-url, or "
            "give --collateral-pin if the certificate has no names"
        )
    return (
        f"the certificate is not trusted ({error.verify_message}); "
        "give --collateral-ca or --collateral-pin"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the innermost exceptions first: the outer ones hide the cause."""
    inner = error.__cause__ or error.__context__
    if inner is not None and inner is not error:
        yield from _chain(inner)
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _chain(member)
    yield error
