"""Mutual exclusion of changes of a data directory, within this process and with others.

The lock is `flock` on one file in the directory. The kernel releases it when its holder
dies, so there are no stale locks to clean up. It is held only while content is compared and
replaced, never during the check of a policy or while waiting for a client.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, TypeVar

from verdictd_py.errors import StorageError
from verdictd_py.storage import pools
from verdictd_py.storage.directory import Directory, DirectoryBusy
from verdictd_py.storage.files import Steps

WAIT_SECONDS: Final = 10.0
"""Maximum wait for other changes. Each of them holds the lock for a few milliseconds."""

_FIRST_PAUSE: Final = 0.002  # seconds
_LONGEST_PAUSE: Final = 0.05  # seconds

Result = TypeVar("Result")


async def exclusively(
    directory: Directory, change: Callable[[], Steps[Result]], *, wait_seconds: float = WAIT_SECONDS
) -> Result:
    """Make a change in threads while no other change of the directory is made.

    Waiting blocks neither the event loop nor a thread: the lock is tried again after a pause.
    Guests are therefore served while another process holds the lock.

    Raises:
        StorageError: others held the lock for `wait_seconds`, or the lock file is unusable.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            return await pools.write(_locked(directory, change))
        except DirectoryBusy:
            if clock() >= deadline:
                raise StorageError(
                    f"cannot be changed: another process has held the data directory for "
                    f"{wait_seconds:g} s; stop it, or try again"
                ) from None
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        pause = min(2 * pause, _LONGEST_PAUSE)


def _locked(directory: Directory, change: Callable[[], Steps[Result]]) -> Steps[Result]:
    with directory.locked():
        return (yield from change())
