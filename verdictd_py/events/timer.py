"""Timer of the kernel (timerfd_create(2)), for which a thread waits without a lock of Python."""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from typing import Final

AT_ONCE: Final = 0.0


class Timer:
    """Timer that wakes one thread. To set it costs less than to wake a thread.

    Raises:
        OSError: there is no descriptor for it.
    """

    def __init__(self) -> None:
        self._descriptor = _checked(_LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC))
        weakref.finalize(self, os.close, self._descriptor).atexit = False  # a thread may wait

    def set(self, seconds: float) -> None:
        """Have the timer expire once, some time from now, instead of when it was set to."""
        nanoseconds = max(1, int(seconds * 1e9))
        new = _Timerspec(0, 0, *divmod(nanoseconds, 1_000_000_000))
        _checked(_LIBC.timerfd_settime(self._descriptor, 0, ctypes.byref(new), None))

    def wait(self) -> None:
        """Wait until it has expired since the last call."""
        os.read(self._descriptor, 8)


class _Timerspec(ctypes.Structure):
    """`struct itimerspec`: the interval, which is zero, and the time until it expires."""

    _fields_ = tuple(
        (name, ctypes.c_long)
        for name in ("interval", "interval_nanoseconds", "seconds", "nanoseconds")
    )


_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
