"""Protection of the process's memory, and directives of a sandbox under which it cannot run."""

from __future__ import annotations

import mmap
import resource
import socket
from contextlib import suppress
from typing import Final

from verdictd_py.errors import ConfigError

_PR_SET_DUMPABLE: Final = 4  # include/uapi/linux/prctl.h
_MCL_CURRENT: Final = 1  # include/uapi/asm-generic/mman.h
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4


def harden() -> bool:
    """Forbid core dumps and debuggers of the same user, and lock the memory if that is allowed.

    Memory is locked only if its amount is not limited (`ulimit -l unlimited`, LimitMEMLOCK=):
    the limit counts addresses, and the policy engine reserves gigabytes of them. Locked pages
    are never written to swap. A page that was never touched stays free.

    Returns:
        Whether the memory is locked.
    """
    import ctypes  # noqa: PLC0415  # fails without executable memory, which is checked before

    with suppress(OSError, ValueError):  # a sandbox may forbid it, and has its own limit then
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY:
        return False
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def require_executable_memory() -> None:
    """Refuse a sandbox without writable executable memory.

    The policy engine (wasmtime) and pyOpenSSL's callbacks make machine code at run time.

    Raises:
        ConfigError: the process may not create such memory.
    """
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        raise ConfigError(
            "this process may not create executable memory, which the policy engine needs; set "
            "MemoryDenyWriteExecute=no in the unit of systemd"
        ) from None


def require_local_sockets() -> None:
    """Refuse a sandbox without unix sockets.

    The client API and the notifications to the service manager need them.

    Raises:
        ConfigError: the process may not create them.
    """
    try:
        socket.socket(socket.AF_UNIX).close()
    except OSError as error:
        raise ConfigError(
            f"this process may not create unix sockets ({(error.strerror or '').lower()}), which "
            "the client API and the service manager need; add AF_UNIX to "
            "RestrictAddressFamilies= in the unit of systemd"
        ) from None
