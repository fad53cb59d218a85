"""GET over HTTP with bounds: the only place that talks to a collateral service."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx

from verdictd_py.errors import CollateralUnavailable
from verdictd_py.ports.tees import HttpAnswer, HttpGet
from verdictd_py.tees.intel.collateral.pcs import MAX_ANSWER_BYTES

MAX_SECONDS: Final = 20.0
"""For one answer, however slowly its bytes come; a guest waits for four of them."""


def bounded_get(client: httpx.AsyncClient, *, seconds: float = MAX_SECONDS) -> HttpGet:
    """A GET that ends: neither a dead nor a talkative service keeps anybody waiting.

    Args:
        client: with its TLS, proxy and headers; redirects are not followed.
        seconds: for one answer as a whole.
    """

    async def get(url: str) -> HttpAnswer:
        try:
            async with asyncio.timeout(seconds), client.stream("GET", url) as answer:
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise CollateralUnavailable(f"more than {MAX_ANSWER_BYTES} bytes")
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return HttpAnswer(answer.status_code, headers, bytes(body))
        except TimeoutError:
            raise CollateralUnavailable(f"no whole answer within {seconds:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The text may hold the URL, and with it a password of the proxy's.
            raise CollateralUnavailable(f"no answer: {type(error).__name__}") from None

    return get
