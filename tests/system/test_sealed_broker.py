"""A whole broker on a sealed data directory: migration, rotation, outage, workers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import postgres
from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import ask
from tests.support.clock import until
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.postgres import TestDatabase
from tests.support.rcar_guests import attested, tdx_guest
from tests.support.sealed import sealer, write_key
from tests.support.verdict import beside, verdict
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.postgres.stores import PostgresKeyStore
from verdictd_py.simulator import SimulatedPlatform

NEW = "default/new/1"


@pytest.fixture
def kek(tmp_path: Path) -> Path:
    return write_key(tmp_path / "kek")


async def store(broker: RunningBroker, kek: Path, *words: str) -> str:
    """Run `verdictd-py store` on the broker's directory, while it runs; return the output."""
    ended = await beside(
        "main", "store", *words, "--data-dir", str(broker.data), "--seal", f"file:{kek}"
    )
    assert ended.status == 0, ended.stderr
    return ended.stdout.decode()


async def kek_of(broker: RunningBroker) -> dict[str, object]:
    """Return the answer to an attested guest that requests a key."""
    async with broker.guest() as guest:
        return await ask(guest, {"command": "Get KEK", "kids": [KID]})


def sealed_files(data: Path) -> Iterator[bytes]:
    for path in data.rglob("*"):
        if path.is_file() and path.parent.name != "audit":
            yield path.read_bytes()


async def test_a_site_is_migrated_rotated_and_unsealed_without_a_pause(
    tmp_path: Path, platform: SimulatedPlatform, kek: Path
) -> None:
    async with running_broker(tmp_path, platform, seal=f"file:{kek}") as broker:
        await until(lambda: bool(broker.events.named("seal.opened")))
        (opened,) = broker.events.named("seal.opened")
        assert opened["strict"] is False
        plain = await kek_of(broker)
        assert plain["status"] == "OK"

        created = await verdict(broker, "key", "create", NEW)
        assert created.status == 0, created.stderr
        assert len((broker.data / "keys" / NEW).read_bytes()) > 100
        await store(broker, kek, "seal")
        assert await kek_of(broker) == plain
        listed = await verdict(broker, "key", "list")
        assert b"32" in listed.stdout
        forms = (KEY, KEY.hex().encode(), base64.b64encode(KEY)[:-4])
        assert not any(form in content for content in sealed_files(broker.data) for form in forms)

        (broker.data / "keys" / "plain").write_bytes(bytes(32))
        (broker.data / "keys" / "plain").chmod(0o600)
        async with broker.guest() as guest:
            answer = await ask(guest, {"command": "Get KEK", "kids": ["plain"]})
        assert answer["status"] != "OK"
        assert [event["path"] for event in broker.events.named("seal.refused")] == ["keys/plain"]
        (broker.data / "keys" / "plain").unlink()

        write_key(kek)
        assert "older versions of the key can be removed" in await store(broker, kek, "rotate")
        for old in kek.parent.glob("kek.old*"):
            old.unlink()
        assert await kek_of(broker) == plain
        assert "every object" in await store(broker, kek, "verify")
        await store(broker, kek, "unseal")
        assert await kek_of(broker) == plain
        assert (broker.data / "keys" / KID).read_bytes() == KEY


@pytest.mark.parametrize("where", ["directory", "postgres"])
async def test_the_key_is_rotated_while_200_guests_attest(
    tmp_path: Path, platform: SimulatedPlatform, kek: Path, where: str
) -> None:
    seal = f"file:{kek}"
    database = await postgres.empty_database() if where == "postgres" else None
    settings: dict[str, Any] = {"seal": seal}
    options: tuple[str, ...] = ()
    if database is not None:
        await in_database(database, kek, {KID: KEY} | MANY)
        options = database_options(database)
        settings |= {
            "store": database.url,
            "store_password_file": database.password_file,
            "unsafe": {"unsafe_store_tls": database.unsafe_tls},
        }
    async with running_broker(tmp_path, platform, **settings) as broker:
        if database is None:
            in_directory(broker.data, MANY)
            await store(broker, kek, "seal")
        expected = await kek_of(broker)
        assert expected["status"] == "OK"
        rotated = 0

        async def rotate() -> None:
            nonlocal rotated
            while guests.remaining:
                write_key(kek)
                await store(broker, kek, "rotate", *options)
                for old in kek.parent.glob("kek.old*"):
                    old.unlink()
                rotated += 1

        guests = _Guests(broker, 200)
        answers, _ = await asyncio.gather(guests.run(8), rotate())
        assert len(answers) == 200
        assert all(answer == expected for answer in answers)
        assert rotated
        assert "every object" in await store(broker, kek, "verify", *options)


