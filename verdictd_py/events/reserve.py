"""Reserve of disk space: a file that is emptied when the disk is full, so that records can follow.

Whatever else fills the disk, the trail then has this space before it has none. Other programs can
take it too, from that moment on. Put `audit/` on a file system of its own to rule that out.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.events.budgets import REFUSALS_BYTES

FILE: Final = ".reserve"


class Reserve:
    """The reserve of a directory, which all processes of a broker share.

    Args:
        size: its size in bytes; 0 for none.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self._path = directory / FILE
        self._size = size

    def fill(self) -> None:
        """Reserve the space, if it is not reserved and the disk has much more.

        A file system that cannot reserve gets a file of zeros. An error is ignored, because
        nothing depends on the reserve while there is space.
        """
        if not self._size:
            return
        with suppress(OSError):
            space = os.statvfs(self._path.parent)
            if space.f_blocks and space.f_bavail * space.f_frsize < self._size + REFUSALS_BYTES:
                return
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                if _is_own(descriptor) and os.fstat(descriptor).st_size < self._size:
                    os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)

    def release(self) -> bool:
        """Release the space; return whether there was any."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if not _is_own(descriptor):
                return False
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, 0)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return size > 0


def _is_own(descriptor: int) -> bool:
    """Return whether a file has no other name: truncating it would empty another file as well."""
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
