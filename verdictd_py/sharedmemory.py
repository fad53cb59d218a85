"""Anonymous memory that several processes of one broker share.

It has no name in any file system: processes inherit its descriptor, and it ends with the last of
them, also after SIGKILL. Pages take memory only when they are first written.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Final

from verdictd_py.errors import ConfigError

_NOEXEC_SEAL: Final = 0x0008
"""MFD_NOEXEC_SEAL of memfd_create(2), Linux 6.3: the sysctl `vm.memfd_noexec=2` requires it."""

_REMEDY: Final = "check the limits of open files and memory, or start with --workers 1"


def create(name: str, size: int) -> int:
    """Create memory of `size` zero bytes; return its descriptor, which closes on exec.

    Args:
        name: shown in `/proc/PID/maps` only.

    Raises:
        ConfigError: the kernel refuses it.
    """
    try:
        descriptor = _create(f"verdictd-py {name}")
    except OSError as error:
        raise ConfigError(f"cannot create shared memory: {error.strerror}; {_REMEDY}") from error
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def attach(descriptor: int) -> mmap.mmap:
    """Map the whole memory of a descriptor, for reading and writing.

    Raises:
        ConfigError: the kernel refuses it, such as at a limit of addresses.
    """
    size = os.fstat(descriptor).st_size
    try:
        return mmap.mmap(descriptor, size)
    except OSError as error:
        raise ConfigError(
            f"cannot use {size // 1024} KiB of addresses for shared memory: {error.strerror}; "
            "remove the limit with 'ulimit -v unlimited', or start with --workers 1"
        ) from error


def _create(name: str) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, os.MFD_CLOEXEC)
