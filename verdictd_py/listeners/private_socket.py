"""Unix socket that only this process can connect to."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from verdictd_py.errors import ConfigError

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # a new directory with mode 0700 in it is used
"""Directory that containers can write even if their root and /tmp are read-only."""


class PrivateSocket:
    """Unix socket on which gRPC listens, and to which only this process connects.

    Its file exists only while gRPC binds it. Afterwards it is reached by a descriptor of this
    process (open(2), "O_PATH").
    """

    def __init__(self, listen: Callable[[str], object]) -> None:
        """Let gRPC bind the socket.

        Args:
            listen: binds a gRPC server to an address.

        Raises:
            ConfigError: there is no directory in which it can be bound.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="verdictd-py-", dir=_place()) as directory:
                path = Path(directory) / "grpc"
                listen(f"unix:{path}")
                self._file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"cannot create a temporary socket: {error}; set TMPDIR to a directory with a "
                "short name in which this user can create files"
            ) from error

    def connect(self, name: str) -> socket.socket:
        """Return a connection to gRPC, which knows it by its name in the abstract namespace.

        Raises:
            OSError: gRPC does not accept it.
        """
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connected.bind(f"\0{name}")
            connected.connect(f"/proc/self/fd/{self._file}")
        except BaseException:
            connected.close()
            raise
        return connected

    def close(self) -> None:
        os.close(self._file)


def _place() -> str:
    """Return a directory for temporary files, also where a container has a read-only root."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return _SHARED_MEMORY
