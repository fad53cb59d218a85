"""All checks, in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.contradictions import contradictions
from verdictd_py.daemon.diagnosis import addresses, data, engines, files, host
from verdictd_py.daemon.diagnosis.finding import Finding, Result
from verdictd_py.daemon.diagnosis.host import Host
from verdictd_py.storage.presence import running


def diagnose(settings: Settings | None, unsafe: Unsafe, of_host: Host) -> Iterator[Finding]:
    """Yield the findings of all checks; only those of the host if there are no settings."""
    yield from host.sandbox(settings, of_host)
    yield from host.clock(of_host)
    if settings is None:
        return
    reported: list[Finding] = []
    for name, check in _checks(settings, unsafe, of_host):
        found = list(_new(_examined(name, check), reported))
        yield from found
        reported += found


def _checks(
    settings: Settings, unsafe: Unsafe, of_host: Host
) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    """Yield the checks with their names. A failure belongs to the first that reports it."""
    now = of_host.now
    yield "settings", lambda: _contradictions(settings, unsafe)
    yield "descriptors", lambda: host.open_files(settings)
    yield "rights", lambda: files.rights(settings, unsafe)
    yield "tls", lambda: files.client_api(settings, now)
    yield "tls", lambda: files.kbs(settings, now)
    yield "audit", lambda: files.audit(settings)
    on_data = bool(running(settings.data_dir))
    yield "ports", lambda: addresses.ports(settings, running=on_data)
    yield "data", lambda: data.directory(settings, unsafe)
    yield "disk", lambda: data.space(settings)
    yield "seal", lambda: asyncio.run(data.seal(settings))
    yield "engines", lambda: asyncio.run(engines.engines(settings, unsafe))
    yield "policies", lambda: asyncio.run(data.decisions(settings, unsafe, now))


def _contradictions(settings: Settings, unsafe: Unsafe) -> Iterator[Finding]:
    for name, text in contradictions(settings, unsafe):
        yield Finding("settings", "--" + name.replace("_", "-"), Result.FAILURE, text)


def _examined(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; what it may not examine, or the disk cannot give, is one."""
    try:
        yield from check()
    except OSError as error:
        cause = (error.strerror or type(error).__name__).lower()
        where = "" if error.filename is None else os.fsdecode(error.filename)
        text = f"this user cannot examine {where or 'it'}: {cause}; change its owner or its mode"
        yield Finding(name, where, Result.FAILURE, text)


def _new(findings: Iterable[Finding], reported: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings without the failures that were reported by another check."""
    known = {one.message for one in reported if one.result is Result.FAILURE}
    yield from (finding for finding in findings if finding.message not in known)
