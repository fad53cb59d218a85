"""Sealed directories: what an attacker who can write files gains, and what a crash leaves."""

from __future__ import annotations

import base64
import secrets
import shutil
from pathlib import Path

import pytest

from tests.support.sealed import resealing, sealed_objects, write_key
from tests.support.stores import resource_store
from tests.support.tees import PROVING
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import NotFound, StorageError
from verdictd_py.ports.sealing import SealBroken, SealUnavailable
from verdictd_py.storage import files
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryKeyStore, DirectoryResourceStore
from verdictd_py.storage.tokenkeys import DirectoryTokenKeys

ONE, TWO = KeyId.parse("one"), KeyId.parse("default/key/2")
FILE = ResourcePath.parse("default/file/1")
POLICY = ResourcePath.parse("default/security-policy/test")


class Site:
    """A data directory with a key file, opened as by one process."""

    def __init__(self, root: Path, *, strict: bool = False) -> None:
        self.data, self.kek = root / "data", root / "kek"
        self.directory, _ = prepare(self.data, PROVING)
        self.warnings: list[str] = []
        self.objects = sealed_objects(
            self.directory, self.kek, strict=strict, warnings=self.warnings
        )
        self.keys = DirectoryKeyStore(self.directory, self.objects)
        self.resources = resource_store(self.directory, objects=self.objects)

    def plain(self) -> tuple[DirectoryKeyStore, DirectoryResourceStore]:
        """Return the stores of a broker without `--seal`."""
        return DirectoryKeyStore(self.directory), resource_store(self.directory)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def again(site: Site, *, strict: bool = False) -> Site:
    """Open the directory as a process that starts now."""
    return Site(site.data.parent, strict=strict)


def key() -> SecretBytes:
    return SecretBytes(secrets.token_bytes(32))


async def sealed(site: Site) -> Site:
    report = await resealing(site.directory, site.kek).seal()
    assert report.problems == []
    return site


async def test_no_file_has_a_secret_in_any_form(site: Site) -> None:
    secret = {name: key() for name in (ONE, TWO)}
    for name, value in secret.items():
        await site.keys.create(name, value)
    content = SecretBytes(b"a resource that is long enough to be searched for")
    await site.resources.put(FILE, content)
    await sealed(site)
    files = [path for path in site.data.rglob("*") if path.is_file()]
    assert len(files) > 5
    for value in (*secret.values(), content, SecretBytes(site.kek.read_bytes())):
        raw = value.reveal()
        forms = (raw, raw.hex().encode(), base64.b64encode(raw)[:-4], raw.hex().upper().encode())
        for path in files:
            assert not any(form in path.read_bytes() for form in forms), path
    assert (await again(site).keys.get(ONE)) == secret[ONE]
    assert (await again(site).resources.get(FILE)).content == content


async def test_sizes_are_those_of_the_contents(site: Site) -> None:
    await site.keys.create(ONE, key())
    await site.resources.put(FILE, SecretBytes(b"12345"))
    assert (await site.keys.describe(ONE)).size == 32
    assert (await site.keys.describe(ONE)).problem == ""
    assert [stored.size for stored in await site.keys.page("", 10)] == [32]
    assert {s.name: s.size for s in await site.resources.page("", 10)}[str(FILE)] == 5


async def test_an_object_of_another_path_is_refused_and_named(site: Site) -> None:
    await site.keys.create(ONE, key())
    await site.keys.create(TWO, key())
    shutil.copy(site.data / "keys" / "one", site.data / "keys/default/key/2")
    for each in (site, again(site)):
        with pytest.raises(SealBroken, match="default/key/2"):
            await each.keys.get(TWO)
        assert any("keys/default/key/2" in text for text in each.warnings)
        await each.keys.get(ONE)


async def test_an_older_object_is_refused_and_named(site: Site) -> None:
    path = site.data / "resources/default/file/1"
    await site.resources.put(FILE, SecretBytes(b"old"))
    old = path.read_bytes()
    await site.resources.put(FILE, SecretBytes(b"new"))
    path.write_bytes(old)
    for each in (site, again(site)):
        with pytest.raises(SealBroken, match="default/file/1"):
            await each.resources.get(FILE)
        assert any("older" in text and str(FILE) in text for text in each.warnings)


async def test_an_older_object_with_its_part_of_the_index_is_refused(site: Site) -> None:
    path = site.data / "resources/default/file/1"
    await site.resources.put(FILE, SecretBytes(b"old"))
    old = path.read_bytes()
    shards = {file: file.read_bytes() for file in (site.data / "seals").iterdir()}
    await site.resources.put(FILE, SecretBytes(b"new"))
    path.write_bytes(old)
    for file, content in shards.items():
        if file.name not in ("root", "key"):
            file.write_bytes(content)
    with pytest.raises(SealBroken):
        await again(site).resources.get(FILE)


