"""GET over HTTP with limits, for collateral services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from verdictd_py.errors import CollateralUnavailable
from verdictd_py.ports.tees import HttpAnswer, HttpGet
from verdictd_py.tees.intel.collateral.pcs import MAX_ANSWER_BYTES

MAX_SECONDS: Final = 20.0
"""Time limit of one whole answer; a guest waits for at most two in succession."""

_IDENTITY: Final = "identity"


@dataclass(frozen=True, slots=True)
class SubscriptionKey:
    """Subscription key of a collateral service, a secret.

    Attributes:
        url: any URL of the service: the key is sent to its origin (scheme, host and port) only.
        value: the key.
    """

    url: str
    value: str = field(repr=False)

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the headers of a request, without the key if it is for another origin."""
        if _origin(url) != _origin(self.url):
            return {}
        return {"Ocp-Apim-Subscription-Key": self.value}


def _type_of(error: Exception, url: str) -> str:
    del url
    return f"no answer: {type(error).__name__}"


def bounded_get(
    client: httpx.AsyncClient,
    *,
    key: SubscriptionKey | None = None,
    seconds: float = MAX_SECONDS,
    explain: Callable[[Exception, str], str] = _type_of,
) -> HttpGet:
    """Return a GET with limits for the time and the size of an answer.

    Redirects are not followed. Compressed answers are refused, because a small one can expand
    to any size; the size is that of the bytes on the wire.

    Args:
        client: client with TLS and proxy; it sends no credentials to the service.
        key: subscription key.
        seconds: time limit of one whole answer.
        explain: returns why the request of a URL failed. The text of the exception may contain
            the URL of a proxy with its password.
    """

    async def get(url: str) -> HttpAnswer:
        try:
            own = {} if key is None else key.headers(url)
            headers = {"Accept-Encoding": _IDENTITY, **own}
            async with (
                asyncio.timeout(seconds),
                client.stream("GET", url, headers=headers, follow_redirects=False) as answer,
            ):
                return await _read(answer)
        except TimeoutError:
            raise CollateralUnavailable(f"no complete answer within {seconds:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CollateralUnavailable(explain(error, url)) from None

    return get


async def _read(answer: httpx.Response) -> HttpAnswer:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if headers.get("content-encoding", _IDENTITY).strip().lower() != _IDENTITY:
        raise CollateralUnavailable("the answer is compressed, although it must not be")
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise CollateralUnavailable(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    return HttpAnswer(answer.status_code, headers, bytes(body))


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = httpx.URL(url)
    ports = {"http": 80, "https": 443}
    return parts.scheme, parts.host, parts.port or ports.get(parts.scheme)
