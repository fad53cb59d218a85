"""HTTP client of a KBS with limits; the only module of this package with network access."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable, HandshakeFailed
from verdictd_py.guest.rcar.errors import AnswerInvalid
from verdictd_py.guest.rcar.messages import JsonObject

_LOG: Final = logging.getLogger(__name__)
"""Steps of a guest, for `--log-level`; never a body, a header or a token."""

PREFIX: Final = "/kbs/v0"

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""16 MiB, several times the base64 of the largest resources stored in a KBS."""

_WRONG_NAME: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_WRONG_TIME: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True, slots=True)
class KbsLink:
    """Address of a KBS, and the conditions for trusting it.

    Attributes:
        url: `http(s)://host[:port]`, without a path.
        ca: a PEM file of the CA of its certificate; None for the system's authorities.
        insecure_no_tls_verification: do not verify its certificate; an attacker in between
            can then impersonate the KBS.
        insecure_plain_http: allow `http://` to other hosts; an attacker in between can then
            read and change everything but the encrypted answers.
        timeout_seconds: time limit of each whole answer.

    Raises:
        ConfigError: the URL does not have this form, or is not safe.
    """

    url: str
    ca: Path | None = None
    insecure_no_tls_verification: bool = False
    insecure_plain_http: bool = False
    timeout_seconds: float = 30

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
            scheme, host, rest = url.scheme, url.host, url.raw_path
        except httpx.InvalidURL:
            scheme, host, rest = "", "", b""
        if scheme not in ("http", "https") or not host or rest != b"/" or "@" in self.url:
            raise ConfigError("the KBS's URL is not http://host:port or https://host:port")
        if "?" in self.url or "#" in self.url:
            raise ConfigError("the KBS's URL has a query or fragment: remove it")
        if scheme == "http" and not self.insecure_plain_http and not loopback(host):
            raise ConfigError(
                f"http://{host} lets an attacker in between read and change requests: write "
                "https://, or allow plain HTTP with its insecure option"
            )
        if self.ca is not None and (scheme == "http" or self.insecure_no_tls_verification):
            raise ConfigError(
                "a CA is given, but TLS is off or not verified: remove the CA, or verify TLS"
            )

    def client(self, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
        """Return a client for this KBS only: no redirects, no proxies, cookies of its own.

        Args:
            transport: replaces the network, for tests.

        Raises:
            ConfigError: the CA file cannot be read.
        """
        return httpx.AsyncClient(
            base_url=self.url,
            verify=self._context(),
            follow_redirects=False,
            trust_env=False,  # no proxy and no authority from environment variables
            timeout=self.timeout_seconds,
            transport=transport,
            headers={"accept-encoding": "identity"},  # the size limit applies to these bytes
        )

    def _context(self) -> ssl.SSLContext:
        if httpx.URL(self.url).scheme == "http":
            # An empty trust store: loading the system's authorities is slower than a handshake.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # includes ssl.SSLError
            raise ConfigError(f"{self.ca}: cannot read a CA in PEM from this file") from error
        if self.ca is not None:
            # A KBS's own certificate, named as its CA, need not have a CA's extensions.
            context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        if self.insecure_no_tls_verification:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def loopback(host: str) -> bool:
    """Return whether `host` is a loopback address or `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def exchange(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    json: JsonObject | None = None,
    token: str = "",
    seconds: float,
) -> tuple[int, bytes]:
    """Send one request and return status and body of the answer.

    Args:
        path: without `PREFIX`.
        token: bearer token, empty for none.
        seconds: time limit of the whole answer, however slowly its bytes arrive.

    Raises:
        BrokerUnreachable: no complete answer.
        HandshakeFailed: the KBS's certificate is not trusted, or it has no TLS.
        AnswerInvalid: the answer is larger than `MAX_ANSWER_BYTES`.
    """
    headers = {"authorization": f"Bearer {token}"} if token else {}
    where = client.base_url
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream(method, PREFIX + path, json=json, headers=headers) as answer,
        ):
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise AnswerInvalid(f"the KBS's answer is larger than {MAX_ANSWER_BYTES} bytes")
            _LOG.info("%s %s%s: %d, %d bytes", method, PREFIX, path, answer.status_code, len(body))
            return answer.status_code, bytes(body)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise BrokerUnreachable("the KBS did not answer in time") from error
    except httpx.ConnectError as error:
        raise _unconnected(error, where) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # The error's text may contain parts of the answer.
        hint = "; it may use TLS: write https://" if where.scheme == "http" else ""
        raise BrokerUnreachable(
            f"{where} does not answer with valid HTTP ({type(error).__name__}){hint}"
        ) from None


def _unconnected(error: httpx.ConnectError, where: httpx.URL) -> BrokerRefused:
    """Return the error for a failed connection: the certificate, TLS, or no listener."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return HandshakeFailed(f"the certificate of {where} {_certificate_problem(cause)}")
    if cause is not None:
        return HandshakeFailed(f"{where} does not use TLS, or no version that this guest supports")
    return BrokerUnreachable(f"cannot connect to {where}: is it running?")


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    """Return why a certificate is not accepted, with the remedy."""
    if error.verify_code in _WRONG_NAME:
        return "has another name than this host: use a name of the certificate in the URL"
    if error.verify_code in _WRONG_TIME:
        return f"is not valid now ({error.verify_message}): renew it, or correct this guest's clock"
    return f"is not trusted here ({error.verify_message}): name its CA"
