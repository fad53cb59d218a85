"""HTTP to a KBS with bounds: the only place where RCAR touches the network."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable
from verdictd_py.guest.rcar.errors import AnswerInvalid
from verdictd_py.guest.rcar.messages import JsonObject

PREFIX: Final = "/kbs/v0"

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""16 MiB: base64 of the largest resources that anybody keeps in a KBS, several times over."""


@dataclass(frozen=True, slots=True)
class KbsLink:
    """Where a KBS is, and how far it is trusted.

    Attributes:
        url: `http(s)://host[:port]`, nothing behind it.
        ca: a PEM file that its certificate must lead to; None for the system's authorities.
        insecure_no_tls_verification: whoever is in between can be the KBS.
        insecure_plain_http: allow `http://` to other hosts; whoever is in between reads and
            changes everything but the encrypted answers.
        timeout_seconds: for each answer as a whole.

    Raises:
        ConfigError: the URL is none of these, or is not safe.
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
            raise ConfigError("the KBS's URL is no http://host:port or https://host:port")
        if "?" in self.url or "#" in self.url:
            raise ConfigError("the KBS's URL has something behind the port: leave it away")
        if scheme == "http" and not self.insecure_plain_http and not loopback(host):
            raise ConfigError(
                f"http://{host} is read and changed by whoever is in between: write https://, or "
                "allow plain HTTP by its insecure name"
            )
        if self.ca is not None and (scheme == "http" or self.insecure_no_tls_verification):
            raise ConfigError("a CA is given, and would not be asked: TLS is off or not verified")

    def client(self, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
        """A client for this KBS alone: no redirects, no proxies, cookies of its own.

        Args:
            transport: answers in place of the network.

        Raises:
            ConfigError: the CA cannot be used.
        """
        return httpx.AsyncClient(
            base_url=self.url,
            verify=self._context(),
            follow_redirects=False,
            trust_env=False,  # no proxy and no authority that nobody named
            timeout=self.timeout_seconds,
            transport=transport,
            headers={"accept-encoding": "identity"},  # so that the bound is that of the bytes
        )

    def _context(self) -> ssl.SSLContext:
        if httpx.URL(self.url).scheme == "http":
            # It trusts nobody: reading the system's authorities takes longer than a handshake.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # ssl.SSLError among them
            raise ConfigError(f"{self.ca}: no CA in PEM can be read there") from error
        if self.ca is not None:
            # A KBS's own certificate, named as its CA, need not have a CA's extensions.
            context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        if self.insecure_no_tls_verification:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def loopback(host: str) -> bool:
    """Whether only this machine can be there."""
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
    """One request and its answer: status and body.

    Args:
        path: behind `PREFIX`.
        token: bearer token, empty for none.
        seconds: for the answer as a whole, however slowly its bytes come.

    Raises:
        BrokerUnreachable: no whole answer.
        BrokerRefused: its certificate is not trusted.
        AnswerInvalid: it is larger than `MAX_ANSWER_BYTES`.
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
            return answer.status_code, bytes(body)
    except TimeoutError as error:
        raise BrokerUnreachable("the KBS is too slow") from error
    except httpx.TimeoutException as error:
        raise BrokerUnreachable("the KBS is too slow") from error
    except httpx.ConnectError as error:
        raise _unconnected(error, where) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # The text may hold what the answer held.
        perhaps = "; perhaps it speaks TLS: write https://" if where.scheme == "http" else ""
        raise BrokerUnreachable(
            f"{where} does not speak HTTP as it should ({type(error).__name__}){perhaps}"
        ) from None


def _unconnected(error: httpx.ConnectError, where: httpx.URL) -> BrokerRefused:
    """What went wrong below HTTP: the certificate, TLS, or that nobody is there."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, ssl.SSLError):
        below = below.__cause__ or below.__context__
    if isinstance(below, ssl.SSLCertVerificationError):
        return BrokerRefused(f"the certificate of {where} is not trusted here: name its CA")
    if below is not None:
        return BrokerRefused(f"{where} speaks no TLS, or none that this guest does")
    return BrokerUnreachable(f"cannot connect to {where}: is it running?")
