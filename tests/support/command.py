"""Runs the real command in processes of its own, several at once: starting one is slow."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from verdictd_py.cli.main import main
from verdictd_py.cli.parsing import printable

COMMAND = (sys.executable, "-m", "verdictd_py.cli.main")
OUR_VARIABLES: Final = ("VERDICTD_", "VERDICT_PY_")
"""Beginnings of the environment variables that these programs read."""

_AT_ONCE = 4


@dataclass(frozen=True)
class Run:
    """One command line.

    Attributes:
        wrapper: a program and its arguments that runs the command.
    """

    arguments: Sequence[str]
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which is one JSON object and nothing else."""
        found = json.loads(self.stdout)
        assert isinstance(found, dict)
        return found

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of a list on standard output, which is one JSON document."""
        return list(self.json["items"])

    def complaint(self, status: int, program: str = "verdictd-py") -> str:
        """The one line on standard error of a command that failed with `status`.

        Standard output is empty, or the document of the same error.
        """
        assert self.status == status, self
        assert self.stderr.endswith("\n"), self
        assert self.stderr.count("\n") == 1, self
        assert self.stderr.startswith(f"{program}: "), self
        line = self.stderr.removeprefix(f"{program}: ").rstrip("\n")
        if self.stdout:
            error = self.json
            assert (error["schema"], error["status"]) == ("verdictd.v1/error", status), self
            assert printable(error["message"]) == line, self
        return line


def run(one: Run) -> Ended:
    """Runs `one` to its end, with no setting of ours in its environment."""
    done = subprocess.run(
        [*one.wrapper, *COMMAND, *one.arguments],
        input=one.stdin,
        capture_output=True,
        env={**environment(), **one.environment},
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode())


def run_all(cases: Mapping[str, Run]) -> dict[str, Ended]:
    """Runs every case; how they ended, by name."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(cases, pool.map(run, cases.values()), strict=True))


def run_here(arguments: Sequence[str], capfdbinary: pytest.CaptureFixture[bytes]) -> Ended:
    """Runs a command in this process, whatever file descriptors its parts write to."""
    try:
        status = main(arguments)
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else -1  # -1: no status of ours
    stdout, stderr = capfdbinary.readouterr()
    return Ended(status, stdout, stderr.decode())


def environment() -> dict[str, str]:
    """The caller's, without settings of the broker, and with this checkout's package."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(OUR_VARIABLES)}
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


class RunningDaemon:
    """A daemon in a process of its own, whose log is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []

    def wait_for(self, event: str, **fields: str) -> dict[str, Any]:
        """The next line of the log with that event and these fields.

        pytest's own timeout ends a test that waits for ever.
        """
        assert self.process.stderr is not None
        for line in self.process.stderr:
            record = json.loads(line)
            self.seen.append(record)
            if record["event"] == event and fields.items() <= record.items():
                return dict(record)
        raise AssertionError(f"ended without {event}: {self.seen}")

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int) -> tuple[int, str]:
        """Exit status after a signal, and all of standard output."""
        self.send(number)
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.seen += [json.loads(line) for line in self.process.stderr]
        stdout = self.process.stdout.read()
        return self.process.wait(timeout=120), stdout


@contextmanager
def running_daemon(
    *arguments: str, wrapper: Sequence[str] = (), **more: str
) -> Iterator[RunningDaemon]:
    """Starts the daemon with a log in JSON, and kills it at the end if it still runs.

    Args:
        wrapper: a program and its arguments that runs the daemon.
        more: environment.
    """
    process = subprocess.Popen(
        [*wrapper, *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "VERDICTD_LOG_FORMAT": "json", **more},
    )
    with process:
        try:
            yield RunningDaemon(process)
        finally:
            if process.poll() is None:
                process.kill()


def port_of(address: str) -> int:
    """The port in `host:port`."""
    found = re.search(r":(\d+)$", address)
    assert found is not None
    return int(found[1])


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended that need not be a child of this one."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()
    os.close(process)
