"""Servers in the background: free ports, files of process ids, and an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_S: Final = 120.0
"""An engine that does not answer after this long has failed. A busy machine needs some seconds."""
_POLL_S: Final = 0.1
_STOP_S: Final = 30.0


class EngineError(Exception):
    """An engine cannot be started; the message has the cause and the remedy."""


class Missing(EngineError):
    """A program of the engine is not installed."""


def program(*names: str, package: str, also: Sequence[str] = ()) -> str:
    """Return the path of the first of these programs that is installed.

    Args:
        package: Debian's package, for the message.
        also: directories to search in addition to PATH.

    Raises:
        Missing: none of them is installed.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), *also])
    for name in names:
        if (path := shutil.which(name, path=places)) is not None:
            return path
    raise Missing(f"{' or '.join(names)} is not installed: apt-get install {package}")


def free_port() -> int:
    """Return a port of 127.0.0.1 that no program listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def remembered(file: Path, make: Callable[[], str]) -> str:
    """Return the text of a file; write what `make` returns if the file does not exist (0600)."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(make())
    return file.read_text()


@dataclass(frozen=True)
class User:
    """User that a server runs as, if this process is root."""

    name: str

    @classmethod
    def unprivileged(cls) -> User | None:
        """Return a user for servers that refuse to run as root; None if this is not root."""
        if os.geteuid() != 0:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return cls("postgres" if "postgres" in known else "nobody")

    def can_reach(self, directory: Path) -> bool:
        """Tell whether the user may enter the directory and all directories above it."""
        done = subprocess.run(
            ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)],
            **self.arguments(),  # type: ignore[call-overload]
            cwd="/",
            capture_output=True,
            check=False,
        )
        return bool(done.returncode == 0)

    def arguments(self) -> dict[str, object]:
        """Return the arguments of `subprocess` that run a program as this user."""
        group = pwd.getpwnam(self.name).pw_gid
        return {"user": self.name, "group": group, "extra_groups": []}


class Server:
    """A server in a session of its own. Its process id and its log are in its directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._pid_file = directory / f"{name}.pid"
        self._log = directory / f"{name}.log"
        self._directory = directory

    @property
    def pid(self) -> int | None:
        """Process id of the running server; None if it does not run.

        The process must have been started with this directory in its command line: another
        process may have been given the id since.
        """
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self._directory) in command else None

    def start(self, command: Sequence[str], answers: Callable[[], bool]) -> None:
        """Start the command if it does not run, and wait until it answers.

        Raises:
            EngineError: it ended, or does not answer in time. The message names its log.
        """
        process: subprocess.Popen[bytes] | None = None
        if self.pid is None:
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    command,
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._pid_file.write_text(str(process.pid))
        wait_until(answers, lambda: process is None or process.poll() is None, self._log)
        if process is not None:
            process.returncode = 0  # it runs on; Popen would warn of that

    def wait(self, answers: Callable[[], bool]) -> None:
        """Wait until the running server answers.

        Raises:
            EngineError: it ended, or does not answer in time.
        """
        wait_until(answers, lambda: self.pid is not None, self._log)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server, and wait until it has ended. Does nothing if it does not run."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, number)
            _wait_for_end(pid)
        self._pid_file.unlink(missing_ok=True)


def _wait_for_end(pid: int) -> None:
    until = time.monotonic() + _STOP_S
    while _runs(pid):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _runs(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # removes the entry of a child of this process
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(answers: Callable[[], bool], alive: Callable[[], bool], log: Path) -> None:
    """Wait until `answers` is true.

    Raises:
        EngineError: `alive` is false, or `START_S` have passed.
    """
    until = time.monotonic() + START_S
    while not answers():
        if not alive() or time.monotonic() > until:
            raise EngineError(f"the server does not start; its log: {log}")
        time.sleep(_POLL_S)


def listens(port: int) -> bool:
    """Tell whether a program accepts connections at a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
