"""GET over HTTP with limits, for collateral services."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx

from verdictd_py.errors import CollateralUnavailable
from verdictd_py.ports.tees import HttpAnswer, HttpGet
from verdictd_py.tees.intel.collateral.pcs import MAX_ANSWER_BYTES

MAX_SECONDS: Final = 20.0
"""Time limit of one whole answer; a guest waits for four of them."""


def bounded_get(client: httpx.AsyncClient, *, seconds: float = MAX_SECONDS) -> HttpGet:
    """Return a GET with limits for the time and the size of an answer.

    Args:
        client: client with TLS, proxy and headers; redirects are not followed.
        seconds: time limit of one whole answer.
    """

    async def get(url: str) -> HttpAnswer:
        try:
            async with asyncio.timeout(seconds), client.stream("GET", url) as answer:
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise CollateralUnavailable(
                            f"the answer has more than {MAX_ANSWER_BYTES} bytes"
                        )
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return HttpAnswer(answer.status_code, headers, bytes(body))
        except TimeoutError:
            raise CollateralUnavailable(f"no complete answer within {seconds:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The text may contain the URL of the proxy, with its password.
            raise CollateralUnavailable(f"no answer: {type(error).__name__}") from None

    return get
