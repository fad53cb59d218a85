"""The data directory at start: defaults in a new one, no changes in an existing one."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores import resource_store
from tests.support.tees import PROVING, TEES
from verdictd_py.domain.names import parse_resource_name
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.packaged import default_file
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.inspection import MAX_WARNINGS
from verdictd_py.storage.layout import prepare

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
DIRECTORIES = ("audit", "collateral", "gpg", "image", "keys", "opa", "resources")


def start(data: Path) -> tuple[str, ...]:
    _, inspection = prepare(data, PROVING)
    assert inspection.is_complete
    return inspection.warnings


def snapshot(data: Path) -> dict[str, tuple[int, int, int, bytes | None]]:
    """Return inode, mode, time and content of every file."""
    found = {}
    for path in sorted(data.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        changed = 0 if content is None else status.st_mtime_ns
        found[str(path.relative_to(data))] = (status.st_ino, status.st_mode, changed, content)
    return found


def test_a_new_directory_gets_the_defaults(tmp_path: Path) -> None:
    """defects.md 10: the original's image policy is not valid JSON, and would accept anything."""
    data = tmp_path / "data"
    assert start(data) == ()
    files = {str(p.relative_to(data)): p.read_bytes() for p in data.rglob("*") if p.is_file()}
    assert files.pop("image/policy.json") == (b'{"default":[{"type":"reject"}],"transports":{}}\n')
    assert (
        files.pop("image/sigstore.yaml")
        == b"default-docker:\n    sigstore: file:///var/lib/containers/sigstore\n"
    )
    for tee, names in {
        "tdx": ("opa/tdxPolicy.rego", "opa/tdxData"),
        "sgx": ("opa/sgxPolicy.rego", "opa/sgxData"),
    }.items():
        packaged = TEES.named(tee).documents.defaults()
        assert [files.pop(name).decode() for name in names] == [packaged.policy, packaged.data]
    for release in ("releasePolicy.rego", "releaseData"):
        assert files.pop(f"opa/{release}") == default_file(f"policies/{release}")
    assert files == {".lock": b""}
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == list(DIRECTORIES)
    for path in data.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o600 if path.is_file() else 0o700)
    assert data.stat().st_mode & 0o777 == 0o700


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    start(tmp_path)
    before = snapshot(tmp_path)
    assert start(tmp_path) == ()
    assert snapshot(tmp_path) == before


def test_only_missing_files_are_created(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / "opa" / "tdxData").unlink()
    (tmp_path / "image" / "policy.json").write_bytes(b'{"default":[]}')
    (tmp_path / "image" / "sigstore.yaml").write_bytes(b"")
    (tmp_path / "opa" / "sgxPolicy.rego").write_bytes(b"not rego")
    before = snapshot(tmp_path)
    start(tmp_path)
    after = snapshot(tmp_path)
    assert set(after) - set(before) == {"opa/tdxData"}
    del after["opa/tdxData"]
    assert after == before


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """Data directory as the original and its guide create it."""
    data = tmp_path / "verdictd"
    contents = {
        "keys/84688df7-2c0c-40fa-956b-29d8e74d16c0": b"1234567890123456789012345678901\n",
        "image/policy.json": b'{\n    "default": [{"type": "insecureAcceptAnything"},],\n}\n',
        "image/sigstore.yaml": b"default:\n    sigstore: file:///var/lib/containers/sigstore\n",
        "image/cosign.key": b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n",
        "gpg/keyring.gpg": b"\x99\x01\x0d\x04" + bytes(269),
        "opa/sgxPolicy.rego": b"package policy\n\ndefault allow = false\n",
        "opa/sgxData": b'{ "mrEnclave" : [], "mrSigner" : [], "productId" : 0, "svn" : 0 }',
    }
    for name, content in contents.items():
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
        path.parent.chmod(0o755)
    return data


async def test_an_upstream_directory_is_not_changed(upstream: Path) -> None:
    """defects.md 10: its policy.json, with the comma, is served unchanged.

    The warning is one of `broker.contents`.
    """
    before = snapshot(upstream)
    warnings = start(upstream)
    after = snapshot(upstream)
    assert {name: after[name] for name in before} == before
    opened = [
        *("keys/84688df7-2c0c-40fa-956b-29d8e74d16c0", "image/cosign.key", "image/policy.json"),
        *("image/sigstore.yaml", "gpg/keyring.gpg"),
    ]
    assert warnings == (
        *(f"{name} has mode 0644: other users may read it; run chmod 600 on it" for name in opened),
    )
    directory = Directory.open(upstream)
    resources = resource_store(directory)
    for name, file in (("Policy", "image/policy.json"), ("GPG Keyring", "gpg/keyring.gpg")):
        found = await resources.get(parse_resource_name(name))
        assert found.content == SecretBytes((upstream / file).read_bytes())


