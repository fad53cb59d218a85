"""Reading of large inputs in threads, so that the event loop continues to serve other clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

SMALL_BYTES: Final = 64 * 1024
"""Maximum size of an input that is read on the event loop, in about a millisecond."""

_THREADS: Final = ThreadPoolExecutor(2, thread_name_prefix="read")
"""Threads of their own: large inputs must not delay the identification of other callers."""

Result = TypeVar("Result")


async def read(size: int, decode: Callable[[], Result]) -> Result:
    """Return the result of `decode`; run it in a thread if its input is large.

    Args:
        size: size of the input in bytes.
    """
    if size <= SMALL_BYTES:
        return decode()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, decode)
