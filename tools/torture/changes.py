"""Operators that change a broker's data without pause, and the record of what was acknowledged."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import pysequoia

from tools.torture.clients import channel_to
from verdictd_py._generated import clientapi_pb2 as api
from verdictd_py._generated import clientapi_pb2_grpc as api_grpc
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc

CALL_SECONDS: Final = 60.0
KEY, RESOURCE, SET, CERTIFICATE = "key", "resource", "set", "certificate"
PRESENT: Final = "present"
ABSENT: Final = "absent"
TORN: Final = "torn"
CERTIFICATES_OF_WRITER: Final = 10
MAX_CONTENT_BYTES: Final = 20_000

_PAUSE_SECONDS: Final = 0.05
"""Pause of an operator after a broker that could not be reached."""

_IN_DOUBT: Final = "not known whether"
"""Part of the text of a change whose commit was interrupted."""

_OUTAGE: Final = "the database does not answer"
"""Part of the text of a change that was not made, because it could not be stored."""

Thing = tuple[str, str]
"""Kind and name."""


@dataclass
class Ledger:
    """What each thing may be after the changes so far.

    Attributes:
        acceptable: the states that do not contradict an acknowledgement. There are several while
            changes are in flight, and after changes whose answer was lost.
        acknowledged: number of changes.
        in_doubt: number of changes whose answer was lost.
        retries: number of changes that the broker asked to request again (ABORTED).
        outages: number of changes that were refused because the database did not answer.
        unexpected: texts of other refusals.
    """

    acceptable: dict[Thing, set[str]] = field(default_factory=dict)
    acknowledged: int = 0
    in_doubt: int = 0
    retries: int = 0
    outages: int = 0
    unexpected: list[str] = field(default_factory=list)

    def begin(self, thing: Thing, state: str) -> None:
        """Note that a change to `state` is sent."""
        self.acceptable.setdefault(thing, {ABSENT}).add(state)

    def acknowledge(self, thing: Thing, state: str) -> None:
        """Note that a change was acknowledged."""
        self.acceptable[thing] = {state}
        self.acknowledged += 1

    def refuse(self, thing: Thing, state: str) -> None:
        """Note that the broker answered that it did not make a change."""
        self.acceptable[thing].discard(state)

    def differences(self, found: Mapping[Thing, str]) -> list[str]:
        """Return a line for each thing whose state contradicts an acknowledgement."""
        return [
            f"{kind} {name} is {found.get((kind, name), ABSENT)}, not {' or '.join(sorted(states))}"
            for (kind, name), states in self.acceptable.items()
            if found.get((kind, name), ABSENT) not in states
        ]


class Operator:
    """Management calls over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._keys: Any = v1_grpc.KeyServiceStub(channel)
        self._sets: Any = v1_grpc.ReferenceServiceStub(channel)
        self._resources: Any = api_grpc.ResourceServiceStub(channel)
        self._keyring: Any = api_grpc.GpgServiceStub(channel)

    async def create_key(self, name: str) -> None:
        await self._keys.CreateKey(v1.CreateKeyRequest(name=name), timeout=CALL_SECONDS)

    async def set_resource(self, path: str, content: bytes) -> None:
        request = api.SetResourceRequest(resource_id=path, content=content)
        await self._resources.SetResource(request, timeout=CALL_SECONDS)

    async def add_set(self, name: str) -> None:
        value = hashlib.sha384(name.encode()).hexdigest()
        request = v1.AddSetRequest(
            name=name, tee="tdx", values=[v1.Accepted(field="rtmr1", values=[value])]
        )
        await self._sets.AddSet(request, timeout=CALL_SECONDS)

    async def retire_set(self, name: str) -> None:
        request = v1.RetireSetRequest(tee="tdx", name=name)
        await self._sets.RetireSet(request, timeout=CALL_SECONDS)

    async def delete_set(self, name: str) -> None:
        request = v1.DeleteSetRequest(tee="tdx", name=name)
        await self._sets.DeleteSet(request, timeout=CALL_SECONDS)

    async def import_certificate(self, certificate: bytes) -> None:
        request = api.ImportGpgKeyRequest(key=certificate)
        await self._keyring.importGpgKey(request, timeout=CALL_SECONDS)

    async def find(self, ledger: Ledger) -> dict[Thing, str]:
        """Return the states of the things in the ledger, as this broker reports them."""
        found = {
            (KEY, key.name): TORN if key.problem else PRESENT for key in await self._all_keys()
        }
        sets = await self._sets.ListSets(v1.ListSetsRequest(tee="tdx"), timeout=CALL_SECONDS)
        found |= {(SET, one.name): one.state for one in sets.sets}
        listed = await self._keyring.listGpgKeys(api.ListGpgKeysRequest(), timeout=CALL_SECONDS)
        text = listed.keys.decode().replace(" ", "").upper()
        for kind, name in ledger.acceptable:
            if kind == CERTIFICATE and name.upper() in text:
                found[kind, name] = PRESENT
            if kind == RESOURCE:
                found[kind, name] = await self._resource(name)
        return found

    async def _all_keys(self) -> list[Any]:
        keys: list[Any] = []
        token = ""
        while True:
            request = v1.ListKeysRequest(page_token=token)
            page = await self._keys.ListKeys(request, timeout=CALL_SECONDS)
            keys += page.keys
            if not (token := page.next_page_token):
                return keys

    async def _resource(self, path: str) -> str:
        request = api.GetResourceRequest(resource_id=path)
        try:
            answer = await self._resources.GetResource(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return ABSENT
            raise
        return _number_in(answer.content)


class Gate:
    """Stops and continues the operators of one broker.

    Attributes:
        address: of the broker's gRPC listener; empty before the first start.
    """

    def __init__(self) -> None:
        self.address = ""
        self._open = asyncio.Event()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def open(self, address: str) -> None:
        """Let operators change the broker at `address`."""
        self.address = address
        self._open.set()

    async def close(self) -> None:
        """Let no further change begin, and wait for those that are in flight."""
        self._open.clear()
        await self._empty.wait()

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Wait until it is open, and count as inside until the context ends."""
        await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()


class Writer:
    """One operator, who changes things that no other operator has.

    Args:
        name: the beginning of the names of those things.
        choose: the source of randomness.
        gate: open while this operator may begin changes.
        sets: whether it changes named sets, which decide about guests.
        pause: seconds after each round of changes.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        choose: random.Random,
        gate: Gate,
        *,
        sets: bool = True,
        pause: float = 0,
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._random = choose
        self._gate = gate
        self._number = 0
        self._sets: list[str] | None = [] if sets else None
        self._pause = pause

    async def run(self) -> None:
        """Make changes until this task is cancelled; a broker that ends is waited for."""
        while True:
            async with self._gate.passed(), channel_to(self._gate.address) as channel:
                operator = Operator(channel)
                while self._gate.is_open and await self._round(operator):  # noqa: ASYNC110  # no event
                    await asyncio.sleep(self._pause)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _round(self, operator: Operator) -> bool:
        """Make one change of each kind; return False once the broker cannot be reached."""
        self._number += 1
        number, name = self._number, f"{self._name}-{self._number}"
        key, path = f"torture/{self._name}/{number}", f"torture/{self._name}/r{number % 5}"
        content = _numbered(number, self._random.randrange(MAX_CONTENT_BYTES))
        changes: list[tuple[Thing, str, Callable[[], Any]]] = [
            ((KEY, key), PRESENT, lambda: operator.create_key(key)),
            ((RESOURCE, path), str(number), lambda: operator.set_resource(path, content)),
        ]
        if number <= CERTIFICATES_OF_WRITER:
            certificate = _certificate(name)
            thing = (CERTIFICATE, certificate.fingerprint)
            changes.append(
                (thing, PRESENT, lambda: operator.import_certificate(bytes(certificate)))
            )
        if (sets := self._sets) is not None:
            changes.append(((SET, name), "in force", lambda: operator.add_set(name)))
            sets.append(name)
            if len(sets) > 2 and self._known(old := sets[-3], "in force"):
                changes.append(((SET, old), "retired", lambda: operator.retire_set(old)))
            if len(sets) > 20 and self._known(gone := sets.pop(0), "retired"):
                changes.append(((SET, gone), ABSENT, lambda: operator.delete_set(gone)))
        for thing, state, call in changes:
            if not self._gate.is_open or not await self._change(thing, state, call):
                return False
        return True

    def _known(self, name: str, state: str) -> bool:
        return self._ledger.acceptable.get((SET, name)) == {state}

    async def _change(self, thing: Thing, state: str, call: Callable[[], Any]) -> bool:
        self._ledger.begin(thing, state)
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            details = str(error.details())
            if error.code() is grpc.StatusCode.UNAVAILABLE or _IN_DOUBT in details:
                self._ledger.in_doubt += 1
                return _IN_DOUBT in details
            self._ledger.refuse(thing, state)
            if error.code() is grpc.StatusCode.ABORTED:  # changed by others: request it again
                self._ledger.retries += 1
            elif _OUTAGE in details:
                self._ledger.outages += 1
            else:
                text = f"{thing[0]} to {state}: {error.code().name}: {error.details()}"
                self._ledger.unexpected.append(text[:200])
            return True
        self._ledger.acknowledge(thing, state)
        return True


async def verify(address: str, ledger: Ledger) -> list[str]:
    """Return what the broker at `address` reports and the ledger contradicts."""
    async with channel_to(address) as channel:
        return ledger.differences(await Operator(channel).find(ledger))


def _numbered(number: int, padding: int) -> bytes:
    """Return content whose every part depends on its number and length."""
    head = f"{number}:{padding}:".encode()
    unit = hashlib.sha256(head).digest()
    return head + (unit * (padding // len(unit) + 1))[:padding]


def _number_in(content: bytes) -> str:
    """Return the number of whole content, or `torn`."""
    number, padding, *_ = (*content.split(b":", 2), b"", b"")
    if not (number.isdigit() and padding.isdigit()):
        return TORN
    return number.decode() if content == _numbered(int(number), int(padding)) else TORN


def _certificate(name: str) -> pysequoia.Cert:
    return pysequoia.Tsk.generate(f"{name} <{name}@torture.test>").extract_certificate()
