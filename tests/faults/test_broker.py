"""A whole broker while its data directory has a fault, and afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from wasmtime import Config, Engine, wat2wasm

from tests.support.broker import KID, RunningBroker
from tests.support.channel import ask
from tests.support.verdict import verdict
from tests.system.test_client_api_services import health
from verdictd_py.errors import StorageError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.policy import native

SERVING, NOT_SERVING = 1, 2
LISTS = (
    ("key", "list"),
    ("resource", "list"),
    ("policy", "list"),
    ("policy", "show", "tdxPolicy.rego"),
    ("reference", "show"),
    ("reference", "sets"),
    ("keyring", "list"),
)


async def is_accepted(broker: RunningBroker) -> bool:
    """Return whether a guest is accepted and receives a key."""
    try:
        async with broker.guest() as guest:
            answer = await ask(guest, {"command": "Get KEK", "kids": [KID]})
            return answer["status"] == "OK" and bool(answer["data"])
    except (BrokerRefused, OSError):
        return False


def _move(data: Path) -> Callable[[], None]:
    data.rename(data.parent / "away")

    def restore() -> None:
        (data.parent / "away").rename(data)

    return restore


def _copy(data: Path) -> Callable[[], None]:
    shutil.copytree(data, data.parent / "copy")
    shutil.rmtree(data)

    def restore() -> None:
        shutil.copytree(data.parent / "copy", data)

    return restore


def _unmount(data: Path) -> Callable[[], None]:
    data.rename(data.parent / "away")
    data.mkdir(mode=0o700)

    def restore() -> None:
        shutil.rmtree(data)
        (data.parent / "away").rename(data)

    return restore


def _open_to_others(data: Path) -> Callable[[], None]:
    data.chmod(0o777)
    return lambda: data.chmod(0o700)


@pytest.mark.parametrize("fault", [_move, _copy, _unmount, _open_to_others])
async def test_a_broker_recovers_by_itself(
    broker: RunningBroker, fault: Callable[[Path], Callable[[], None]]
) -> None:
    readiness, events = broker.daemon._parts.readiness, broker.events
    assert await is_accepted(broker)
    await readiness.refresh()
    assert await health(broker.client_api, "verdictd.storage") == SERVING

    restore = fault(broker.data)
    for _ in range(3):
        standing = await readiness.refresh()
        assert not await is_accepted(broker)
    for words in LISTS:
        ended = await verdict(broker, *words)
        assert ended.status == 1, (words, ended)
    assert standing.causes[0].startswith(f"data directory: {broker.data}")
    assert await health(broker.client_api, "verdictd.storage") == NOT_SERVING
    (begun,) = events.named("storage.fault")
    assert begun["part"] == "data directory"
    assert str(broker.data) in str(begun["reason"])
    assert events.named("storage.recovered") == []
    assert len(events.named("warning.policy")) <= 3  # for each TEE, and for releases

    restore()
    standing = await readiness.refresh()
    assert standing.causes == ()
    assert await is_accepted(broker)
    assert await health(broker.client_api, "verdictd.storage") == SERVING
    assert [each["part"] for each in events.named("storage.recovered")] == ["data directory"]
    assert len(events.named("storage.fault")) == 1
    assert (await verdict(broker, "key", "list")).status == 0


CODE = bytes(wat2wasm('(module (func (export "f") (result i32) (i32.const 7)))'))


@pytest.mark.parametrize("damage", ["file", "garbage", "directory", "missing", "no write"])
def test_a_damaged_cache_of_native_code_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("CACHE_DIRECTORY", str(cache))
    native.load(Engine(Config()), CODE, lambda _: None)
    (stored,) = cache.iterdir()
    stored.unlink()
    match damage:
        case "file":
            cache.rmdir()
            cache.touch()
        case "garbage":
            stored.write_bytes(b"\xff" * 100_000)
        case "directory":
            stored.mkdir()
        case "missing":
            cache.rmdir()
        case "no write":
            cache.chmod(0o777)  # other users could put code there
    module = native.load(Engine(Config()), CODE, lambda _: None)
    assert [export.name for export in module.exports] == ["f"]


async def test_a_listing_that_fails_is_an_error_of_the_store(broker: RunningBroker) -> None:
    shutil.rmtree(broker.data / "keys")
    ended = await verdict(broker, "key", "list")
    assert ended.status == 1
    assert "no such file or directory" in ended.stderr
    with pytest.raises(StorageError):
        await broker.daemon._parts.readiness._use_cases.ineffective._keys.page("", 1)
