"""Threads for a slow disk: requests of operators that wait for it do not delay guests.

Each function runs a call in threads of its own, so that a disk that is slow at one type of work
keeps free the threads of the others. Waiting calls are queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_READ: Final = ThreadPoolExecutor(8, thread_name_prefix="disk-read")
_LIST: Final = ThreadPoolExecutor(2, thread_name_prefix="disk-list")
_WRITE: Final = ThreadPoolExecutor(4, thread_name_prefix="disk-write")


async def read(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Run what a guest may wait for: it reads a few files by their names."""
    return await _run(_READ, partial(call, *arguments, **more))


async def walk(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Run what reads whole directories: lists for operators."""
    return await _run(_LIST, partial(call, *arguments, **more))


async def write(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Run what changes files, or waits until they are on disk (fsync) or for a lock."""
    return await _run(_WRITE, partial(call, *arguments, **more))


async def _run(threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, call)
