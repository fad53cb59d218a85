"""What a guest worker receives at its start, and the start of its process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import verdictd_py
from verdictd_py.config import ENVIRONMENT_PREFIX, Settings, Unsafe
from verdictd_py.daemon.workers.channel import Channel
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError
from verdictd_py.ports import Events

MODULE: Final = "verdictd_py.cli.worker"
"""Module of the process. It is private: no command, and without compatibility between versions."""

MAX_START_BYTES: Final = 1024 * 1024
_LENGTH_BYTES: Final = 4

_OF_SERVICE: Final = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""Beginnings of the variables by which the service manager addresses the operator process."""


@dataclass(frozen=True, slots=True)
class Start:
    """Everything that a worker needs before it can build its parts.

    It is the first message on the channel, and contains secrets.

    Attributes:
        number: number of the worker, from 1; its replacement has the same one.
        count: number of all workers.
        settings: the settings in force.
        sockets: inherited descriptors of listening sockets, by name of the listener.
        descriptors: other inherited descriptors by name, such as shared memory.
        kbs: exported keys of the HTTP listener; None without it.
    """

    number: int
    count: int
    settings: Settings
    unsafe: Unsafe
    sockets: Mapping[str, int]
    descriptors: Mapping[str, int] = field(default_factory=dict)
    kbs: Mapping[str, str] | None = field(default=None, repr=False)

    def encode(self) -> bytes:
        members: dict[str, JsonValue] = {
            "number": self.number,
            "count": self.count,
            "settings": self.settings.exported(),
            "unsafe": self.unsafe.exported(),
            "sockets": dict(self.sockets),
            "descriptors": dict(self.descriptors),
            "kbs": None if self.kbs is None else dict(self.kbs),
        }
        data = json.dumps(members).encode()
        return len(data).to_bytes(_LENGTH_BYTES) + data

    @classmethod
    def receive(cls, connected: socket.socket) -> Self:
        """Receive the first message of the channel (blocking).

        Raises:
            EOFError: the operator process has ended.
        """
        size = int.from_bytes(_receive(connected, _LENGTH_BYTES))
        if size > MAX_START_BYTES:
            raise EOFError
        members = json.loads(_receive(connected, size))
        members["settings"] = Settings.imported(members["settings"])
        members["unsafe"] = Unsafe.imported(members["unsafe"])
        return cls(**members)


async def spawn(start: Start, events: Events) -> tuple[Process, Channel]:
    """Start the process of a worker, and connect the channel to it.

    The process is a new program, because a process with threads of gRPC must not fork.

    Raises:
        ConfigError: it cannot be started.
    """
    own, other = socket.socketpair()
    own.setblocking(False)
    inherited = (other.fileno(), *start.sockets.values(), *start.descriptors.values())
    try:
        with other:
            process = await asyncio.create_subprocess_exec(
                # -P: the working directory is no place for modules of the broker.
                *(sys.executable, "-P", "-m", MODULE, str(other.fileno())),
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=inherited,
                env=_environment(os.environ),
            )
    except OSError as error:
        own.close()
        raise ConfigError(
            f"cannot start a guest worker: {error.strerror}; check the limits of processes and "
            "memory, or start with --workers 1"
        ) from error
    try:
        await asyncio.get_running_loop().sock_sendall(own, start.encode())
    except OSError:  # it has ended already: the first call will report it
        pass
    except BaseException:
        own.close()
        process.kill()
        raise
    return process, await Channel.open(own, events)


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: without settings, with the path of this package."""
    prefixes = (ENVIRONMENT_PREFIX, *_OF_SERVICE)
    inherited = {
        name: text for name, text in environment.items() if not name.upper().startswith(prefixes)
    }
    package = str(Path(verdictd_py.__file__).parents[1])
    if package not in sys.path[1:]:  # found in the working directory, which -P excludes
        paths = [package, environment.get("PYTHONPATH", "")]
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return inherited


def _receive(connected: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = connected.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
