"""Anonymous memory that several processes of one broker share.

It has no name in any file system: processes inherit its descriptor, and it ends with the last of
them, also after SIGKILL. Pages take memory only when they are first written.
"""

from __future__ import annotations

import mmap
import os


def create(name: str, size: int) -> int:
    """Create memory of `size` zero bytes; return its descriptor, which closes on exec.

    Args:
        name: shown in `/proc/PID/maps` only.
    """
    descriptor = os.memfd_create(f"verdictd-py {name}", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def attach(descriptor: int) -> mmap.mmap:
    """Map the whole memory of a descriptor, for reading and writing."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
