"""Links in the data directory (storage/links.py): volumes of Kubernetes, and everything else."""

from __future__ import annotations

import errno
import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.kubernetes import Volume
from tests.support.tees import PROVING
from verdictd_py.domain.names import KeyId, Name, ResourcePath
from verdictd_py.errors import NotFound, StorageError
from verdictd_py.storage import links
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.documents import DirectoryDocumentStore
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryKeyStore, DirectoryResourceStore

OLD, NEW = b"o" * 32, b"n" * 32
OUTSIDE = b"a secret of the host, 32 bytes.."
KEY = ("keys", "team", "signing", "mykey")


@pytest.fixture(params=["openat2", "step by step"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With openat2(2), and as on kernels and in sandboxes without it."""
    if request.param == "openat2":
        if not links._has_openat2():
            pytest.skip("this kernel has no openat2")
    else:
        monkeypatch.setattr(links, "_has_openat2", lambda: False)
        monkeypatch.setattr(links, "_openat2", _unavailable)
    return str(request.param)


def _unavailable(*_: object) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


async def test_a_key_of_a_volume_has_the_name_of_its_link(
    keys: DirectoryKeyStore, data: Path
) -> None:
    Volume(data / "keys/team/signing").write({"mykey": OLD})
    key = KeyId.parse("team/signing/mykey")

    assert (await keys.get(key)).reveal() == OLD
    assert (await keys.describe(key)).size == len(OLD)
    assert [stored.name for stored in await keys.page("", 10)] == ["team/signing/mykey"]


async def test_a_path_of_a_volume_is_a_link_to_a_directory(
    keys: DirectoryKeyStore, data: Path
) -> None:
    Volume(data / "keys/repo").write({"type/tag": OLD, "type/other": NEW, "more/tag": NEW})

    assert (await keys.get(KeyId.parse("repo/type/tag"))).reveal() == OLD
    assert [stored.name for stored in await keys.page("", 10)] == [
        "repo/more/tag",
        "repo/type/other",
        "repo/type/tag",
    ]


def test_names_of_kubernetes_itself_are_not_listed(directory: Directory, data: Path) -> None:
    Volume(data / "keys/team").write({"mykey": OLD})

    assert [entry.segments for entry in directory.walk("keys")] == [("keys", "team", "mykey")]


def test_the_kernel_too_refuses_to_leave_the_directory(tmp_path: Path, way: str) -> None:
    if way != "openat2":
        pytest.skip("about openat2 only")
    (tmp_path / "out").symlink_to("../outside")
    (tmp_path.parent / "outside").touch()
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
            links._openat2(parent, "out", os.O_RDONLY)
    finally:
        os.close(parent)


async def test_another_content_of_the_volume_is_served_at_once(
    keys: DirectoryKeyStore, resources: DirectoryResourceStore, data: Path
) -> None:
    team, policy = Volume(data / "keys/team/signing"), Volume(data / "resources/default/some")
    path = ResourcePath.parse("default/some/file")
    team.write({"mykey": OLD, "gone": OLD})
    policy.write({"file": b"old"})
    assert (await resources.get(path)).content.reveal() == b"old"
    assert (await keys.get(KeyId.parse("team/signing/gone"))).reveal() == OLD

    team.write({"mykey": NEW})
    policy.write({"file": b"new"})

    assert (await keys.get(KeyId.parse("team/signing/mykey"))).reveal() == NEW
    assert (await resources.get(path)).content.reveal() == b"new"
    with pytest.raises(NotFound):
        await keys.get(KeyId.parse("team/signing/gone"))


async def test_another_content_of_a_document_has_another_revision(
    documents: DirectoryDocumentStore, data: Path
) -> None:
    (data / "opa/tdxData").unlink()
    volume = Volume(data / "opa")
    volume.write({"tdxData": b'{"mrTd": ["00"]}'})
    name = Name.parse("tdxData")
    before = (await documents.snapshot((name,)))[name]

    volume.write({"tdxData": b'{"mrTd": ["11"]}'})

    after = (await documents.snapshot((name,)))[name]
    assert (before.text, after.text) == ('{"mrTd": ["00"]}', '{"mrTd": ["11"]}')
    assert before.revision != after.revision


def test_entries_differ_if_the_volume_was_written_between_them(
    directory: Directory, data: Path
) -> None:
    """Even if size and time are the same: a cache must not take one content for the other."""
    volume = Volume(data / "keys/team/signing")
    seen = []
    for content in (OLD, NEW):
        volume.write({"mykey": content})
        os.utime(data / "keys/team/signing/mykey", ns=(1, 1))
        seen.append(directory.entry(KEY))

    assert [entry.segments for entry in seen] == [KEY, KEY]
    assert seen[0].inode != seen[1].inode


def test_a_volume_can_be_written_at_any_moment(directory: Directory, data: Path) -> None:
    volume = Volume(data / "keys/team/signing")
    volume.write({"mykey": OLD})
    done = threading.Event()

    def write() -> None:
        for _ in range(100):
            volume.write({"mykey": NEW})
            volume.write({"mykey": OLD})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            assert directory.read(KEY) in (OLD, NEW)
            assert directory.entry(KEY).size == len(OLD)
    finally:
        writer.join()


def absolute(team: Path, outside: Path) -> str:
    del team
    return str(outside)


def absolute_below(team: Path, outside: Path) -> str:
    del outside
    (team / "below").write_bytes(OUTSIDE)
    return str(team / "below")


def upwards(team: Path, outside: Path) -> str:
    return os.path.relpath(outside, team)


def up_and_back(team: Path, outside: Path) -> str:
    del outside
    (team / "below").write_bytes(OUTSIDE)
    return f"../{team.name}/below"


def by_a_second_link(team: Path, outside: Path) -> str:
    (team / "second").symlink_to(os.path.relpath(outside.parent, team))
    return f"second/{outside.name}"


def by_a_link_below(team: Path, outside: Path) -> str:
    (team / "sub").mkdir()
    (team / "sub/second").symlink_to(f"../../../../../{outside.name}")
    return "sub/second"


def magic(team: Path, outside: Path) -> str:
    del team, outside
    return "/proc/self/environ"


def to_itself(team: Path, outside: Path) -> str:
    del team, outside
    return "mykey"


def to_nothing(team: Path, outside: Path) -> str:
    del team, outside
    return "..data/mykey"


CAUSES: dict[Callable[[Path, Path], str], str] = {
    to_itself: "cannot be followed (too many levels of symbolic links)",
    to_nothing: "leads to nothing",
}
REFUSED = [
    absolute,
    absolute_below,
    upwards,
    up_and_back,
    by_a_second_link,
    by_a_link_below,
    magic,
    to_itself,
    to_nothing,
]


@pytest.mark.parametrize("target", REFUSED)
def test_every_other_link_is_refused_and_named_at_start(
    directory: Directory, data: Path, tmp_path: Path, target: Callable[[Path, Path], str]
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(OUTSIDE)
    team = data / "keys/team/signing"
    team.mkdir(parents=True)
    (team / "mykey").symlink_to(target(team, outside))

    for use in (directory.read, directory.entry, directory.delete):
        with pytest.raises(NotFound):
            use(KEY)
    assert KEY not in [entry.segments for entry in directory.walk("keys")]
    _, inspection = prepare(data, PROVING)
    warnings = inspection.warnings
    cause = CAUSES.get(target, "leads out of its directory")
    expected = f"keys/team/signing/mykey is a link that {cause} and is not followed"
    assert f"{expected}; put a file in its place" in warnings


@pytest.mark.parametrize("target", ["../..", "/", "nothing"])
def test_a_link_to_a_directory_outside_is_refused_and_named(
    directory: Directory, data: Path, target: str
) -> None:
    (data / "keys/team").symlink_to(target)

    with pytest.raises(NotFound):
        directory.read(KEY)
    _, inspection = prepare(data, PROVING)
    warnings = inspection.warnings
    assert any(line.startswith("keys/team is a link that leads") for line in warnings)


async def test_a_document_whose_link_is_broken_is_not_absent(
    documents: DirectoryDocumentStore, data: Path
) -> None:
    """Absent release policies leave every secret to one policy."""
    volume = Volume(data / "opa")
    volume.write({"releasePolicies": b"{}"})
    (data / "opa/..data").unlink()

    with pytest.raises(StorageError, match="link that leaves its directory or leads to nothing"):
        await documents.get(Name.parse("releasePolicies"))


def test_a_directory_on_the_way_that_others_may_change_is_refused(
    directory: Directory, data: Path
) -> None:
    Volume(data / "keys/team/signing").write({"mykey": OLD})
    (data / "keys/team/signing/..data").resolve().chmod(0o777)

    with pytest.raises(StorageError, match="can be changed by other users"):
        directory.read(KEY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_a_link_of_another_user_is_refused(directory: Directory, data: Path) -> None:
    Volume(data / "keys/team/signing").write({"mykey": OLD})
    os.chown(data / "keys/team/signing/..data", 65534, -1, follow_symlinks=False)

    with pytest.raises(StorageError, match="belongs to another user"):
        directory.read(KEY)


def test_a_write_replaces_the_link_and_never_its_target(directory: Directory, data: Path) -> None:
    Volume(data / "keys/team/signing").write({"mykey": OLD})

    directory.replace(KEY, NEW)

    assert not (data / "keys/team/signing/mykey").is_symlink()
    assert (data / "keys/team/signing/..data/mykey").read_bytes() == OLD
    directory.delete(KEY)
    assert (data / "keys/team/signing/..data/mykey").read_bytes() == OLD


@pytest.fixture
def open_descriptors() -> Iterator[None]:
    gc.collect()  # roots of earlier tests are closed with their last reference
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # an iterator holds one itself
    yield
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # as above


@pytest.mark.usefixtures("open_descriptors")
def test_random_links_lead_where_the_kernel_follows_them(tmp_path: Path) -> None:
    """A link leads to its target, or is refused; never to anything outside."""
    generator = random.Random(15)  # noqa: S311  # for test data
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(OUTSIDE)
    for number in range(150):
        root = tmp_path / str(number)
        (root / "a/b").mkdir(parents=True)
        (root / "a/f").write_bytes(OLD)
        (root / "a/b/f").write_bytes(NEW)
        words = ["a", "b", "f", "x", "y", "..", ".", "z", "../outside", "/"]
        for place in ("x", "y", "z", "a/x", "a/b/y"):
            (root / place).symlink_to("/".join(generator.choices(words, k=3)))
        _compare(root)


def _compare(root: Path) -> None:
    parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("x", "y", "z"):
            try:
                status = links.status(parent, name)
            except OSError:
                continue
            real = (root / name).resolve()
            assert real.is_relative_to(root), f"{name} leads to {real}"
            assert os.path.samestat(status, real.stat())
    finally:
        os.close(parent)
