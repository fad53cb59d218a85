"""A daemon of this checkout in a process of its own, on free loopback ports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from verdictd_py import daemon as app
from verdictd_py.guest.attesters import COLLATERAL_FILE, simulated_platform
from verdictd_py.simulator import SimulatedPlatform

KID: Final = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
KEY: Final = b"1234567890123456789012345678901\n"
RESOURCE: Final = "default/torture/secret"
SECRET: Final = b"the secret that genuine guests request"

CHECKOUT: Final = Path(__file__).resolve().parents[2]
START_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05


class BrokerFailed(Exception):
    """The daemon ended, or did not start in time. The text names its log."""


@dataclass(frozen=True)
class Site:
    """What brokers of one data directory share: platform, certificate, directory.

    Attributes:
        directory: everything is below it; logs are `daemon-N.log`.
        data: the data directory.
    """

    directory: Path
    data: Path
    platform: SimulatedPlatform
    ca: Path
    started: list[Path] = field(default_factory=list)

    @classmethod
    def make(cls, directory: Path, data: Path | None = None) -> Self:
        """Make a platform, a certificate for HTTPS, and a data directory with a key and a resource.

        Args:
            data: an existing directory for the data; default: one below `directory`.
        """
        data = data or directory / "data"
        for path, content in (
            (data / "keys" / KID, KEY),
            (data / "resources" / RESOURCE, SECRET),
        ):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)
        platform = simulated_platform(directory / "platform", now=app.utc_now())
        authority = trustme.CA()
        ours = authority.issue_cert("127.0.0.1")
        (directory / "https.pem").write_bytes(ours.cert_chain_pems[0].bytes())
        token_key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        for name, content in (
            ("https.key", ours.private_key_pem.bytes()),
            ("token.pem", token_key),
        ):
            (directory / name).touch(mode=0o600)
            (directory / name).write_bytes(content)
        (directory / "ca.pem").write_bytes(authority.cert_pem.bytes())
        return cls(directory, data, platform, directory / "ca.pem")

    def with_sessions(self, file: Path) -> tuple[str, ...]:
        """Return the options for sessions in a file, with a key that signs tokens."""
        return ("--kbs-token-key", str(self.directory / "token.pem"), "--kbs-sessions", str(file))

    def arguments(self, options: Sequence[str]) -> list[str]:
        """Return `options` with those of a broker of this site."""
        collateral = ("--collateral", str(self.directory / "platform" / COLLATERAL_FILE))
        return [
            *(() if "--collateral-url" in options else collateral),
            *("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0"),
            *("--kbs-http", "127.0.0.1:0", "--verifier", "tdx"),
            *(() if "--status" in options else ("--status", "127.0.0.1:0")),
            *("--kbs-tls-cert", str(self.directory / "https.pem")),
            *("--kbs-tls-key", str(self.directory / "https.key")),
            *("--data-dir", str(self.data)),
            *("--unsafe-tdx-root-ca", str(self.directory / "platform" / "root-ca.pem")),
            *options,
        ]


class Broker:
    """A running daemon.

    Attributes:
        listen: host and port for guests over RATS-TLS.
        client_api: address of the gRPC listener.
        kbs: URL of the HTTPS listener.
        status: URL of the status listener.
        log: file with its standard error, one JSON object a line.
    """

    def __init__(self, process: asyncio.subprocess.Process, site: Site, log: Path) -> None:
        self.site = site
        self.log = log
        self._process = process
        self.listen = ("", 0)
        self.client_api = ""
        self.kbs = ""
        self.status = ""

    @classmethod
    async def start(
        cls,
        site: Site,
        *options: str,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a daemon and wait until all listeners accept.

        Args:
            wrapper: a program and its arguments that runs the daemon.

        Raises:
            BrokerFailed: it ended, or did not start in time.
        """
        log = site.directory / f"daemon-{len(site.started)}.log"
        site.started.append(log)
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *wrapper,
                *(sys.executable, "-m", "verdictd_py.cli.main"),
                *site.arguments(options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**own_environment(), **(environment or {})},
            )
        broker = cls(process, site, log)
        try:
            await broker._read_addresses()
        except BaseException:
            await broker.kill()
            raise
        return broker

    @property
    def platform(self) -> SimulatedPlatform:
        return self.site.platform

    @property
    def ca(self) -> Path:
        return self.site.ca

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def events(self) -> list[dict[str, Any]]:
        """Return the complete lines of its log that are JSON objects."""
        found: list[dict[str, Any]] = []
        for line in self.log.read_bytes().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def count(self, event: str) -> int:
        """Return how often its log has an event."""
        return sum(record.get("event") == event for record in self.events())

    def resident_bytes(self) -> int:
        """Return its resident memory, from /proc/PID/statm (proc(5): second field, in pages)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return its CPU time (proc(5), "stat": utime and stime, in clock ticks)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Return its number of open files."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208  # a count, no paths

    async def kill(self) -> None:
        """End it as the kernel would (SIGKILL), and wait until it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """End it with SIGTERM; return its exit status."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(START_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL

    async def _read_addresses(self) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while (started := self._started()) is None:
                    if not self.running:
                        raise BrokerFailed(f"the daemon ended at its start: {self.log}")
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise BrokerFailed(f"the daemon did not start in time: {self.log}") from None
        host, _, port = str(started["listen"]).rpartition(":")
        self.listen = (host, int(port))
        self.client_api = str(started["client_api"])
        self.kbs = str(started["kbs_http"])
        listeners = (e for e in self.events() if e.get("event") == "listener.started")
        self.status = next(str(e["endpoint"]) for e in listeners if e["name"] == "status")

    def _started(self) -> dict[str, Any] | None:
        return next((e for e in self.events() if e.get("event") == "daemon.started"), None)


@asynccontextmanager
async def running(
    site: Site,
    *options: str,
    wrapper: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Broker]:
    """Start a broker, and kill it at the end if it still runs."""
    broker = await Broker.start(site, *options, wrapper=wrapper, environment=environment)
    try:
        yield broker
    finally:
        await broker.kill()


def with_files(number: int) -> tuple[str, ...]:
    """Return a wrapper that gives a program `ulimit -n NUMBER`, soft and hard."""
    return ("prlimit", f"--nofile={number}:{number}")


def own_environment() -> dict[str, str]:
    """Return this process's environment without settings of the broker and of gRPC."""
    ours = ("VERDICTD_", "GRPC_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(CHECKOUT), "VERDICTD_LOG_FORMAT": "json"}
