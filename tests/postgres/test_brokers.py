"""Whole brokers on one database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.support import postgres
from tests.support.broker import KID, RunningBroker, running_broker
from tests.support.clock import elapse, elapse_until, until
from tests.support.postgres import TestDatabase
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.domain.events import FileChanged, WarningBug
from verdictd_py.errors import ConfigError
from verdictd_py.events.loggedheads import heads_in
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.postgres.heads import logged_heads
from verdictd_py.postgres.objects import BOUND_SECONDS, POLL_SECONDS
from verdictd_py.simulator import SimulatedPlatform

NOBODY = b"package policy\n\nallow = false\n"
SECRET = bytes(range(100, 132))

Pair = tuple[RunningBroker, RunningBroker]


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    return await postgres.empty_database()


@pytest_asyncio.fixture
async def brokers(
    tmp_path: Path, platform: SimulatedPlatform, database: TestDatabase
) -> AsyncIterator[Pair]:
    """Two brokers on one database, each with a data directory of its own."""
    async with AsyncExitStack() as stack:
        running = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            broker = running_broker(tmp_path / name, platform, **settings(database))
            running.append(await stack.enter_async_context(broker))
        yield running[0], running[1]


def settings(database: TestDatabase) -> dict[str, Any]:
    """Return the settings of a broker on the database."""
    return {
        "store": database.url,
        "store_password_file": database.password_file,
        "seal": f"file:{postgres.key_file()}",
        "unsafe": {"unsafe_store_tls": database.unsafe_tls},
    }


async def create_key(broker: RunningBroker) -> str:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        created = await v1_grpc.KeyServiceStub(channel).CreateKey(v1.CreateKeyRequest(name=KID))
        return str(created.name)


async def set_policy(broker: RunningBroker, text: bytes) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub = v1_grpc.DocumentServiceStub(channel)
        await stub.SetPolicy(v1.SetPolicyRequest(name="tdxPolicy.rego", content=text))


async def settled(broker: RunningBroker) -> None:
    """Let a broker notice everything that is stored; notifications do so within milliseconds."""
    shared = broker.daemon._parts.shared
    assert shared is not None
    await shared.objects.confirm()


async def key_of(broker: RunningBroker) -> bytes:
    """Return the key that a good guest gets."""
    async with broker.guest() as guest:
        return (await guest.keks([KID]))[KID].reveal()


async def test_a_guest_gets_a_key_that_was_created_at_another_broker(brokers: Pair) -> None:
    one, two = brokers
    await create_key(one)
    await settled(two)
    assert await key_of(two) == await key_of(one) != (one.data / "keys" / KID).read_bytes()


async def test_a_policy_that_was_withdrawn_at_another_broker_is_not_used(brokers: Pair) -> None:
    one, two = brokers
    await create_key(one)
    await settled(two)
    await key_of(two)
    seen = len(two.events.of(FileChanged))
    await set_policy(one, NOBODY)
    await until(lambda: len(two.events.of(FileChanged)) > seen)  # it is notified
    with pytest.raises(BrokerRefused):
        await key_of(two)


async def test_a_change_at_another_broker_is_announced(brokers: Pair) -> None:
    one, two = brokers
    changes = two.attested._guests._changes
    before = changes.count
    await create_key(one)
    await settled(two)
    assert changes.count == before  # a key changes no decision
    await set_policy(one, NOBODY)
    await settled(two)
    assert changes.count > before


async def test_a_connected_guest_loses_access_when_another_broker_withdraws_the_policy(
    brokers: Pair,
) -> None:
    one, two = brokers
    await create_key(one)
    await settled(two)
    async with two.guest() as guest:
        await guest.keks([KID])
        await set_policy(one, NOBODY)
        await settled(two)
        with pytest.raises((BrokerRefused, ConnectionError)):
            await guest.keks([KID])


async def test_nothing_is_served_without_the_database_and_everything_afterwards(
    brokers: Pair, database: TestDatabase
) -> None:
    one, two = brokers
    await create_key(one)
    await settled(two)
    expected = await key_of(two)
    database.stop()
    try:
        parts = two.daemon._parts
        await elapse(POLL_SECONDS)
        await elapse_until(lambda: "store" in parts.health.problems)
        await elapse(BOUND_SECONDS)
        with pytest.raises(BrokerRefused) as raised:
            await key_of(two)
        assert "no key" not in str(raised.value)
        async with grpc.aio.insecure_channel(two.client_api) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await v1_grpc.KeyServiceStub(channel).ListKeys(v1.ListKeysRequest())
        assert failed.value.code() is not grpc.StatusCode.NOT_FOUND
        assert "database does not answer" in str(failed.value.details())
    finally:
        database.resume()
    await elapse_until(lambda: "store" not in parts.health.problems)
    assert await key_of(two) == expected


async def test_a_broker_starts_without_the_database_and_serves_when_it_answers(
    tmp_path: Path, platform: SimulatedPlatform, database: TestDatabase
) -> None:
    database.stop()
    try:
        async with running_broker(tmp_path, platform, **settings(database)) as broker:
            health = broker.daemon._parts.health
            assert "store" in health.problems
            database.resume()
            await elapse_until(lambda: not health.problems)
            await create_key(broker)
            await key_of(broker)
    finally:
        database.resume()


async def test_the_history_survives_a_restart(
    tmp_path: Path, platform: SimulatedPlatform, database: TestDatabase
) -> None:
    async with running_broker(tmp_path, platform, **settings(database)) as broker:
        await create_key(broker)
        await key_of(broker)
    async with running_broker(tmp_path, platform, **settings(database)) as broker:
        assert database.execute("SELECT 1 FROM verdictd.judgements")
        async with grpc.aio.insecure_channel(broker.client_api) as channel:
            stub = v1_grpc.AppraisalServiceStub(channel)
            while not (
                listed := await stub.ListGuests(v1.ListGuestsRequest(verdict=v1.VERDICT_ACCEPTED))
            ).guests:
                pass  # it is loaded after the start; the clock would not leave the database time
    assert len(listed.guests) == 1


async def test_the_status_names_the_database(brokers: Pair, database: TestDatabase) -> None:
    async with grpc.aio.insecure_channel(brokers[0].client_api) as channel:
        status = await v1_grpc.StatusServiceStub(channel).GetStatus(v1.GetStatusRequest())
    assert (status.store, status.seal) == (database.url, "file")


async def test_without_seal_the_broker_does_not_start(
    tmp_path: Path, platform: SimulatedPlatform, database: TestDatabase
) -> None:
    chosen = {**settings(database), "seal": None}
    with pytest.raises(ConfigError, match=r"^--store needs --seal[^\n]*$"):
        async with running_broker(tmp_path, platform, **chosen):
            pass


async def test_without_the_schema_the_broker_does_not_start(
    tmp_path: Path, platform: SimulatedPlatform, database: TestDatabase
) -> None:
    database.execute("ALTER SCHEMA verdictd RENAME TO elsewhere")
    try:
        with pytest.raises(ConfigError, match="verdictd-py store migrate"):
            async with running_broker(tmp_path, platform, **settings(database)):
                pass
    finally:
        database.execute("ALTER SCHEMA elsewhere RENAME TO verdictd")


async def test_audit_heads_are_stored(brokers: Pair, database: TestDatabase) -> None:
    one, _ = brokers
    shared = one.daemon._parts.shared
    assert shared is not None
    await shared.heads.flush()
    stored = database.execute("SELECT broker, digest FROM verdictd.audit_heads")
    digests = [fields["digest"] for fields in one.events.named("audit.head")]
    assert [(shared.broker, digest) for digest in digests] == stored


async def test_heads_of_one_broker_are_printed_as_a_log(
    brokers: Pair, database: TestDatabase
) -> None:
    for broker in brokers:
        shared = broker.daemon._parts.shared
        assert shared is not None
        await shared.heads.flush()
    assert shared is not None
    lines = await logged_heads(shared.objects.database, shared.broker)
    assert [head.digest for head in heads_in(lines)] == [
        fields["digest"] for fields in brokers[1].events.named("audit.head")
    ]
    assert len(await logged_heads(shared.objects.database)) > len(lines)


async def test_a_broker_that_stops_during_an_outage_reports_no_bug(
    tmp_path: Path, platform: SimulatedPlatform, database: TestDatabase
) -> None:
    """Its last audit heads cannot be stored; the audit trail has them."""
    try:
        async with running_broker(tmp_path, platform, **settings(database)) as broker:
            shared = broker.daemon._parts.shared
            assert shared is not None
            assert shared.heads._waiting
            database.stop()
        assert not broker.events.of(WarningBug)
        assert json.loads((broker.data / "postgres" / "mark.json").read_text())["change"] > 0
    finally:
        database.resume()
