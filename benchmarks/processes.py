"""Processes under test: daemons, raw servers and clients, with their CPU time and memory."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

CHECKOUT: Final = Path(__file__).resolve().parents[1]
ENGINE_CACHE: Final = CHECKOUT / ".cache" / "benchmarks"
"""Compiled policy engine, which daemons store at their first start and later ones load."""

READY_SECONDS: Final = 600.0
"""Time limit of a start. A daemon with a million keys may take long."""
ANSWER_SECONDS: Final = 1800.0
STOP_SECONDS: Final = 60.0

_SETTLE_SECONDS: Final = 0.01
_SETTLED_CPU_SECONDS: Final = 0.0002
_IDLE_SECONDS: Final = 0.25
_IDLE_CPU: Final = 0.03
"""Share of a CPU that a daemon without clients may take."""
_IDLE_ATTEMPTS: Final = 1200
_SETTLE_ATTEMPTS: Final = 50
_LINE_ATTEMPTS: Final = 3000
_CPUCLOCK_SCHED: Final = 2  # Linux, include/linux/posix-timers.h


class BenchmarkFailed(Exception):
    """A process under test ended, or answered something unexpected."""


def cpu_seconds(pid: int) -> float:
    """Return utime + stime of a process with all its threads, in nanosecond resolution.

    It is the clock of clock_getcpuclockid(3), because /proc/PID/stat counts in 10 ms.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def process_tree(pid: int) -> list[int]:
    """Return a process and all its descendants, the process first (proc(5), "children")."""
    tree = [pid]
    for parent in tree:
        with suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                tree += [int(child) for child in (thread / "children").read_text().split()]
    return tree


def proportional_kib(pid: int) -> float:
    """Return the memory of a process, its part of shared pages included (PSS), in KiB.

    Raises:
        OSError: there is no such process.
    """
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise BenchmarkFailed("the kernel does not report the memory of processes")
    return float(found[1])


class Process:
    """A process of a benchmark, which ends with it.

    Args:
        command: program and arguments.
        log: file for its standard error.
        environment: variables added to those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
        self._log = log
        with log.open("wb") as stream:
            self._popen = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=stream,
                cwd=CHECKOUT,
                env={**_environment(), **(environment or {})},
            )
        self.pid = self._popen.pid

    def cpu(self) -> dict[int, float]:
        """Return the CPU seconds so far of the process and each of its descendants, by pid."""
        result = {}
        for pid in process_tree(self.pid):
            with suppress(OSError):
                result[pid] = cpu_seconds(pid)
        return result

    def settle(self) -> None:
        """Wait until the process has done what the last request left to do, as closing it."""
        before = sum(self.cpu().values())
        for _ in range(_SETTLE_ATTEMPTS):
            time.sleep(_SETTLE_SECONDS)
            after = sum(self.cpu().values())
            if after - before < _SETTLED_CPU_SECONDS:
                return
            before = after

    def await_idle(self) -> None:
        """Wait until the process does nothing by itself, as examining its directory; or 5 minutes.

        Raises:
            BenchmarkFailed: it never does nothing.
        """
        before = sum(self.cpu().values())
        for _ in range(_IDLE_ATTEMPTS):
            time.sleep(_IDLE_SECONDS)
            after = sum(self.cpu().values())
            if after - before < _IDLE_CPU * _IDLE_SECONDS:
                return
            before = after
        raise self._failed("it is not idle after 5 minutes")

    def memory_kib(self) -> float:
        """Return the memory of the process and its descendants in KiB."""
        total = 0.0
        for pid in process_tree(self.pid):
            with suppress(OSError):
                total += proportional_kib(pid)
        return total

    def stop(self) -> None:
        """End the process with SIGTERM, or with SIGKILL if it takes too long."""
        with suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()

    def _failed(self, what: str) -> BenchmarkFailed:
        last = self._log.read_text(errors="replace").strip().splitlines()[-5:]
        return BenchmarkFailed("\n  ".join([f"{what}; the end of {self._log}:", *last]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Peer(Process):
    """A Python module of this package that reads commands as lines of JSON and answers each.

    Attributes:
        ready: its first line.
    """

    def __init__(self, module: str, log: Path, *arguments: str) -> None:
        super().__init__([sys.executable, "-m", module, *arguments], log, pipes=True)
        self.ready = self._read()

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
        """Send a command and return the answer.

        Raises:
            BenchmarkFailed: the process ended, does not answer, or could not do it.
        """
        assert self._popen.stdin is not None  # noqa: S101  # has pipes
        with suppress(BrokenPipeError):  # reading reports how it ended
            self._popen.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
            self._popen.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        stdout = self._popen.stdout
        assert stdout is not None  # noqa: S101  # has pipes
        if not select.select([stdout], [], [], ANSWER_SECONDS)[0]:
            raise self._failed("no answer in time")
        line = stdout.readline()
        if not line:
            raise self._failed(f"a process of the benchmark ended with {self._popen.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchmarkFailed(answer["error"])
        return answer


class Daemon(Process):
    """A `verdictd-py` process with its usual options, which listens on free ports of loopback.

    It reports that it is ready as to systemd (sd_notify(3)); nothing polls meanwhile.

    Args:
        directory: for its log and its notification socket; private, and short enough for a path.
        options: options of the daemon, with all listeners.

    Attributes:
        start_cpu: CPU seconds until it was ready.
        start_wall: the same in wall time.
        addresses: `listen`, `client_api` and `kbs_http`; empty if the options limit the log.
    """

    def __init__(self, directory: Path, name: str, options: Sequence[str]) -> None:
        notify = directory / f"{name}.sock"
        log = directory / f"{name}.log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(str(notify))
            listening.settimeout(1.0)
            begun = time.monotonic()
            super().__init__(
                [sys.executable, "-m", "verdictd_py.cli.main", *options],
                log,
                environment={
                    "NOTIFY_SOCKET": str(notify),
                    "CACHE_DIRECTORY": str(ENGINE_CACHE),
                },
            )
            try:
                self._await_ready(listening, begun)
            except BaseException:
                self._popen.kill()
                self._popen.wait()
                raise
            finally:
                notify.unlink()
        self.addresses = {} if "--log-level" in options else self._addresses()

    def _await_ready(self, listening: socket.socket, begun: float) -> None:
        while time.monotonic() - begun < READY_SECONDS:
            with suppress(TimeoutError):
                if "READY=1" in listening.recv(4096).decode():
                    self.start_cpu = sum(self.cpu().values())
                    self.start_wall = time.monotonic() - begun
                    return
            if self._popen.poll() is not None:
                raise self._failed(f"the daemon ended at its start with {self._popen.returncode}")
        raise self._failed("the daemon did not start in time")

    def _addresses(self) -> dict[str, str]:
        """Return the addresses in the line `daemon.started`, which a thread writes to the log."""
        for _ in range(_LINE_ATTEMPTS):
            for line in self._log.read_text().splitlines(keepends=True):
                if " daemon.started " in line and line.endswith("\n"):
                    return dict(re.findall(r' (listen|client_api|kbs_http)="([^"]*)"', line))
            time.sleep(_SETTLE_SECONDS)
        self.stop()
        raise self._failed("the daemon did not log its addresses")


def _environment() -> dict[str, str]:
    """Return this process's environment without settings of the broker.

    Compiled modules may be written, as of an installed package: otherwise each start compiles them.
    """
    own = {name: text for name, text in os.environ.items() if not name.startswith("VERDICTD_")}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**own, "PYTHONPATH": str(CHECKOUT)}