async def test_a_running_broker_refuses_an_older_directory(site: Site) -> None:
    await site.resources.put(FILE, SecretBytes(b"old"))
    shutil.copytree(site.data, site.data.with_name("copy"))
    await site.resources.put(FILE, SecretBytes(b"new"))
    shutil.rmtree(site.data)
    shutil.move(site.data.with_name("copy"), site.data)
    with pytest.raises(SealBroken):
        await site.resources.get(FILE)
    assert any("older one" in text for text in site.warnings)
    # docs/sealing.md: a process that starts now cannot know that there was a newer one
    assert (await again(site).resources.get(FILE)).content == SecretBytes(b"old")


async def test_a_deleted_object_that_is_put_back_is_refused(site: Site) -> None:
    await site.keys.create(ONE, key())
    old = (site.data / "keys/one").read_bytes()
    await site.keys.delete(ONE)
    (site.data / "keys/one").write_bytes(old)
    with pytest.raises(SealBroken, match="one"):
        await again(site).keys.get(ONE)


async def test_an_object_that_vanished_is_not_absent(site: Site) -> None:
    await site.resources.put(FILE, SecretBytes(b"content"))
    (site.data / "resources/default/file/1").unlink()
    with pytest.raises(SealBroken, match=str(FILE)):
        await again(site).resources.get(FILE)
    report = await resealing(site.directory, site.kek).verify()
    assert report.missing == 1
    report = await resealing(site.directory, site.kek).verify(forget=True)
    assert report.missing == 1
    with pytest.raises(NotFound):
        await again(site).resources.get(FILE)
    assert (await resealing(site.directory, site.kek).verify()).missing == 0


async def test_a_plain_file_in_place_of_a_sealed_one_is_refused(site: Site) -> None:
    await site.keys.create(ONE, key())
    (site.data / "keys/one").write_bytes(bytes(32))
    with pytest.raises(SealBroken, match="one"):
        await again(site).keys.get(ONE)


async def test_a_plain_object_is_read_until_all_are_sealed(site: Site) -> None:
    plain, _ = site.plain()
    await plain.create(ONE, secret := key())
    assert await site.keys.get(ONE) == secret
    await site.keys.create(TWO, key())
    assert await site.keys.get(ONE) == secret
    await sealed(site)
    assert await site.keys.get(ONE) == secret
    (site.data / "keys/three").write_bytes(bytes(32))
    for each in (site, again(site)):
        with pytest.raises(SealBroken, match="three"):
            await each.keys.get(KeyId.parse("three"))
        assert any("--accept-plain" in text for text in each.warnings)
    report = await resealing(site.directory, site.kek).seal()
    assert [problem for problem in report.problems if "keys/three" in problem]
    report = await resealing(site.directory, site.kek).seal(accept_plain=True)
    assert report.problems == []
    assert await site.keys.get(KeyId.parse("three")) == SecretBytes(bytes(32))


async def test_a_new_directory_is_strict_from_the_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for name in ("policy.json", "sigstore.yaml"):
        (site.data / "image" / name).unlink()
    await site.keys.create(ONE, key())
    (site.data / "keys/two").write_bytes(bytes(32))
    with pytest.raises(SealBroken):
        await site.keys.get(KeyId.parse("two"))


@pytest.mark.parametrize("names", [["root"], ["key"], ["root", "key"], ["*"]])
async def test_without_the_index_no_sealed_object_is_served(site: Site, names: list[str]) -> None:
    await site.keys.create(ONE, key())
    await sealed(site)
    for name in names:
        for file in (site.data / "seals").glob(name):
            file.unlink()
    # A running broker has the key of the index in memory.
    for each in (again(site),) if names == ["key"] else (site, again(site)):
        with pytest.raises(SealBroken):
            await each.keys.get(ONE)
        with pytest.raises(SealBroken):
            await again(site).keys.create(TWO, key())


async def test_the_option_refuses_plain_objects_without_an_index(site: Site) -> None:
    await site.keys.create(ONE, key())
    await sealed(site)
    shutil.rmtree(site.data / "seals")
    (site.data / "keys/one").write_bytes(bytes(32))
    with pytest.raises(SealBroken):
        await again(site, strict=True).keys.get(ONE)


async def test_an_index_of_another_key_is_refused(site: Site, tmp_path: Path) -> None:
    await site.keys.create(ONE, key())
    other = Site(tmp_path / "other")
    await other.keys.create(ONE, key())
    shutil.copy(other.data / "seals/root", site.data / "seals/root")
    with pytest.raises(SealBroken):
        await again(site).keys.get(ONE)


