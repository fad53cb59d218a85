"""Brokers that share the keys of attestation tokens in one data directory."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.events import RecordedEvents
from verdictd_py.daemon.tokenkeys import SharedTokenKeys
from verdictd_py.ports.sealing import SealedName
from verdictd_py.protocols.rcar.tokenring import OVERLAP, PUBLISH, TokenRing
from verdictd_py.sealing.registry import open_key
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.objects import SealedObjects
from verdictd_py.storage.tokenkeys import DirectoryTokenKeys

MONTH = timedelta(days=30)


def store_of(path: Path, sealer: EnvelopeSealer | None = None) -> DirectoryTokenKeys:
    """Return the stored keys as a process that starts now sees them."""
    for name in ("keys", "resources", "image", "gpg"):
        (path / name).mkdir(mode=0o700, exist_ok=True)
    directory = Directory.open(path)
    return DirectoryTokenKeys(
        directory, None if sealer is None else SealedObjects(directory, sealer)
    )


class Broker:
    """The shared keys of one broker, with a clock of its own."""

    def __init__(self, path: Path, sealer: EnvelopeSealer | None = None) -> None:
        self.now = datetime(2026, 11, 28, tzinfo=UTC)
        self.ring = TokenRing()
        self.events = RecordedEvents()
        self.keys = SharedTokenKeys(
            store_of(path, sealer),
            self.ring,
            lifetime=MONTH,
            clock=lambda: self.now,
            events=self.events,
        )

    def ids(self) -> list[str]:
        return [key["kid"] for key in self.ring.jwks()["keys"]]


async def test_brokers_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    brokers = [Broker(tmp_path) for _ in range(8)]
    await asyncio.gather(*(broker.keys.refresh() for broker in brokers))
    assert [await broker.keys.fault() for broker in brokers] == [""] * 8
    assert len({tuple(broker.ids()) for broker in brokers}) == 1
    assert sum(len(broker.events.named("kbs.token-key-added")) for broker in brokers) == 1


async def test_a_key_is_rotated_once_by_all_brokers(tmp_path: Path) -> None:
    brokers = [Broker(tmp_path) for _ in range(8)]
    for broker in brokers:
        await broker.keys.refresh()
    (first,) = brokers[0].ids()
    for broker in brokers:
        broker.now += MONTH
    await asyncio.gather(*(broker.keys.refresh() for broker in brokers))
    for broker in brokers:
        await broker.keys.refresh()
    assert {len(broker.ids()) for broker in brokers} == {2}
    assert {broker.ids()[0] for broker in brokers} == {first}
    added = [e for b in brokers for e in b.events.named("kbs.token-key-added")]
    assert len(added) == 2
    for broker in brokers:
        broker.now += MONTH + PUBLISH + OVERLAP
        await broker.keys.refresh()
    assert {len(broker.ids()) for broker in brokers} == {2}
    assert first not in brokers[0].ids()


async def test_the_file_is_private_and_survives_a_restart(tmp_path: Path) -> None:
    one = Broker(tmp_path)
    await one.keys.refresh()
    assert (tmp_path / "tokens" / "keys").stat().st_mode & 0o777 == 0o600
    other = Broker(tmp_path)
    await other.keys.refresh()
    assert other.ids() == one.ids()


async def test_keys_in_use_remain_in_use_while_the_store_fails(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    await broker.keys.refresh()
    ids = broker.ids()
    (tmp_path / "tokens" / "keys").write_bytes(b"damaged")
    await broker.keys.refresh()
    assert "damaged" in await broker.keys.fault()
    assert broker.ids() == ids
    (tmp_path / "tokens" / "keys").unlink()
    assert await broker.keys.fault() == ""  # the check of the health reads them again
    assert broker.ids() != ids


@pytest.fixture
def sealer(tmp_path_factory: pytest.TempPathFactory) -> EnvelopeSealer:
    file = tmp_path_factory.mktemp("kek") / "kek"
    file.write_bytes(secrets.token_bytes(32))
    file.chmod(0o400)
    return EnvelopeSealer(open_key(f"file:{file}"))


async def test_a_sealed_file_has_no_key_in_plain_text(
    tmp_path: Path, sealer: EnvelopeSealer
) -> None:
    broker = Broker(tmp_path, sealer)
    await broker.keys.refresh()
    content = (tmp_path / "tokens" / "keys").read_bytes()
    assert b"signs_from" not in content
    other = Broker(tmp_path, sealer)
    await other.keys.refresh()
    assert other.ids() == broker.ids()
    plain = Broker(tmp_path)
    await plain.keys.refresh()
    assert "sealed; start with --seal" in await plain.keys.fault()


async def test_a_plain_file_is_replaced_and_never_used_where_keys_are_sealed(
    tmp_path: Path, sealer: EnvelopeSealer
) -> None:
    """Otherwise an attacker with write access to the directory could sign tokens."""
    planted = Broker(tmp_path)
    await planted.keys.refresh()
    broker = Broker(tmp_path, sealer)
    await broker.keys.refresh()
    assert set(broker.ids()).isdisjoint(planted.ids())
    assert "not sealed" in str(broker.events.named("warning.storage"))


async def test_an_older_sealed_file_is_refused(tmp_path: Path, sealer: EnvelopeSealer) -> None:
    """An attacker who has copied a key puts it back, after an operator has removed it."""
    broker, file = Broker(tmp_path, sealer), tmp_path / "tokens" / "keys"
    await broker.keys.refresh()
    older = file.read_bytes()
    for _ in range(2):
        broker.now += MONTH + PUBLISH + OVERLAP
        await broker.keys.refresh()
    ids, newer = broker.ids(), file.read_bytes()
    file.write_bytes(older)
    await broker.keys.refresh()
    assert broker.ids() == ids  # what it has in memory
    fresh = Broker(tmp_path, sealer)
    await fresh.keys.refresh()
    assert fresh.ids() == []
    for each in (broker, fresh):
        assert "altered, replaced or removed" in await each.keys.fault()
    assert file.read_bytes() == older  # nothing overwrites what shows the attack
    file.write_bytes(newer)
    await fresh.keys.refresh()
    assert (fresh.ids(), await fresh.keys.fault()) == (ids, "")


async def test_a_removed_file_is_replaced_by_other_keys(
    tmp_path: Path, sealer: EnvelopeSealer
) -> None:
    broker, file = Broker(tmp_path, sealer), tmp_path / "tokens" / "keys"
    await broker.keys.refresh()
    ids, older = broker.ids(), file.read_bytes()
    file.unlink()
    fresh = Broker(tmp_path, sealer)
    for each in (broker, fresh):
        await each.keys.refresh()
        assert await each.keys.fault() == ""
    assert broker.ids() == fresh.ids()
    assert set(ids).isdisjoint(broker.ids())
    file.write_bytes(older)
    await fresh.keys.refresh()
    assert "altered, replaced or removed" in await fresh.keys.fault()


async def test_keys_that_are_sealed_without_a_revision_are_replaced(
    tmp_path: Path, sealer: EnvelopeSealer
) -> None:
    """As the first releases stored them: nothing tells which of two such files is the older one."""
    objects = store_of(tmp_path, sealer)._objects
    assert objects is not None
    await objects.index.prepare()
    planted = Broker(tmp_path)
    await planted.keys.refresh()
    file = tmp_path / "tokens" / "keys"
    file.write_bytes(await sealer.seal(SealedName("token-key", "tokens/keys"), file.read_bytes()))
    broker = Broker(tmp_path, sealer)
    await broker.keys.refresh()
    assert await broker.keys.fault() == ""
    assert set(broker.ids()).isdisjoint(planted.ids())


async def test_an_altered_sealed_file_is_refused(tmp_path: Path, sealer: EnvelopeSealer) -> None:
    broker = Broker(tmp_path, sealer)
    await broker.keys.refresh()
    file = tmp_path / "tokens" / "keys"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    fresh = Broker(tmp_path, sealer)
    await fresh.keys.refresh()
    assert "tokens/keys" in await fresh.keys.fault()
    assert fresh.ids() == []
