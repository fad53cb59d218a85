"""All checks, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

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
    contradicting = [
        Finding("settings", "--" + name.replace("_", "-"), Result.FAILURE, text)
        for name, text in contradictions(settings, unsafe)
    ]
    yield from contradicting
    yield from host.open_files(settings)
    of_rights = list(files.rights(settings, unsafe))
    yield from of_rights
    yield from files.client_api(settings, of_host.now)
    yield from files.kbs(settings, of_host.now)
    yield from files.audit(settings)
    yield from addresses.ports(settings, running=bool(running(settings.data_dir)))
    yield from data.directory(settings, unsafe)
    yield from data.space(settings)
    yield from _new(asyncio.run(data.seal(settings)), of_rights)
    of_engines = asyncio.run(engines.engines(settings, unsafe))
    of_decisions = asyncio.run(data.decisions(settings, unsafe, of_host.now))
    yield from _new(of_engines, [*contradicting, *of_rights])
    yield from _new(of_decisions, [*contradicting, *of_engines])


def _new(findings: Iterable[Finding], reported: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings without the failures that were reported by another check."""
    known = {one.message for one in reported if one.result is Result.FAILURE}
    yield from (finding for finding in findings if finding.message not in known)
