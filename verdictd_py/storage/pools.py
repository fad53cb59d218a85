"""Threads for a slow disk: requests of operators that wait for it do not delay guests.

Reads, lists, writes and fsync have threads of their own, so that a disk that is slow at one type
of work keeps free the threads of the others. Waiting calls are queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, Generic, ParamSpec, TypeVar

from verdictd_py.storage.files import Steps, failure_of_fsync

P = ParamSpec("P")
T = TypeVar("T")

_READ: Final = ThreadPoolExecutor(8, thread_name_prefix="disk-read")
_LIST: Final = ThreadPoolExecutor(2, thread_name_prefix="disk-list")
_WRITE: Final = ThreadPoolExecutor(4, thread_name_prefix="disk-write")
_FSYNC: Final = ThreadPoolExecutor(4, thread_name_prefix="disk-fsync")


async def read(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Run what a guest may wait for: it reads a few files by their names."""
    return await _run(_READ, partial(call, *arguments, **more))


async def walk(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
    """Run what reads directories or files for operators only."""
    return await _run(_LIST, partial(call, *arguments, **more))


async def write(steps: Steps[T]) -> T:
    """Make a change of files, and return its result.

    The change is completed even if this task is cancelled meanwhile.
    """
    change = _Change(steps)
    change.start()
    return await asyncio.wrap_future(change.done)


async def _run(threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, call)


class _Change(Generic[T]):
    """A change of files, which returns to the threads for writes after each fsync.

    Attributes:
        done: has the result.
    """

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.done: Future[T] = Future()
        self.done.set_running_or_notify_cancel()  # from now on it cannot be cancelled

    def start(self) -> None:
        self._submit(_WRITE, self._continue)

    def _continue(self, error: OSError | None = None) -> None:
        """Run the change up to its next fsync.

        Args:
            error: failure of the last fsync.
        """
        try:
            descriptor = next(self._steps) if error is None else self._steps.throw(error)
        except StopIteration as end:
            self.done.set_result(end.value)
        except BaseException as failure:  # noqa: BLE001  # the caller gets it
            self.done.set_exception(failure)
        else:
            self._submit(_FSYNC, partial(self._synchronize, descriptor))

    def _synchronize(self, descriptor: int) -> None:
        self._submit(_WRITE, partial(self._continue, failure_of_fsync(descriptor)))

    def _submit(self, threads: ThreadPoolExecutor, call: Callable[[], None]) -> None:
        try:
            threads.submit(call)
        except RuntimeError as error:  # the process ends
            self._steps.close()
            self.done.set_exception(error)
