"""Threads for work that would stall the event loop: the one place that decides what is large.

Work in Python gives the interpreter lock back every few milliseconds, so that the event loop
continues. A single call of a library that holds the lock stalls the loop even from a thread: such
calls need a limit of their own (docs/reliability.md, "Stalls of the event loop").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

SMALL_BYTES: Final = 64 * 1024
"""Maximum size of an input that is handled on the event loop, in about a millisecond."""

LARGE: Final = SMALL_BYTES + 1
"""Size of work that is always done in a thread."""

_THREADS: Final = ThreadPoolExecutor(2, thread_name_prefix="large")
"""Threads of their own: large inputs must not delay the identification of other callers."""

Result = TypeVar("Result")


async def offload(size: int, work: Callable[[], Result]) -> Result:
    """Return the result of `work`; run it in a thread if its input is large.

    If the caller is cancelled meanwhile, this still lasts until the thread has finished, so that
    limits of the caller also count work that no client waits for any more.

    Args:
        size: size of the input in bytes or characters.
        work: a function that uses nothing of the event loop.
    """
    if size <= SMALL_BYTES:
        return work()
    working = asyncio.get_running_loop().run_in_executor(_THREADS, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait((working,))
        if not working.cancelled():
            working.exception()  # the caller is gone; this prevents a warning of asyncio
        raise