async def test_a_broker_without_the_option_never_serves_an_envelope(site: Site) -> None:
    await site.keys.create(ONE, key())
    await site.resources.put(FILE, SecretBytes(b"content"))
    keys, resources = site.plain()
    with pytest.raises(StorageError, match="without --seal"):
        await keys.get(ONE)
    with pytest.raises(StorageError, match="without --seal"):
        await resources.get(FILE)
    for call in (
        keys.create(TWO, key()),
        keys.delete(ONE),
        resources.put(FILE, SecretBytes(b"other")),
        resources.delete(FILE),
    ):
        with pytest.raises(StorageError, match="--seal"):
            await call


async def test_a_plain_store_accepts_no_envelope(site: Site, tmp_path: Path) -> None:
    await site.resources.put(FILE, SecretBytes(b"content"))
    envelope = SecretBytes((site.data / "resources/default/file/1").read_bytes())
    _, resources = Site(tmp_path / "other").plain()
    with pytest.raises(StorageError, match="begins like a sealed object"):
        await resources.put(FILE, envelope)


async def test_an_outage_refuses_everything_and_says_nothing_about_the_provider(
    site: Site,
) -> None:
    await site.keys.create(ONE, key())
    await site.resources.put(FILE, SecretBytes(b"content"))
    site.kek.rename(site.kek.with_name("away"))
    each = again(site)
    each.kek.unlink()  # `again` has created another one
    for call in (
        each.keys.get(ONE),
        each.resources.get(FILE),
        each.keys.create(TWO, key()),
        each.resources.put(FILE, SecretBytes(b"other")),
        each.resources.get(POLICY),
    ):
        with pytest.raises(SealUnavailable) as refused:
            await call
        assert "kek" not in str(refused.value)
    assert any(str(site.kek) in text for text in each.warnings)
    site.kek.with_name("away").rename(site.kek)
    assert (await each.resources.get(FILE)).content == SecretBytes(b"content")


async def test_rotation_leaves_nothing_that_needs_the_old_key(site: Site) -> None:
    values = {KeyId.parse(f"default/key/{number}"): key() for number in range(70)}
    for name, value in values.items():
        await site.keys.create(name, value)
    await sealed(site)
    old = (site.data / "keys/default/key/3").read_bytes()
    write_key(site.kek)
    report = await resealing(site.directory, site.kek).rotate()
    assert (report.problems, report.changed) == ([], report.sealed)
    assert len(report.versions) == 1
    again_report = await resealing(site.directory, site.kek).rotate()
    assert again_report.changed == 0
    for name, value in values.items():
        assert await site.keys.get(name) == value
    for old_key in site.kek.parent.glob("kek.old*"):
        old_key.unlink()
    for name, value in values.items():
        assert await again(site).keys.get(name) == value
    (site.data / "keys/default/key/3").write_bytes(old)
    with pytest.raises(SealBroken):
        await again(site).keys.get(KeyId.parse("default/key/3"))


async def test_rotation_finds_what_a_broker_had_prepared_with_the_old_key(site: Site) -> None:
    await site.keys.create(ONE, value := key())
    await sealed(site)
    name = ("keys", "late")
    prepared = await site.objects.prepare(name, value.reveal())
    write_key(site.kek)
    work = resealing(site.directory, site.kek)

    def progress(done: int, total: int) -> None:
        if done == total and not (site.data / "keys/late").exists():
            with site.directory.locked():
                files.complete(
                    site.objects.changing(
                        {name: prepared}, lambda: site.directory.creating(name, prepared.stored)
                    )
                )

    work._progress = progress
    report = await work.rotate()
    assert len(report.versions) == 1
    for file in site.kek.parent.glob("kek.old*"):
        file.unlink()
    assert await again(site).keys.get(KeyId.parse("late")) == value


async def token_keys(site: Site) -> bytes | None:
    """Return the token keys, as a process that starts now reads them."""
    own = sealed_objects(site.directory, site.kek)
    read = await DirectoryTokenKeys(site.directory, own).read()
    return None if read is None else read.content


async def test_rotation_seals_the_shared_token_keys_again(site: Site) -> None:
    own = DirectoryTokenKeys(site.directory, site.objects)
    assert await own.replace(b"token keys", before=None)
    write_key(site.kek)
    report = await resealing(site.directory, site.kek).rotate()
    assert report.problems == []
    for file in site.kek.parent.glob("kek.old*"):
        file.unlink()
    assert await token_keys(site) == b"token keys"
    assert (await resealing(site.directory, site.kek).verify()).problems == []
    await resealing(site.directory, site.kek).unseal()
    read = await DirectoryTokenKeys(site.directory).read()
    assert read is not None
    assert read.content == b"token keys"


