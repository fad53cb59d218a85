"""Guests of both protocols that attest to the broker of the node."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
from cryptography import x509

from tools.torture.clients import FAILURES, failure_text
from verdictd_py import daemon as app
from verdictd_py.domain.names import ResourcePath
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.guest.rcar.evidence import TdxEvidence
from verdictd_py.guest.rcar.http import KbsLink
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform

PATIENCE_SECONDS: Final = 60.0
"""Of one guest, on a busy machine."""
_PROBE_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 0.1
END_SECONDS: Final = 180.0


@dataclass(frozen=True)
class Guests:
    """Makes guests; each is a new one with fresh evidence.

    Attributes:
        host: name of the Service, which its certificate has.
        ca: file of the authority of that certificate.
    """

    platform: SimulatedPlatform
    host: str
    ca: Path
    ratstls_port: int = 20002
    https_port: int = 8443

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.https_port}"

    async def ratstls(self, key: str, *, seconds: float = PATIENCE_SECONDS) -> bytes:
        """Attest over RATS-TLS; return the key."""
        attester = SimulatedAttester(self.platform)
        context = guest_context(attester, Form.CURRENT, now=app.utc_now())
        async with asyncio.timeout(seconds):
            opened = GuestConnection.open(
                self.host, self.ratstls_port, context, timeout_seconds=seconds
            )
            async with opened as guest:
                return (await guest.keks([key]))[key].reveal()

    async def https(self, resource: str, *, seconds: float = PATIENCE_SECONDS) -> bytes:
        """Attest over HTTPS; return the resource."""
        link = KbsLink(self.url, ca=self.ca, timeout_seconds=seconds)
        key = TeeKey.new(TeeKeyKind.usual(Version.V0_4_0), Version.V0_4_0)
        guest = RcarGuest(TdxEvidence(SimulatedAttester(self.platform)), key=key)
        async with asyncio.timeout(seconds), RcarSession.open(link, guest) as session:
            return (await session.resource(ResourcePath.parse(resource))).reveal()

    async def administrate(self, token: str, resource: str, content: bytes) -> int:
        """Set a resource with an administrator's token; return the status of the answer."""
        context = ssl.create_default_context(cafile=self.ca)
        async with httpx.AsyncClient(verify=context, timeout=PATIENCE_SECONDS) as client:
            answer = await client.post(
                f"{self.url}/kbs/v0/resource/{resource}",
                content=content,
                headers={"Authorization": f"Bearer {token}"},
            )
        return answer.status_code

    async def serial_number(self) -> int:
        """Return the serial number of the certificate that is served now."""
        context = ssl.create_default_context(cafile=self.ca)
        _, writer = await asyncio.open_connection(self.host, self.https_port, ssl=context)
        try:
            served = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.close()
        return x509.load_der_x509_certificate(served).serial_number


@dataclass
class Served:
    """What guests got.

    Attributes:
        values: how many guests got each value.
        failures: texts of those that got none.
        slowest: seconds of the slowest one that was served.
    """

    values: dict[bytes, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.values.values())


@asynccontextmanager
async def load(guests: Guests, key: str, resource: str, *, at_once: int) -> AsyncIterator[Served]:
    """Keep so many guests attesting at any time, half of each protocol, until the context ends.

    Every guest ends before the context does.
    """
    served = Served()
    ended = asyncio.Event()

    async def run(number: int) -> None:
        while not ended.is_set():
            begin = time.monotonic()
            try:
                got = await (guests.https(resource) if number % 2 else guests.ratstls(key))
            except FAILURES as error:
                served.failures.append(failure_text(error))
            else:
                served.values[got] = served.values.get(got, 0) + 1
                served.slowest = max(served.slowest, time.monotonic() - begin)

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(run(number))
        try:
            yield served
        finally:
            ended.set()


@dataclass
class Outage:
    """How long no guest was served.

    Attributes:
        seconds: the longest time between two guests that were served; infinite if none was at
            the end.
        failed: number of guests in between.
        other: values that a guest got and should not have.
    """

    seconds: float = 0.0
    failed: int = 0
    other: set[bytes] = field(default_factory=set)


@asynccontextmanager
async def watched(guests: Guests, key: str, expected: bytes) -> AsyncIterator[Outage]:
    """Have one guest after the other attest: before the context, in it, and once after it."""
    outage = Outage()
    served, ended = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        last: float | None = None
        give_up = math.inf
        while time.monotonic() < give_up:
            was_ended = ended.is_set()
            give_up = min(give_up, time.monotonic() + END_SECONDS) if was_ended else give_up
            try:
                got = await guests.ratstls(key, seconds=_PROBE_SECONDS)
            except FAILURES:
                outage.failed += 1
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            now = time.monotonic()
            outage.seconds = max(outage.seconds, now - (last or now))
            last = now
            served.set()
            if got != expected:
                outage.other.add(got)
            if was_ended:
                return
            await asyncio.sleep(PAUSE_SECONDS)
        outage.seconds = math.inf

    async with asyncio.TaskGroup() as group:
        group.create_task(run())
        await served.wait()
        try:
            yield outage
        finally:
            ended.set()
