"""Real Valkey or Redis servers on loopback, each in a directory of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
needs_valkey = pytest.mark.skipif(
    PROGRAM is None, reason="neither valkey-server nor redis-server is installed"
)


@dataclass
class ValkeyServer:
    """A server that can be stopped and started again at the same port.

    Attributes:
        options: further options of the server.
    """

    directory: Path
    options: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self.directory / "valkey.sock"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        if PROGRAM is None:
            pytest.skip("neither valkey-server nor redis-server is installed")
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        listen = () if "--tls-port" in self.options else ("--port", str(self.port))
        self.process = subprocess.Popen(
            [
                *(PROGRAM, *listen, "--bind", "127.0.0.1", "--dir", str(self.directory)),
                *("--unixsocket", str(self.socket), "--save", "", "--daemonize", "no"),
                *self.options,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "eady to accept connections" in line:
                return
        raise AssertionError("the server did not start")

    def stop(self, *, kill: bool = False) -> None:
        """End the server; its port stays reserved for the next start."""
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.communicate()
            self.process = None

    def command(self, *arguments: str) -> str:
        """Run one command as `redis-cli` does; return the server's answer as it was sent."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            encoded = [argument.encode() for argument in arguments]
            parts = [b"*%d\r\n" % len(encoded)]
            parts += [b"$%d\r\n%s\r\n" % (len(part), part) for part in encoded]
            connection.sendall(b"".join(parts))
            return connection.recv(1024 * 1024).decode()


@contextmanager
def running_valkey(directory: Path, *options: str) -> Iterator[ValkeyServer]:
    """Run a server until the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    server = ValkeyServer(directory, options)
    server.start()
    try:
        yield server
    finally:
        server.stop(kill=True)
