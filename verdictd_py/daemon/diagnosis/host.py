"""Checks of the host: sandbox, systemd unit, file descriptors, clock."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from verdictd_py.config import Settings
from verdictd_py.daemon.diagnosis import paths
from verdictd_py.daemon.diagnosis.finding import Finding, Result, refusal, summary
from verdictd_py.daemon.foundation import connections_of
from verdictd_py.daemon.process import require_address_space
from verdictd_py.daemon.workers.cores import worker_count
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.callers import CallerRules

EARLIEST: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""No clock is right that is before this release."""

UNITS: Final = tuple(
    Path(directory, "verdictd-py.service")
    for directory in (
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
    )
)
"""Where systemd looks for the unit, in its order."""

_STA_UNSYNC: Final = 0x0040  # include/uapi/linux/timex.h
_TRUE: Final = frozenset({"yes", "true", "on", "1"})


def clock_synchronized() -> bool | None:
    """Return whether the kernel's clock is disciplined; None if it does not tell."""
    with suppress(OSError, AttributeError):
        # struct timex: `modes` (0: only read), then offset, freq, maxerror, esterror, status.
        timex = (ctypes.c_long * 64)()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.adjtimex(timex) >= 0:
            return not timex[5] & _STA_UNSYNC
    return None


@dataclass(frozen=True, slots=True)
class Host:
    """What the checks learn from the kernel.

    Attributes:
        now: the wall clock.
        synchronized: whether a time service disciplines it; None if that is unknown.
        units: candidates for the systemd unit.
    """

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    synchronized: bool | None = field(default_factory=clock_synchronized)
    units: Sequence[Path] = UNITS


def sandbox(settings: Settings | None, host: Host) -> Iterator[Finding]:
    """Check what this process may do, and the directives of the unit of systemd."""

    def problems() -> Iterator[Finding]:
        yield from refusal("sandbox", "address space", require_address_space)
        try:
            tempfile.gettempdir()
        except FileNotFoundError:
            if not os.access("/dev/shm", os.W_OK | os.X_OK):  # noqa: S108  # as the daemon
                yield Finding(
                    "sandbox",
                    "temporary files",
                    Result.FAILURE,
                    "neither /tmp nor /dev/shm can be written, where a socket is created for an "
                    "instant; set TMPDIR to a directory that this user can write",
                )
        if settings is not None and settings.client_api_cert is None:
            address = settings.client_api_addresses[0]
            check = partial(CallerRules().require_identification, address)
            yield from refusal("sandbox", "callers", check)

    yield from summary("sandbox", "this process", problems(), "it may do what the broker needs")
    unit = next((unit for unit in host.units if paths.is_file(unit)), None)
    if unit is not None:
        yield from _unit(unit, settings)


def _unit(unit: Path, settings: Settings | None) -> Iterator[Finding]:
    """Check the directives of a unit with its drop-ins."""
    try:
        values = directives(unit)
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "it is not UTF-8"
        text = f"it cannot be read: {cause}; let this user read it"
        yield Finding("sandbox", str(unit), Result.WARNING, text)
        return
    yield from summary(
        "sandbox", str(unit), _directives(unit, values, settings), "no directive prevents the start"
    )


def _directives(
    unit: Path, values: Mapping[str, str], settings: Settings | None
) -> Iterator[Finding]:
    where = str(unit)
    families = values.get("RestrictAddressFamilies", "").split()
    allowed = not families or families[0].startswith("~")
    if values.get("MemoryDenyWriteExecute", "").lower() in _TRUE:
        yield Finding(
            "sandbox",
            where,
            Result.FAILURE,
            "MemoryDenyWriteExecute=yes prevents the start: the policy engine makes machine code; "
            "remove the directive",
        )
    if not allowed and "AF_UNIX" not in families:
        yield Finding(
            "sandbox",
            where,
            Result.FAILURE,
            "RestrictAddressFamilies= has no AF_UNIX, which the client API and the service "
            "manager need; add AF_UNIX",
        )
    on_loopback = settings is not None and not settings.client_api_addresses[0].unix
    without_tls = settings is not None and settings.client_api_cert is None
    hidden = values.get("ProcSubset", "") == "pid" and not allowed and "AF_NETLINK" not in families
    if hidden and on_loopback and without_tls and "--client-api" not in values.get("ExecStart", ""):
        yield Finding(
            "sandbox",
            where,
            Result.FAILURE,
            "ProcSubset=pid without AF_NETLINK in RestrictAddressFamilies= hides the callers of "
            "the client API; add AF_NETLINK, remove ProcSubset=pid, or set --client-api unix:/path",
        )
    if values.get("Type", "simple") not in ("notify", "notify-reload"):
        yield Finding(
            "sandbox",
            where,
            Result.WARNING,
            "systemd does not wait until the broker serves guests; set Type=notify",
        )


def directives(unit: Path) -> dict[str, str]:
    """Return the last value of each directive of a unit and its drop-ins.

    Raises:
        OSError, UnicodeDecodeError: a file cannot be read.
    """
    values: dict[str, str] = {}
    drop_ins = sorted(
        (file for above in _search(unit) for file in above.glob("*.conf")), key=lambda f: f.name
    )
    for file in (unit, *drop_ins):
        for line in file.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            name, equals, value = line.strip().partition("=")
            if not equals or name.startswith(("#", ";")):
                continue
            additive = name == "RestrictAddressFamilies" and value.strip()
            before = values.get(name, "") if additive else ""
            values[name] = f"{before} {value.strip()}".strip()
    return values


def _search(unit: Path) -> tuple[Path, ...]:
    """Return the directories of drop-ins of a unit."""
    if unit not in UNITS:
        return (unit.with_name(unit.name + ".d"),)
    return tuple(one.with_name(one.name + ".d") for one in UNITS)


def open_files(settings: Settings) -> Iterator[Finding]:
    """Check that the listeners get enough file descriptors: the hard limit is what counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    separate = worker_count(settings.workers) > 1

    def problems() -> Iterator[Finding]:
        try:
            parts = [
                connections_of(settings, guests=True, operators=not separate, open_files=limit)
            ]
            if separate:
                parts += [
                    connections_of(settings, guests=False, operators=True, open_files=limit),
                ]
        except ConfigError as error:
            yield Finding("descriptors", "", Result.FAILURE, str(error))
            return
        for warning in dict.fromkeys(part.warning for part in parts if part.warning):
            yield Finding("descriptors", "", Result.WARNING, warning)

    number = "without limit" if limit == sys.maxsize else str(limit)
    yield from summary("descriptors", "", problems(), f"files that may be open: {number}")


def clock(host: Host) -> Iterator[Finding]:
    """Check the wall clock, by which certificates and collateral are valid."""

    def problems() -> Iterator[Finding]:
        if host.now < EARLIEST:
            text = f"it shows {host.now:%Y-%m-%d}, a time before this release; set the clock"
            yield Finding("clock", "", Result.FAILURE, text)
        elif host.synchronized is False:
            text = "no time service keeps it correct; start chrony or systemd-timesyncd on the host"
            yield Finding("clock", "", Result.WARNING, text)

    yield from summary("clock", "", problems(), f"it shows {host.now:%Y-%m-%d %H:%M} UTC")
