"""Health of the broker: whether it can appraise guests and release secrets now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.daemon import descriptors
from verdictd_py.daemon.readiness import SetReady
from verdictd_py.domain.events import DaemonReady, WarningReadiness
from verdictd_py.errors import VerdictdError
from verdictd_py.listeners.errors import report_bug
from verdictd_py.listeners.grpc_listener import READY
from verdictd_py.ports import Events

EXAMINE_SECONDS: Final = 10.0
"""Longest pause between two examinations. Clients of `/readyz` cause none: they get the result of
the last one."""

CHECK_SECONDS: Final = 5.0
"""Time limit of one check: a disk that does not answer is a problem, too."""

FREE_DESCRIPTORS: Final = 32
"""File descriptors without which guests are refused soon."""

FREE_BYTES: Final = 1024 * 1024
"""Free space for some hundred changes, each with its record in the audit trail."""

FREE_INODES: Final = 16

POLICIES: Final = "policies"
"""Name of the check of the policies, whose problems `status` examines by itself."""

Check = Callable[[], Awaitable[str]]
"""Returns the cause of a problem; empty if there is none."""


class Health:
    """Result of the checks, for `/readyz`, gRPC's health service and the log.

    Args:
        checks: by name; each name is disclosed to every client, its problem to none.
        publish: what each listener with a health service publishes the result by.

    Attributes:
        changed: called when the problems have changed.
    """

    def __init__(
        self, checks: Mapping[str, Check], events: Events, *, publish: Sequence[SetReady] = ()
    ) -> None:
        self._checks = dict(checks)
        self._events = events
        self._publish = tuple(publish)
        self._problems: dict[str, str] | None = None
        self._stopping = False
        self._requested = asyncio.Event()
        self._examining = asyncio.Lock()
        self.changed: Callable[[], None] = lambda: None

    @property
    def parts(self) -> dict[str, bool]:
        """Whether each part is usable; none is before the first examination or while stopping."""
        problems = self._problems
        usable = {name: problems is not None and name not in problems for name in self._checks}
        return {**usable, "serving": not self._stopping}

    @property
    def problems(self) -> Mapping[str, str]:
        """Problems of the last examination by name of the check, for the operator."""
        return self._problems or {}

    def request(self) -> None:
        """Have the parts examined at once. The caller has noticed a change of one of them."""
        self._requested.set()

    async def examine(self) -> None:
        """Run all checks, publish the result, and record it if it has changed."""
        async with self._examining:  # otherwise the older of two results could replace the newer
            await self._examine()

    async def _examine(self) -> None:
        results = await asyncio.gather(*(self._run(check) for check in self._checks.values()))
        found = dict(zip(self._checks, results, strict=True))
        problems = {name: problem for name, problem in found.items() if problem}
        before, self._problems = self._problems, problems
        if problems and problems != before:
            texts = tuple(f"{name}: {problem}" for name, problem in problems.items())
            self._events.record(WarningReadiness(problems=texts))
        elif not problems and before:
            self._events.record(DaemonReady())
        if problems != before:
            self.changed()
        await self._published()

    async def keep_examined(self) -> None:
        """Call `examine` again and again."""
        while True:
            self._requested.clear()
            await self.examine()
            with suppress(TimeoutError):
                async with asyncio.timeout(EXAMINE_SECONDS):
                    await self._requested.wait()

    async def stop(self) -> None:
        """Report from now on that the broker is not ready."""
        self._stopping = True
        await self._published()

    async def _published(self) -> None:
        ready = all(self.parts.values())
        for publish in self._publish:
            await publish(READY, ready=ready)

    async def _run(self, check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await check()
        except TimeoutError:
            return f"no answer within {CHECK_SECONDS:.0f} s"
        except VerdictdError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  # otherwise the last result would stay
            report_bug(self._events, error, doing="check the health")
            return "internal error; see the event warning.bug"


def last_problem(*checks: Check) -> Check:
    """Return a check that runs several ones in order, with the last problem that they report.

    A check of the cause comes last, so that a fault in between is not reported in two ways.
    """

    async def check() -> str:
        problems = [await one() for one in checks]
        return next(filter(None, reversed(problems)), "")

    return check


def directory_check(directory: Path, *, writable: bool) -> Check:
    """Return a check that a directory can be listed and, if required, written."""

    def problem() -> str:
        try:
            with os.scandir(directory) as entries:
                next(entries, None)
            if not writable:
                return ""
            if not os.access(directory, os.W_OK | os.X_OK):
                directory.stat()  # raises if it has vanished meanwhile
                return f"{directory.name}/ cannot be written; check its permissions and its mount"
        except OSError as error:
            return f"{directory.name}/ cannot be used: {error.strerror}"
        return ""

    async def check() -> str:
        return await asyncio.to_thread(problem)

    return check


def space_check(directories: Mapping[str, Path]) -> Check:
    """Return a check that the file systems of directories have space for some more files.

    Args:
        directories: the directories that the broker writes, by the name in the problem.
    """

    def problem() -> str:
        causes: dict[str, list[str]] = {}
        for name, directory in directories.items():
            try:
                cause = shortage(os.statvfs(directory))
            except OSError:
                continue  # another check reports that it is missing
            if cause:
                causes.setdefault(cause, []).append(name)
        return "; ".join(
            f"{', '.join(names)}: {cause}; remove files there or enlarge the file system"
            for cause, names in causes.items()
        )

    async def check() -> str:
        return await asyncio.to_thread(problem)

    return check


def shortage(space: os.statvfs_result) -> str:
    """Return what is short on a file system; empty if nothing is."""
    free = space.f_bavail * space.f_frsize
    if free < FREE_BYTES:
        return f"{free // 1024} KiB are free, {FREE_BYTES // 1024} KiB are needed"
    if space.f_files and space.f_favail < FREE_INODES:  # some file systems have no fixed number
        return f"{space.f_favail} inodes are free, {FREE_INODES} are needed"
    return ""


async def check_descriptors() -> str:
    """Check that the process may open more files."""
    try:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # its entries vanish
    except OSError:
        return ""  # without /proc the number is unknown
    if descriptors.limit() - used >= FREE_DESCRIPTORS:
        return ""
    return f"{used} of {descriptors.limit()} files are open; raise LimitNOFILE= or ulimit -n"
