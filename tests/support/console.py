"""The console of a broker: a person who is signed in, and a broker with guests of every verdict."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any

import grpc
import httpx

from tests.support.broker import RunningBroker
from tests.support.eventlogs import command_line, event, secure_boot, written
from tests.support.kbs import running_kbs, url_of
from tests.support.rcar_guests import attest, connected, tdx_guest
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.errors import VerdictdError
from verdictd_py.simulator import Flaw, SimulatedPlatform, TdMeasurements
from verdictd_py.simulator.tdreport import simulated_digest

PINNED = ("mrTd", "rtmr0", "rtmr1", "rtmr2", "mrSeam")


@dataclass
class Person:
    """A browser without scripts: it keeps cookies and sends forms with their hidden values."""

    client: httpx.AsyncClient

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.client.get(path, **more)

    async def text(self, path: str) -> str:
        """Return a page that must be there."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def send(
        self, page: str, action: str, values: Sequence[tuple[str, str]] = (), **more: Any
    ) -> httpx.Response:
        """Open a page and send its form to `action`, with other values for some fields."""
        fields = form(await self.text(page), action)
        given = {name for name, _ in values}
        content = [(name, value) for name, value in fields if name not in given] + list(values)
        return await self.post(action, content, **more)

    async def post(
        self, action: str, values: Sequence[tuple[str, str]], **more: Any
    ) -> httpx.Response:
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": "null", **more.pop("headers", {})}
        body = httpx.QueryParams(list(values))
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return await self.client.post(action, content=str(body), headers=headers, **more)


def form(page: str, action: str) -> list[tuple[str, str]]:
    """Return the hidden fields of the form that a page sends to `action`."""
    for found in re.finditer(r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', page, re.DOTALL):
        if unescape(found[1]) == action and 'method="post"' in found[0]:
            inputs = re.findall(r"<input[^>]*>", found[2])
            return [
                (_attribute(each, "name"), _attribute(each, "value"))
                for each in inputs
                if 'type="hidden"' in each
            ]
    raise AssertionError(f"the page has no form for {action}")


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return unescape(found[1]) if found else ""


async def link(broker: RunningBroker) -> str:
    """Return a one-time link, as `verdict-py console` prints it."""
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub = v1_grpc.ConsoleServiceStub(channel)
        answer: v1.Link = await stub.CreateLink(v1.CreateLinkRequest())
        return answer.url


@asynccontextmanager
async def visitor(broker: RunningBroker, **more: Any) -> AsyncIterator[Person]:
    """A browser at the console, not signed in."""
    url = broker.daemon.listener("console").endpoint
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, **more) as client:
        yield Person(client)


@asynccontextmanager
async def person(broker: RunningBroker, **more: Any) -> AsyncIterator[Person]:
    """A person who is signed in with a link."""
    async with visitor(broker, **more) as someone:
        code = (await link(broker)).partition("code=")[2]
        answer = await someone.post("/login", [("code", code)])
        assert answer.status_code == 303, answer.text
        yield someone


def measured(**registers: str) -> TdMeasurements:
    """Return measurements in which some registers are those of other software."""
    digests: dict[str, Any] = {name: simulated_digest(text) for name, text in registers.items()}
    return TdMeasurements(**digests)


async def connect(broker: RunningBroker, **how: Any) -> None:
    """Connect a guest once; it may be refused."""
    with suppress(VerdictdError, OSError):
        async with broker.guest(broker.attester(**how)) as guest:
            await guest.version()


async def pin_good_guest(broker: RunningBroker) -> None:
    """Pin the measurements of an honest guest."""
    await connect(broker)
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        appraisals = v1_grpc.AppraisalServiceStub(channel)
        references = v1_grpc.ReferenceServiceStub(channel)
        listed = await appraisals.ListGuests(v1.ListGuestsRequest(verdict=v1.VERDICT_ACCEPTED))
        if not listed.guests:
            listed = await appraisals.ListGuests(v1.ListGuestsRequest(verdict=v1.VERDICT_REFUSED))
        guest = listed.guests[0]
        preview = await references.PreviewPin(v1.PreviewPinRequest(id=guest.id, fields=PINNED))
        await references.PinValues(
            v1.PinValuesRequest(id=guest.id, fields=PINNED, revision=preview.revision)
        )


async def guests_of_every_kind(broker: RunningBroker) -> None:
    """Connect guests that are accepted, refused for several reasons, and not verified."""
    await pin_good_guest(broker)
    for _ in range(2):
        await connect(broker)
    honest = TdMeasurements()
    mistyped = bytearray(honest.rtmr2)
    mistyped[20] ^= 0x70
    for kernel in ("kernel 6.6.59", "kernel 6.6.59", "kernel 6.6.60"):
        td = replace(measured(rtmr1=kernel), rtmr2=bytes(mistyped))
        await connect(broker, measurements=td)
    await connect(broker, measurements=replace(honest, rtmr2=bytes(mistyped)))
    await connect(broker, measurements=honest.debug())
    await connect(broker, flaw=Flaw.CHANGED_AFTER_SIGNING)


async def connect_with_log(broker: RunningBroker) -> None:
    """Connect a guest over HTTP that sends the log of its boot; it is refused for its kernel."""
    action, loader, image = 0x80000007, 0x80000003, 0x8000000A
    log = written(
        event(1, image, b"firmware"),
        secure_boot(b"\x01"),
        event(1, 0x00000004, bytes(4)),
        event(2, action, b"Calling EFI Application from Boot Option"),
        event(2, loader, b"shim", b"another image"),
        event(2, action, b"Exit Boot Services Returned with Success"),
        command_line(b"/vmlinuz-6.6.59 root=/dev/vda ro console=hvc0"),
    )
    guest = tdx_guest(broker.platform, event_log=log)
    with suppress(VerdictdError):
        async with connected(url_of(broker), guest) as session:
            await attest(session)


async def _serve(directory: Path, *, read_only: bool) -> None:
    """Serve until standard input ends; print the address and links as JSON, one for each line."""
    from verdictd_py.daemon import utc_now  # noqa: PLC0415

    platform = SimulatedPlatform.create(now=utc_now())
    async with running_kbs(
        directory, platform, console="127.0.0.1:0", console_read_only=read_only
    ) as broker:
        await guests_of_every_kind(broker)
        await connect_with_log(broker)
        async with broker.guest(broker.attester()) as guest:
            await guest.version()
            loop = asyncio.get_running_loop()
            while True:
                print(json.dumps({"link": await link(broker)}), flush=True)  # noqa: T201
                if not await loop.run_in_executor(None, sys.stdin.readline):
                    print(*broker.events.named("warning.bug"), file=sys.stderr)  # noqa: T201
                    return


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), read_only="--read-only" in sys.argv))
