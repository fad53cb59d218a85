"""All checks, in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

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
    for name, check in _checks(settings, unsafe, of_host):
        yield from _examined(name, check)
    of_engines = asyncio.run(engines.engines(settings, unsafe))
    yield from _new(of_engines, contradicting)
    known = [*contradicting, *of_engines]
    of_decisions = partial(data.decisions, settings, unsafe, of_host.now)
    yield from _new(_examined("policies", lambda: asyncio.run(of_decisions())), known)


def _checks(
    settings: Settings, unsafe: Unsafe, of_host: Host
) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    """Yield the checks of this host that are independent of each other, with their names."""
    now = of_host.now
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
