"""Reports of the problems of the operator's certificate, which time or a replacement can cause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from verdictd_py.domain.events import WarningIdentity
from verdictd_py.listeners.kbs.tls import KbsTls
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.reread import Reloadable
from verdictd_py.ports import Events

EXAMINE_SECONDS: Final = 3600.0
"""Pause between two examinations of the certificate's validity."""


class CertificateWatch(Reloadable):
    """Certificate of the HTTP listener, whose problems are reported (see `Reloadable`).

    They are reported at start, each time the certificate is read again, and when time causes
    another one. A self-signed certificate has none.

    Args:
        clock: returns the time for the validity.
    """

    def __init__(self, tls: KbsTls, clock: Callable[[], datetime], events: Events) -> None:
        self._tls = tls
        self._clock = clock
        self._events = events
        self._reported: frozenset[str] = frozenset()
        self._read_again = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, background: Background) -> None:
        """Report the problems, and go on to examine the certificate in the background."""
        if self._tls.files is not None:
            self._loop = asyncio.get_running_loop()
            self._report()
            background("kbs_http.certificate", self._keep_examined)

    def reload(self) -> tuple[str, ...]:
        try:
            return self._tls.reload()
        finally:
            if self._loop is not None:  # this is another thread than that of the loop
                self._loop.call_soon_threadsafe(self._read_again.set)

    async def _keep_examined(self) -> None:
        while True:
            try:
                async with asyncio.timeout(EXAMINE_SECONDS):
                    await self._read_again.wait()
                self._read_again.clear()
                self._reported = frozenset()
            except TimeoutError:
                pass  # only the time has changed
            self._report()

    def _report(self) -> None:
        """Report the problems that were not reported before."""
        certificate = self._tls.certificate
        problems = () if certificate is None else certificate.problems(self._clock())
        for problem in problems:
            if problem not in self._reported:
                self._events.record(WarningIdentity(reason=problem))
        self._reported = frozenset(problems)
