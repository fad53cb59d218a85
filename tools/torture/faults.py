"""Faults of the data directory under a running daemon, each repaired without a restart.

During a fault the daemon must not acknowledge a change that is lost, and must not report the fault
as a verdict about a guest. After the repair it must serve every client again by itself.

Root passes permission checks, so the daemon runs without that capability. Mounting needs root.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import grpc
import httpx

from tools.torture.broker import Broker, Site, running
from tools.torture.changes import RESOURCE, Ledger, Operator, verify
from tools.torture.clients import Clients, Latencies, channel_to, failure_text
from tools.torture.scenario import FAILED, Budget, Row, Scenario

DISK_MIB: Final = 32
RECOVERY_SECONDS: Final = 30.0
READINESS_SECONDS: Final = 15.0
READY: Final = 200
MISSING: Final = 404
VERDICTS: Final = (
    "policy-refused",
    "collateral-expired",
    "evidence-expired",
    "quote-invalid",
    " 401",
)
"""Parts of answers that a guest reads as a final verdict about itself."""

_CHANGED: Final = "torture/fault/resource"
_WITHOUT_OVERRIDE: Final = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)


@dataclass(frozen=True)
class Disk:
    """Where the data directory is.

    Attributes:
        mounted: whether it is a file system of its own, which can be full or read-only.
    """

    directory: Path
    mounted: bool

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def aside(self) -> Path:
        return self.directory / "aside"

    @property
    def sessions(self) -> Path:
        return self.directory / "sessions.sqlite"

    @property
    def filler(self) -> Path:
        return self.directory / "filler"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and its repair.

    Attributes:
        needs_mount: it is possible on a file system of its own only.
        smoke: it is part of the smallest form.
    """

    case: str
    cause: Callable[[Disk], object]
    repair: Callable[[Disk], object]
    needs_mount: bool = False
    smoke: bool = False

    @property
    def heals(self) -> bool:
        """Whether the broker repairs it by itself, so that it may be ready at once."""
        return self.repair is _nothing


def _remove(disk: Disk) -> None:
    shutil.copytree(disk.data, disk.aside)
    shutil.rmtree(disk.data)


def _restore(disk: Disk) -> None:
    shutil.rmtree(disk.data, ignore_errors=True)
    shutil.move(disk.aside, disk.data)


