"""Requests of a connected guest that are in flight while the broker's mind changes."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from pathlib import Path

import pytest

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import encoded, store
from tests.support.channel import send_records as send
from tests.support.clock import until
from tests.support.verdict import verdict
from verdictd_py.broker.appraiser import Appraiser, EvidenceReader
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import StorageError
from verdictd_py.listeners import attested
from verdictd_py.packaged import policy_text
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.storage.stores import DirectoryKeyStore

DENY_ALL = b"package policy\n\ndefault allow = false\n"


class HeldKeys:
    """Keys that are read at once, and returned when a test allows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading, self.allowed = asyncio.Event(), asyncio.Event()
        self._get = DirectoryKeyStore.get
        monkeypatch.setattr(DirectoryKeyStore, "get", lambda keys, kid: self.get(keys, kid))  # noqa: PLW0108  # a method

    async def get(self, keys: DirectoryKeyStore, key_id: KeyId) -> SecretBytes:
        found = await self._get(keys, key_id)
        self.reading.set()
        await self.allowed.wait()
        return found


@pytest.mark.parametrize("name", ["tdxPolicy.rego", "releasePolicy.rego"])
async def test_no_secret_leaves_after_a_denial_was_acknowledged(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    keys = HeldKeys(monkeypatch)
    (tmp_path / "deny.rego").write_bytes(DENY_ALL)
    async with broker.guest() as guest:
        await guest.version()
        await send(guest, encoded({"command": "Get KEK", "kids": [KID]}))
        await keys.reading.wait()
        words = ("policy", "set", name, str(tmp_path / "deny.rego"))
        assert (await verdict(broker, *words)).status == 0
        keys.allowed.set()
        answer = await guest._read()
    assert b'"Fail"' in answer


async def test_no_secret_leaves_after_a_denial_by_hand_while_the_disk_is_slow(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trail of this broker does not delay a change that another process makes."""
    held, fsync = threading.Event(), os.fsync
    began = threading.Event()

    def slow(descriptor: int) -> None:
        began.set()
        assert held.wait(60)
        fsync(descriptor)

    async with broker.guest() as guest:
        await guest.version()
        monkeypatch.setattr(os, "fsync", slow)
        await send(guest, encoded({"command": "Get KEK", "kids": [KID]}))
        await asyncio.to_thread(began.wait, 60)
        store(broker, "opa/tdxPolicy.rego", DENY_ALL)
        held.set()
        answer = await guest._read()
    assert b'"Fail"' in answer
    assert b"policy-refused" in answer


async def test_a_guest_is_served_although_each_of_ten_decisions_meets_a_change(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change allows the guest: an operator who applies many policies must not stop it."""
    get, changes = DirectoryKeyStore.get, 0

    async def get_and_change(keys: DirectoryKeyStore, key_id: KeyId) -> SecretBytes:
        nonlocal changes
        found = await get(keys, key_id)
        if changes < 10:
            changes += 1
            policy = f"{policy_text('tdxPolicy.rego')}\n# change {changes}\n"
            store(broker, "opa/tdxPolicy.rego", policy.encode())
        return found

    async with broker.guest() as guest:
        await guest.version()
        monkeypatch.setattr(DirectoryKeyStore, "get", get_and_change)
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    assert changes == 10


async def test_unreadable_documents_are_never_what_an_acceptance_stands_on(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fail twice with the same text, and can be read in between."""

    async def unreliable(documents: DocumentsWithSets, tee: str) -> int:
        raise StorageError("cannot be read")

    async with broker.guest() as guest:
        await guest.version()
        (connected,) = broker.attested._guests._guests.values()
        monkeypatch.setattr(DocumentsWithSets, "revision", unreliable)
        await connected.appraise_if_due(300)
        assert connected.status.standing == "accepted"
        assert connected.is_due(connected.basis, 300)


async def test_a_guest_that_resets_its_connection_while_it_is_accepted_does_not_stay(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each such connection would leave evidence that is appraised again for ever."""
    held, began, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        began.set()
        assert held.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    async with broker.guest() as guest:
        await asyncio.to_thread(began.wait, 60)
        own = guest._writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        guest._writer.transport.abort()
        held.set()
        await until(lambda: not broker.attested._tasks)
    assert broker.events.named("guest.accepted")
    assert broker.attested._guests._guests == {}
    assert not broker.events.named("warning.bug")


async def test_guests_whose_collateral_does_not_come_delay_no_other_guest(
    tmp_path: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their requests wait for an appraisal, which has a limit of time of its own."""
    monkeypatch.setattr(attested, "_ANSWERS_AT_ONCE", 1)
    assess, held = Appraiser.assess, asyncio.Event()
    waiting: list[object] = []

    async def slow(appraiser: Appraiser, read: EvidenceReader) -> Appraisal:
        if not waiting:
            waiting.append(read)
            await held.wait()
        return await assess(appraiser, read)

    async with (
        running_broker(tmp_path, platform) as broker,
        broker.guest() as unlucky,
        broker.guest() as guest,
    ):
        await unlucky.version()
        await guest.version()
        monkeypatch.setattr(Appraiser, "assess", slow)
        store(broker, "opa/tdxPolicy.rego", policy_text("tdxPolicy.rego").encode() + b"\n")
        await send(unlucky, encoded({"command": "Get KEK", "kids": [KID]}))
        await until(lambda: waiting)
        assert (await guest.keks([KID]))[KID].reveal() == KEY
        held.set()