async def test_older_token_keys_are_named_by_verify(site: Site) -> None:
    own, file = DirectoryTokenKeys(site.directory, site.objects), site.data / "tokens" / "keys"
    assert await own.replace(b"one", before=None)
    older = file.read_bytes()
    assert await own.replace(b"two", before=await own.read())
    file.write_bytes(older)
    (problem,) = (await resealing(site.directory, site.kek).verify()).problems
    assert problem.startswith("tokens/keys has the revision")
    with pytest.raises(SealBroken, match="remove the file to have brokers create other keys"):
        await token_keys(site)


async def test_sealing_does_not_make_plain_token_keys_trusted(site: Site) -> None:
    """Only the operator who says so does: brokers replace plain keys."""
    assert await DirectoryTokenKeys(site.directory).replace(b"planted", before=None)
    assert (await resealing(site.directory, site.kek).seal()).problems == []
    assert await token_keys(site) is None
    read = await DirectoryTokenKeys(site.directory, site.objects).read()
    assert read is not None  # there is something to replace
    assert await DirectoryTokenKeys(site.directory, site.objects).replace(b"own", before=read)
    assert await token_keys(site) == b"own"
    report = await resealing(site.directory, site.kek).seal()
    assert (report.objects, report.sealed) == (report.sealed, report.objects)


async def test_unsealing_restores_the_plain_directory(site: Site) -> None:
    await site.keys.create(ONE, value := key())
    await site.resources.put(FILE, SecretBytes(b"content"))
    await sealed(site)
    report = await resealing(site.directory, site.kek).unseal()
    assert report.problems == []
    keys, resources = site.plain()
    assert await keys.get(ONE) == value
    assert (await resources.get(FILE)).content == SecretBytes(b"content")
    assert await site.keys.get(ONE) == value
    await sealed(site)
    assert await again(site).keys.get(ONE) == value


async def test_verification_names_every_refused_object(site: Site) -> None:
    for number in range(5):
        await site.keys.create(KeyId.parse(f"k{number}"), key())
    await sealed(site)
    good = await resealing(site.directory, site.kek).verify()
    assert (good.problems, good.missing) == ([], 0)
    assert good.sealed == good.objects
    altered = site.data / "keys/k1"
    content = bytearray(altered.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    shutil.copy(site.data / "keys/k2", site.data / "keys/k3")
    (site.data / "keys/k4").write_bytes(bytes(32))
    bad = await resealing(site.directory, site.kek).verify()
    assert sorted(problem.split(" ")[0] for problem in bad.problems) == [
        "keys/k1",
        "keys/k3",
        "keys/k4",
    ]


async def test_the_index_can_be_built_again_from_the_objects(site: Site) -> None:
    await site.keys.create(ONE, value := key())
    await sealed(site)
    shutil.rmtree(site.data / "seals")
    with pytest.raises(SealBroken, match="--rebuild-index"):
        await resealing(site.directory, site.kek).seal()
    await resealing(site.directory, site.kek).rebuild_index()
    assert (await resealing(site.directory, site.kek).seal()).problems == []
    each = again(site)
    assert await each.keys.get(ONE) == value
    (site.data / "keys/two").write_bytes(bytes(32))
    with pytest.raises(SealBroken):
        await each.keys.get(KeyId.parse("two"))


async def test_a_link_to_a_plain_file_is_reported(site: Site) -> None:
    target = site.data / "resources/default/file/target"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"content")
    target.chmod(0o600)
    target.with_name("1").symlink_to("target")
    report = await resealing(site.directory, site.kek).seal()
    assert [problem for problem in report.problems if "is a link" in problem]


async def test_a_change_while_it_is_sealed_is_not_lost(site: Site) -> None:
    _, resources = site.plain()
    for number in range(40):
        await resources.put(ResourcePath.parse(f"default/file/{number}"), SecretBytes(b"old"))
    work = resealing(site.directory, site.kek)
    changed = False

    def progress(done: int, total: int) -> None:
        nonlocal changed
        if done == 20 and not changed:  # another process changes what is planned to be replaced
            changed = True
            for number in range(40):
                (site.data / f"resources/default/file/{number}").write_bytes(b"new")

    work._progress = progress
    report = await work.seal()
    assert report.problems == []
    contents = {
        (await site.resources.get(ResourcePath.parse(f"default/file/{number}"))).content.reveal()
        for number in range(40)
    }
    assert contents == {b"new"}


async def test_a_running_broker_accepts_nothing_plain_after_the_index_is_removed(
    site: Site,
) -> None:
    await site.keys.create(ONE, key())
    await sealed(site)
    await site.keys.get(ONE)
    for file in (site.data / "seals").iterdir():
        file.unlink()
    (site.data / "keys/two").write_bytes(bytes(32))
    with pytest.raises(SealBroken):
        await site.keys.get(KeyId.parse("two"))