def test_a_checkout_can_be_the_data_directory(tmp_path: Path) -> None:
    """Its keys/README.md is not a key; other directories are ignored."""
    shutil.copytree(REPOSITORY / "keys", tmp_path / "keys")
    for path in (tmp_path / "keys").iterdir():
        path.chmod(0o600)
    (tmp_path / "dev").symlink_to("nowhere")
    assert start(tmp_path) == ()


def test_the_number_of_warnings_is_limited(tmp_path: Path) -> None:
    """The more important ones come first."""
    start(tmp_path)
    for number in range(300):
        (tmp_path / "keys" / f"{number:03}").write_bytes(bytes(32))
        (tmp_path / "keys" / f"{number:03}").chmod(0o644)
    (tmp_path / "keys" / "zzz").write_bytes(b"short")
    (tmp_path / "keys" / "zzz").chmod(0o600)
    warnings = start(tmp_path)
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[0].startswith("key zzz has 5 bytes and is not served")
    assert warnings[-1] == f"and {301 - MAX_WARNINGS} more"


def test_a_temporary_file_of_a_running_broker_is_not_a_key(tmp_path: Path) -> None:
    start(tmp_path)
    with (tmp_path / "keys" / (".tmp-" + "0" * 32)).open("wb") as half_written:
        fcntl.flock(half_written, fcntl.LOCK_EX)
        assert start(tmp_path) == ()
        assert Path(half_written.name).exists()


@pytest.mark.parametrize("name", DIRECTORIES)
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_place_of_a_directory_is_refused(
    tmp_path: Path, name: str, kind: str
) -> None:
    """A link to a directory is refused too: links below the data directory are not followed."""
    data = tmp_path / "data"
    data.mkdir()
    if kind == "file":
        (data / name).touch()
    else:
        (data / name).symlink_to(tmp_path)
    gc.collect()  # roots of earlier tests are closed with their last reference
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # an iterator holds one itself
    with pytest.raises(ConfigError) as refused:
        prepare(data, PROVING)
    assert str(refused.value) == (
        f"cannot use {data / name}: it is a file or a link where a directory belongs; "
        "move it away, or choose another --data-dir"
    )
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # as above


@pytest.fixture
def reachable() -> Iterator[Path]:
    """Directory that other users can reach, unlike those of pytest."""
    if os.getuid() != 0:
        pytest.skip("only root can start a process of another user")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


STARTED_BY_NOBODY = f"""
import os, sys
from pathlib import Path
from verdictd_py.errors import ConfigError
from verdictd_py.storage.layout import prepare
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
try:
    print(prepare(Path(sys.argv[1]), [])[1].warnings)
except ConfigError as error:
    sys.exit(str(error))
"""


def started_by_nobody(data: Path) -> str:
    """Return what a broker of an ordinary user prints on standard error; empty if it starts."""
    done = subprocess.run(
        [sys.executable, "-c", STARTED_BY_NOBODY, str(data)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (1 if done.stderr else 0), done.stderr
    return done.stderr.removesuffix("\n")


def test_an_ordinary_user_starts_on_its_own_directory(reachable: Path) -> None:
    data = reachable / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    assert started_by_nobody(data) == ""
    assert (data / "image" / "policy.json").stat().st_uid == NOBODY


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o600, 0o300])
def test_a_directory_without_permissions_is_one_line(reachable: Path, mode: int) -> None:
    data = reachable / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    data.chmod(mode)
    said = started_by_nobody(data)
    assert said.startswith(f"cannot use {data}: ")
    assert "permission denied" in said.lower()
    assert "choose another --data-dir" in said
    assert "\n" not in said


def test_a_parent_that_cannot_be_written_is_one_line(reachable: Path) -> None:
    said = started_by_nobody(reachable / "missing" / "data")
    assert said.startswith(f"cannot use {reachable / 'missing' / 'data'}: Permission denied; ")
    assert "\n" not in said


@pytest.mark.parametrize("name", ["keys", "image"])
def test_a_subdirectory_without_permissions_is_named(reachable: Path, name: str) -> None:
    data = reachable / "data"
    assert start(data) == ()
    for path in (data, *data.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    assert started_by_nobody(data) == ""
    (data / "image" / "policy.json").unlink()
    (data / name).chmod(0o000)
    said = started_by_nobody(data)
    assert said.startswith(f"cannot use {data / name}")
    assert said.endswith("permission denied; make it readable and writable for this user")