def _fill(disk: Disk) -> None:
    descriptor = os.open(disk.filler, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:  # the disk is full
        return
    finally:
        os.close(descriptor)


def _mode(mode: int) -> Callable[[Disk], object]:
    """Return a function that changes the mode of every directory below the data directory."""

    def change(disk: Disk) -> None:
        for directory in (disk.data, *(path for path in disk.data.rglob("*") if path.is_dir())):
            directory.chmod(mode)

    return change


def _damage(disk: Disk) -> None:
    for path in disk.directory.glob("sessions.sqlite*"):
        path.write_bytes(b"damaged" * 1000)


def _nothing(disk: Disk) -> None:
    del disk  # the broker repairs it


FAULTS: Final = (
    Fault(
        "directory renamed, and renamed back",
        lambda disk: disk.data.rename(disk.aside),
        lambda disk: disk.aside.rename(disk.data),
        smoke=True,
    ),
    Fault("directory removed, and restored from a copy", _remove, _restore),
    Fault(
        "permissions of the directory removed",
        lambda disk: disk.data.chmod(0),
        lambda disk: disk.data.chmod(0o700),
    ),
    Fault("directories made read-only", _mode(0o500), _mode(0o700)),
    Fault("disk full", _fill, lambda disk: disk.filler.unlink(), needs_mount=True),
    Fault("session file removed", lambda disk: disk.sessions.unlink(), _nothing),
    Fault("session file damaged", _damage, _nothing),
)


async def run(budget: Budget) -> AsyncIterator[Row]:
    """Cause each fault on a daemon of its own."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        yield Row.skipped("all faults", "setpriv is missing: install util-linux")
        return
    for number, fault in enumerate(FAULTS):
        if budget.smoke and not fault.smoke:
            continue
        directory = budget.directory / str(number)
        directory.mkdir()
        with _disk(directory / "disk") as disk:
            if fault.needs_mount and not disk.mounted:
                yield Row.skipped(fault.case, "mounting a tmpfs is not permitted: run it as root")
                continue
            patience = 0 if budget.smoke else READINESS_SECONDS
            yield await _trial(Site.make(directory, disk.data), disk, fault, patience=patience)


@contextmanager
def _disk(directory: Path) -> Iterator[Disk]:
    """Mount a small file system, or use a plain directory where that is not permitted."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "tmpfs", str(directory)]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield Disk(directory, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)


@dataclass
class _Probe:
    """Clients and an operator of one broker.

    Attributes:
        outcomes: the text of each client's outcome at the last probe; empty: served.
    """

    broker: Broker
    clients: Clients
    ledger: Ledger = field(default_factory=Ledger)
    outcomes: dict[str, str] = field(default_factory=dict)
    _number: int = 0

    async def all(self) -> bool:
        """Run each client once; return whether all were served."""
        for name, client in self.clients.kinds.items():
            latencies = Latencies()
            await latencies.measure(client)
            self.outcomes[name] = "".join(latencies.failures)
        self.outcomes["change"] = await self._change()
        return not any(self.outcomes.values())

    async def _change(self) -> str:
        self._number += 1
        content, thing = str(self._number), (RESOURCE, _CHANGED)
        self.ledger.begin(thing, content)
        try:
            async with channel_to(self.broker.client_api) as channel:
                await Operator(channel).set_resource(_CHANGED, f"{content}:0:".encode())
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.ledger.refuse(thing, content)
            return failure_text(error)
        self.ledger.acknowledge(thing, content)
        return ""

    async def ready(self) -> int:
        """Return the HTTP status of `/readyz`; 0 without an answer."""
        link = httpx.AsyncClient(verify=False, trust_env=False)  # noqa: S501  # only a status
        async with link as client:
            try:
                return (await client.get(f"{self.broker.kbs}/readyz")).status_code
            except httpx.HTTPError:
                return 0

    async def becomes(self, ready: bool, seconds: float) -> int:
        """Wait until `/readyz` reports readiness or its absence; return the last status."""
        end = time.monotonic() + seconds
        while (status := await self.ready()) != MISSING and (status == READY) != ready:
            if time.monotonic() > end:
                break
            await asyncio.sleep(1)
        return status

    async def recover(self) -> float | None:
        """Return the seconds until all are served again; None: not in time.

        The guest that attested before the fault is among them: real guests never reconnect.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < RECOVERY_SECONDS:
            if await self.all():
                return time.monotonic() - begin
            await asyncio.sleep(1)
        return None


async def _trial(site: Site, disk: Disk, fault: Fault, *, patience: float) -> Row:
    """Cause and repair a fault.

    Args:
        patience: seconds until `/readyz` must report the fault, and its repair; 0: not judged.
    """
    options = site.with_sessions(disk.sessions)
    wrapper = _WITHOUT_OVERRIDE if os.geteuid() == 0 else ()
    async with running(site, *options, wrapper=wrapper) as broker, Clients(broker) as clients:
        probe = _Probe(broker, clients)
        if not await probe.all():
            return Row.judged(fault.case, f"not served before it: {probe.outcomes}", passed=False)
        fault.cause(disk)
        await probe.all()
        during = dict(probe.outcomes)
        broken = await probe.becomes(ready=False, seconds=0 if fault.heals else patience)
        fault.repair(disk)
        seconds = await probe.recover()
        lost = await verify(broker.client_api, probe.ledger) if seconds is not None else []
        row = _judged(fault.case, during, seconds, lost)
        after = await probe.becomes(ready=True, seconds=patience)
    reported = after == READY and (broken != READY or fault.heals)
    reported = reported or after == MISSING or not patience
    text = f"{row.figures}; readyz {broken}, then {after}"
    return replace(row, figures=text, result=row.result if reported else FAILED)


def _judged(case: str, during: dict[str, str], seconds: float | None, lost: list[str]) -> Row:
    served = [name for name, text in during.items() if not text]
    failed = {name: text for name, text in during.items() if text}
    verdicts = [n for n, text in failed.items() if any(part in text for part in VERDICTS)]
    recovered = "not recovered" if seconds is None else f"recovered in {seconds:.1f} s"
    texts = "; ".join(f"{name}: {text[:90]}" for name, text in failed.items())
    figures = (
        f"during: served {', '.join(served) or 'none'}; {texts or 'none failed'}; "
        f"{recovered}; {len(lost)} acknowledged changes lost"
    )
    if verdicts:
        figures += f"; FALSE VERDICT for {', '.join(verdicts)}"
    return Row.judged(case, figures, passed=seconds is not None and not lost and not verdicts)


FAULTS_SCENARIO: Final = Scenario("faults", "faults of the data directory and the disk", 1, run)
