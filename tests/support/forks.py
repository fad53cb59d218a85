"""Work in a forked process that is killed at an instant: what is on the disk then must be whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable


def child(work: Callable[[], None], seconds: float | None = None) -> bool:
    """Do work in a process of its own, and kill it; return whether it was killed.

    This process has no threads, which a fork would not have.

    Args:
        seconds: when it is killed; None: it is not.
    """
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the parent sees the status
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(1)
    return os.WIFSIGNALED(status)
