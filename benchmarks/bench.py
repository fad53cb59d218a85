"""One run of the benchmarks: its directory, its processes, and how much it measures."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.datasets import PLATFORM, daemon_options, make_data
from benchmarks.processes import CHECKOUT, Daemon, Peer
from benchmarks.rounds import Sample, cost
from verdictd_py.guest.attesters import simulated_platform

CACHED_SECONDS: Final = 2.5
"""Age of documents from which the daemon caches them (`storage.held.RACY_NS`), and a reserve."""


class NotAvailable(Exception):
    """A case needs an option that this daemon does not have. The text names it."""


class Bench:
    """Processes of a run, each started when a case needs it and ended with the run.

    Args:
        directory: private, empty; everything that the run writes is below it.
        quick: measure less of everything.
    """

    def __init__(self, directory: Path, *, quick: bool) -> None:
        self.directory = directory
        self.quick = quick
        self._stack = ExitStack()
        self._daemons: dict[str, Daemon] = {}
        self._started = 0
        simulated_platform(directory / PLATFORM, now=datetime.now(UTC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def number(self, quick: int, full: int) -> int:
        """Return how many operations to measure."""
        return quick if self.quick else full

    @cached_property
    def clients(self) -> Peer:
        """The process of the clients."""
        return self._peer("clients")

    @cached_property
    def raw(self) -> Peer:
        """The process of the raw servers."""
        return self._peer("raw")

    def raw_url(self) -> str:
        """Return the URL of the empty HTTP server."""
        return f"http://127.0.0.1:{self.raw.ready['http']}"

    def raw_cost(self, call: str, **arguments: Any) -> Sample:  # noqa: ANN401  # of the command
        """Return what a command of the clients costs the raw servers."""
        return cost(self.raw, self.clients, call, **arguments)

    def verify_cost(self, count: int) -> Sample:
        """Return what the verification of a quote by dcap-qvl costs."""
        return cost(self.raw, self.raw, "verify", count=count)

    def sync_note(self) -> str:
        """Return a sentence about the cost of a synced record, which a release waits for."""
        cpu = cost(self.raw, self.raw, "sync", count=self.number(200, 1000)).cpu
        return f"writing and syncing one audit record costs {cpu:.3f} ms with system calls alone"

    def handshake_cost(self, count: int, *, unseen: bool) -> Sample:
        """Return what a TLS handshake with a guest's certificate costs."""
        address = ("127.0.0.1", self.raw.ready["tls"])
        return self.raw_cost("handshakes", address=address, count=count, unseen=unseen)

    def daemon(self, name: str, *options: str, **data: int) -> Daemon:
        """Return the daemon of this name; the first call starts it.

        Args:
            options: in addition to the usual ones.
            data: arguments of `make_data`.
        """
        if name not in self._daemons:
            directory = self.directory / f"data-{name}"
            if not directory.exists():
                make_data(directory, **data)
            self._daemons[name] = self.start(name, *options)
            time.sleep(CACHED_SECONDS)
            self._daemons[name].await_idle()
        return self._daemons[name]

    def start(self, name: str, *options: str) -> Daemon:
        """Start one more daemon on the existing data directory of a name."""
        self._started += 1
        arguments = [*daemon_options(self.directory, self.directory / f"data-{name}"), *options]
        daemon = Daemon(self.directory, f"{name}-{self._started}", arguments)
        return self._stack.enter_context(daemon)

    def stop(self, name: str) -> None:
        """Stop the daemon of a name; its data remains."""
        if name in self._daemons:
            self._daemons.pop(name).stop()

    def require_option(self, option: str) -> None:
        """Check that the daemon has an option.

        Raises:
            NotAvailable: it does not.
        """
        if option not in self._help.split():
            raise NotAvailable(f"not available: this daemon does not have {option}")

    @cached_property
    def _help(self) -> str:
        command = [sys.executable, "-m", "verdictd_py.cli.main", "--help"]
        done = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
        return done.stdout

    def _peer(self, module: str) -> Peer:
        log = self.directory / f"{module}.log"
        peer = Peer(f"benchmarks.{module}", log, str(self.directory))
        return self._stack.enter_context(peer)


def address_of(daemon: Daemon) -> tuple[str, int]:
    """Return host and port of the attested listener."""
    host, _, port = daemon.addresses["listen"].rpartition(":")
    return host, int(port)