MANY = {f"default/many/{number}": bytes(32) for number in range(100)}


def in_directory(data: Path, keys: dict[str, bytes]) -> None:
    """Store keys in plain files."""
    for name, content in keys.items():
        file = data / "keys" / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o600)


async def in_database(database: TestDatabase, kek: Path, keys: dict[str, bytes]) -> None:
    """Store keys as a broker does."""
    objects = postgres.objects_of(database, sealer=sealer(kek))
    try:
        for name, content in keys.items():
            key = SecretBytes(content)
            await PostgresKeyStore(objects).create(KeyId.parse(name), key)
    finally:
        await objects.close()


def database_options(database: TestDatabase) -> tuple[str, ...]:
    """Return the options of `verdictd-py store` that name a database."""
    return (
        *("--store", database.url, "--store-password-file", str(database.password_file)),
        *(("--unsafe-store-tls",) if database.unsafe_tls else ()),
    )


@pytest.fixture(scope="module", autouse=True)
def _database_is_dropped() -> Iterator[None]:
    yield
    postgres.drop_database()


class _Guests:
    """Guests that attest and request a key, some at a time."""

    def __init__(self, broker: RunningBroker, number: int) -> None:
        self.remaining = number
        self._broker = broker
        self._answers: list[dict[str, object]] = []

    async def run(self, at_once: int) -> list[dict[str, object]]:
        async def one_after_another() -> None:
            while self.remaining:
                self.remaining -= 1
                self._answers.append(await kek_of(self._broker))

        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        return self._answers


@pytest.mark.parametrize("cache", [None, 3600.0])
async def test_an_outage_refuses_unless_the_operator_chose_the_cache(
    tmp_path: Path, platform: SimulatedPlatform, kek: Path, cache: float | None
) -> None:
    settings: dict[str, Any] = {"seal": f"file:{kek}", "seal_cache_seconds": cache}
    async with running_kbs(tmp_path, platform, **settings) as broker:
        await store(broker, kek, "seal")
        assert (await kek_of(broker))["status"] == "OK"
        health = broker.daemon._parts.health
        await health.examine()
        assert health.parts["seal"]

        kek.rename(kek.with_name("away"))
        await health.examine()
        assert str(kek) in health.problems["seal"]
        async with httpx.AsyncClient(base_url=url_of(broker)) as http:
            ready = await http.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["seal"] != "ok"
            assert "kek" not in ready.text
        status = await verdict(broker, "status")
        assert str(kek) in status.stdout.decode()
        answer = await kek_of(broker)
        assert (answer["status"] == "OK") is (cache is not None)
        assert str(kek) not in str(answer)
        created = await verdict(broker, "key", "create", NEW)
        assert created.status == 1
        assert not (broker.data / "keys" / NEW).exists()

        kek.with_name("away").rename(kek)
        await health.examine()
        assert health.parts["seal"]
        assert (await kek_of(broker))["status"] == "OK"


async def test_the_workers_serve_a_sealed_directory(
    tmp_path: Path, platform: SimulatedPlatform, kek: Path
) -> None:
    async with running_kbs(tmp_path, platform, seal=f"file:{kek}", workers=2) as broker:
        await store(broker, kek, "seal")
        for _ in range(4):
            endpoint = broker.daemon.listener("kbs_http").endpoint
            async with attested(endpoint, tdx_guest(platform)) as session:
                assert (await session.resource(PATH)).reveal() == SECRET


async def test_a_new_site_is_sealed_from_the_start(
    tmp_path: Path, platform: SimulatedPlatform, kek: Path
) -> None:
    async with running_broker(tmp_path, platform, seal=f"file:{kek}") as broker:
        await until(lambda: bool(broker.events.named("seal.opened")))
        policy = (broker.data / "image" / "policy.json").read_bytes()
        assert b"reject" not in policy
        shown = await verdict(broker, "resource", "show", "default/security-policy/test")
        assert b"reject" in shown.stdout


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seal": "kms:x"}, "no such provider"),
        ({"seal_strict": True}, "without --seal"),
        ({"seal_cache_seconds": 5.0}, "without --seal"),
        ({"seal": "pkcs11:object=k?module-path=/l&pin-value=1"}, "pin-source"),
    ],
)
async def test_a_wrong_setting_prevents_the_start(
    tmp_path: Path, platform: SimulatedPlatform, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        async with running_broker(tmp_path, platform, **settings):
            pass
