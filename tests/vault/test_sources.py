"""Resources and keys of `[[resource_backend]]`, on a real OpenBao."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conformance.test_resources import ResourceStoreSuite
from tests.support.vault import Engine, encoded
from tools.engines.openbao import OpenBao
from verdictd_py.config import Settings, load
from verdictd_py.daemon.vaultsources import Sources, sources_of
from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import (
    AlreadyExists,
    ConfigError,
    NotAuthorized,
    NotFound,
    StorageError,
)
from verdictd_py.ports import ResourceStore
from verdictd_py.storage.memory import Files, MemoryKeyStore, MemoryResourceStore

DB = ResourcePath.parse("team/creds/db")
KEY = KeyId.parse("team/image/1")
CONTENT = SecretBytes(b"a secret of this test")


class Site:
    """Sources with one backend for `team/`, and the data directory in memory."""

    def __init__(self, engine: Engine, login: str = "", **settings: object) -> None:
        self.engine = engine
        self.path = f"t{secrets.token_hex(6)}"
        backend = {
            "prefix": "team/",
            "vault": engine.location("secret", login),
            "path": f"{self.path}/resources",
            **{name: self._filled(value) for name, value in settings.items()},
        }
        self.files: Files = {}
        self.local = MemoryResourceStore(self.files)
        self.sources: Sources = sources_of(
            Settings(resource_backend=(backend,)),  # type: ignore[arg-type]
            MemoryKeyStore(self.files),
            self.local,
        )

    def _filled(self, value: object) -> object:
        return value.replace("PATH", self.path) if isinstance(value, str) else value

    def write(self, path: str, **fields: object) -> None:
        """Write an entry, as the operator of Vault does."""
        self.engine.call("POST", f"secret/data/{self.path}/{path}", {"data": fields})


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def site(engine: Engine, closing: AsyncExitStack) -> Site:
    site = Site(engine)
    closing.push_async_callback(site.sources.close)
    return site


@pytest.fixture
def keys_site(engine: Engine, closing: AsyncExitStack) -> Site:
    name = engine.transit_key()
    site = Site(engine, writable=True, transit_key=f"transit/{name}", keys_path="PATH/keys")
    closing.push_async_callback(site.sources.close)
    return site


class TestRouted(ResourceStoreSuite):
    """The suite, whose path `team/...` is in Vault, and whose aliases are not."""

    @pytest.fixture
    def resources(self, engine: Engine, closing: AsyncExitStack) -> ResourceStore:
        site = Site(engine, writable=True)
        closing.push_async_callback(site.sources.close)
        return site.sources.resources


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"value": "text ✓"}, "text ✓".encode()),
        ({"base64": encoded(bytes(range(256))), "owner": "team"}, bytes(range(256))),
        ({"base64": "YWJj\nZGVm\n"}, b"abcdef"),
    ],
)
async def test_an_entry_has_text_or_base64(
    site: Site, fields: dict[str, object], content: bytes
) -> None:
    site.write("resources/creds/db", **fields)
    found = await site.sources.resources.get(DB)
    assert found.content.reveal() == content
    assert found.path == "resources/team/creds/db"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"password": "hunter2"},
        {"value": "hunter2", "base64": "aHVudGVyMg=="},
        {"value": 7},
        {"value": ""},
        {"base64": "hunter2!"},
        {"value": ["hunter2"]},
    ],
)
async def test_another_entry_is_refused_without_its_values(
    site: Site, fields: dict[str, object]
) -> None:
    site.write("resources/creds/db", **fields)
    with pytest.raises(StorageError, match="team/creds/db cannot be served") as error:
        await site.sources.resources.get(DB)
    assert "hunter2" not in str(error.value)


async def test_a_deleted_entry_is_not_found(site: Site) -> None:
    site.write("resources/creds/db", value="x")
    site.engine.call("DELETE", f"secret/data/{site.path}/resources/creds/db")
    with pytest.raises(NotFound):
        await site.sources.resources.get(DB)


async def test_it_is_read_only_by_default(site: Site) -> None:
    site.write("resources/creds/db", value="x")
    for change in (site.sources.resources.put(DB, CONTENT), site.sources.resources.delete(DB)):
        with pytest.raises(NotAuthorized, match="set writable = true"):
            await change
    with pytest.raises(NotAuthorized, match="below the prefix of a resource_backend"):
        await site.sources.keys.create(KEY, SecretBytes(bytes(32)))
    assert (await site.sources.resources.get(DB)).content.reveal() == b"x"


async def test_other_paths_and_one_segment_are_in_the_data_directory(site: Site) -> None:
    other = ResourcePath.parse("teams/creds/db")
    await site.sources.resources.put(other, CONTENT)
    assert (await site.local.get(other)).content == CONTENT
    await site.sources.keys.create(KeyId.parse("team"), SecretBytes(bytes(32)))


async def test_the_files_of_images_stay_in_the_data_directory(
    engine: Engine, closing: AsyncExitStack
) -> None:
    site = Site(engine, prefix="default/", writable=True)
    closing.push_async_callback(site.sources.close)
    policy = LEGACY_RESOURCES["Policy"]
    await site.sources.resources.put(policy, CONTENT)
    assert (await site.local.get(policy)).content == CONTENT
    assert (await site.sources.resources.get(policy)).content == CONTENT


async def test_a_resource_of_the_data_directory_is_hidden(site: Site) -> None:
    await site.local.put(DB, CONTENT)
    with pytest.raises(NotFound):
        await site.sources.resources.get(DB)
    site.write("resources/creds/a", value="x")
    site.write("resources/.hidden/a", value="x")
    site.write("resources/creds/deep/a", value="x")
    names = [each.name for each in await site.sources.resources.page("", 100)]
    assert [name for name in names if name.startswith("team/")] == ["team/creds/a"]


async def test_pages_have_every_name_once(site: Site) -> None:
    expected = [f"team/{kind}/{n}" for kind in ("a", "a-b", "a.c", "b") for n in range(3)]
    for name in expected:
        site.write(f"resources/{name.removeprefix('team/')}", value="x")
    for name in ("alpha/a/a", "team/z/z", "zulu/a/a"):
        await site.local.put(ResourcePath.parse(name), CONTENT)
    wanted = sorted([*expected, "alpha/a/a", "zulu/a/a"])
    listed: list[str] = []
    while page := await site.sources.resources.page(listed[-1] if listed else "", 2):
        listed += [each.name for each in page if each.name.startswith(("team", "alpha", "zulu"))]
        listed = listed or [page[-1].name]
        if page[-1].name > listed[-1]:
            break
    assert [name for name in listed if name in wanted] == wanted


async def test_an_outage_is_never_not_found(
    own_engine: Engine, own_server: OpenBao, closing: AsyncExitStack
) -> None:
    site = Site(own_engine, transit_key="transit/k", keys_path="PATH/keys")
    closing.push_async_callback(site.sources.close)
    resources, keys = site.sources.resources, site.sources.keys
    with pytest.raises(NotFound):
        await resources.get(DB)
    await asyncio.to_thread(own_server.stop, signal.SIGKILL)
    for call in (resources.get(DB), resources.page("", 9), keys.get(KEY), keys.page("", 9)):
        with pytest.raises(StorageError, match="does not answer"):
            await call
    await asyncio.to_thread(own_server.start_sealed)
    with pytest.raises(StorageError, match=r"team/creds/db cannot be reached: .* sealed"):
        await resources.get(DB)
    await asyncio.to_thread(own_server.unseal)
    with pytest.raises(NotFound):
        await resources.get(DB)


async def test_denied_and_misconfigured_are_never_not_found(
    engine: Engine, closing: AsyncExitStack
) -> None:
    token = engine.file("token", engine.token(engine.policy("secret/data/mine read")))
    denied = Site(engine, f"token-file={token}")
    other = Site(engine, vault=engine.location("no-such-mount"))
    one = Site(engine, vault=engine.location("transit"))
    for site in (denied, other, one):
        closing.push_async_callback(site.sources.close)
        with pytest.raises(StorageError, match="team/creds/db cannot be reached"):
            await site.sources.resources.get(DB)


async def test_a_key_is_wrapped_by_transit(keys_site: Site) -> None:
    keys, engine = keys_site.sources.keys, keys_site.engine
    key = SecretBytes(secrets.token_bytes(32))
    await keys.create(KEY, key)
    assert await keys.get(KEY) == key
    with pytest.raises(AlreadyExists):
        await keys.create(KEY, SecretBytes(bytes(32)))
    assert [each.name for each in await keys.page("", 9)] == ["team/image/1"]
    assert (await keys.describe(KEY)).file == "keys/team/image/1"
    stored = str(engine.call("GET", f"secret/data/{keys_site.path}/keys/image/1"))
    assert "vault:v1:" in stored
    assert encoded(key.reveal()) not in stored
    await keys.delete(KEY)
    with pytest.raises(NotFound):
        await keys.get(KEY)


async def test_a_wrapped_key_of_another_name_is_refused(keys_site: Site) -> None:
    keys, engine = keys_site.sources.keys, keys_site.engine
    await keys.create(KEY, SecretBytes(secrets.token_bytes(32)))
    path = f"secret/data/{keys_site.path}/keys/image"
    fields = engine.call("GET", f"{path}/1")["data"]["data"]
    engine.call("POST", f"{path}/2", {"data": fields})
    with pytest.raises(StorageError, match="wrapped for this name"):
        await keys.get(KeyId.parse("team/image/2"))


@pytest.mark.parametrize("value", ["", "vault:v1:", "vault:v1:AAAA", "x" * 10_000, 7, None])
async def test_a_damaged_wrapped_key_is_refused(keys_site: Site, value: object) -> None:
    keys_site.write("keys/image/1", transit=value)
    with pytest.raises(StorageError, match="the key team/image/1 cannot be used"):
        await keys_site.sources.keys.get(KEY)


async def test_a_name_is_a_key_or_a_resource(keys_site: Site) -> None:
    path = ResourcePath(KEY.segments)
    await keys_site.sources.keys.create(KEY, SecretBytes(bytes(32)))
    with pytest.raises(AlreadyExists):
        await keys_site.sources.resources.put(path, CONTENT)
    await keys_site.sources.resources.put(DB, CONTENT)
    with pytest.raises(AlreadyExists):
        await keys_site.sources.keys.create(KeyId(DB.segments), SecretBytes(bytes(32)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prefix": "team"}, "as team-a/"),
        ({"prefix": "a/b/c/"}, "as team-a/"),
        ({"prefix": "../"}, "as team-a/"),
        ({"prefix": "/"}, "as team-a/"),
        ({"vault": "https://h:8200/secret"}, "name one login"),
        ({"path": "../x"}, "not a path in Vault"),
        ({"path": "/x"}, "not a path in Vault"),
        ({"transit_key": "transit/k"}, "need each other"),
        ({"transit_key": "k", "keys_path": "x"}, "a mount and a name"),
        ({"transit_key": "t/k", "keys_path": "team/keys"}, "overlap"),
        ({"writeable": True}, "did you mean 'writable'"),
    ],
)
def test_a_wrong_backend_is_refused(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    backend = {"prefix": "team/", "vault": "https://h:8200/secret?token-file=/t", **changes}
    lines = [f"{name} = {json.dumps(value)}" for name, value in backend.items()]
    file = tmp_path / "verdictd.toml"
    file.write_text("\n".join(["[[resource_backend]]", *lines]))
    with pytest.raises(ConfigError, match=words):
        load({}, file=file)
