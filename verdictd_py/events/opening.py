"""Opening of audit files that another program may have replaced by something else."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

COMPRESSED: Final = ".gz"

NOT_A_FILE: Final = "is not a regular file"

DAMAGED: Final = (EOFError, gzip.BadGzipFile, zlib.error)
"""Errors of a compressed file that was cut or changed."""

_BUFFER_BYTES: Final = 1024 * 1024


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a named pipe or a device would wait for ever, or never end.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        require_regular(descriptor, path)
        return open(descriptor, "rb", buffering=_BUFFER_BYTES)  # noqa: PTH123  # a descriptor
    except OSError:
        os.close(descriptor)
        raise


def require_regular(descriptor: int, path: Path) -> None:
    """Refuse anything but a regular file.

    Raises:
        OSError: the descriptor is of something else.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextmanager
def open_trail(path: Path) -> Iterator[BinaryIO]:
    """Open an audit file, which may be compressed; reading raises one of `DAMAGED` then.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as stream:
        if path.suffix == COMPRESSED:
            with gzip.GzipFile(fileobj=stream, mode="rb") as content:
                yield cast("BinaryIO", content)
        else:
            yield stream
