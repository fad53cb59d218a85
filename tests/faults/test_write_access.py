"""Files that determine decisions: other users may not write them."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.support import NOBODY
from tests.support.events import RecordedEvents
from tests.support.secretfiles import write_secret
from tests.support.stores import document_store, resource_store
from tests.support.tees import PROVING
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.decidingfiles import DecidingFiles
from verdictd_py.domain.names import KeyId, Name, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.storage.access import problem_of_path
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryKeyStore

POLICY = Name.parse("tdxPolicy.rego")
root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can change owners")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepare(tmp_path / "above" / "data", PROVING)
    return tmp_path / "above" / "data"


def _writable(path: Path) -> str:
    path.chmod(0o777 if path.is_dir() else 0o666)
    return f"run 'chmod go-w {path}'"


def _group_writable(path: Path) -> str:
    path.chmod(0o770 if path.is_dir() else 0o660)
    os.chown(path, -1, 4)  # a group of several users
    return f"run 'chmod go-w {path}'"


def _foreign(path: Path) -> str:
    os.chown(path, NOBODY, -1)
    return f"run 'chown root {path}'"


@root_only
@pytest.mark.parametrize("change", [_writable, _group_writable, _foreign])
@pytest.mark.parametrize(
    "name", ["", "..", "opa", "keys", "audit", "opa/tdxPolicy.rego", "opa/tdxData"]
)
def test_a_start_is_refused_and_names_the_remedy(
    data: Path, name: str, change: Callable[[Path], str]
) -> None:
    path = Path(os.path.normpath(data / name))
    remedy = change(path)
    with pytest.raises(ConfigError) as refused:
        prepare(data, PROVING)
    assert remedy in str(refused.value)
    assert "\n" not in str(refused.value)
    prepare(data, PROVING, unsafe_writable=True)


@root_only
@pytest.mark.parametrize("change", [_writable, _group_writable, _foreign])
@pytest.mark.parametrize("name", ["", "..", "opa", "opa/tdxPolicy.rego"])
async def test_a_policy_is_refused_when_it_is_read(
    data: Path, name: str, change: Callable[[Path], str]
) -> None:
    """The broker already runs. The message has no path above the data directory."""
    documents = document_store(Directory.open(data))
    await documents.get(POLICY)
    change(Path(os.path.normpath(data / name)))
    for read in (documents.get(POLICY), documents.snapshot([POLICY])):
        with pytest.raises(StorageError, match="other user") as refused:
            await read
        assert str(data.parent) not in str(refused.value)
    assert await document_store(Directory(data, unsafe_writable=True)).get(POLICY)


@root_only
async def test_keys_and_resources_are_refused_when_they_are_read(data: Path) -> None:
    directory = Directory.open(data)
    keys, resources = DirectoryKeyStore(directory), resource_store(directory)
    await keys.create(KeyId.parse("key"), SecretBytes(b"k" * 32))
    path = ResourcePath.parse("default/cosign-public-key/test")
    await resources.put(path, SecretBytes(b"-----BEGIN PUBLIC KEY-----"))
    _writable(data / "keys" / "key")
    _foreign(data / "image" / "cosign.key")
    prepare(data, PROVING)  # one of them does not prevent the start
    with pytest.raises(StorageError, match="can be changed by other users"):
        await keys.get(KeyId.parse("key"))
    with pytest.raises(StorageError, match="belongs to another user"):
        await resources.get(path)


@root_only
def test_a_link_of_another_user_is_refused(data: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(data)
    assert problem_of_path(link) is None
    os.chown(link, NOBODY, -1, follow_symlinks=False)
    problem = problem_of_path(link)
    assert problem is not None
    assert problem.where == str(link)


def test_each_directory_on_the_way_of_a_link_is_checked(data: Path, tmp_path: Path) -> None:
    middle = tmp_path / "middle"
    middle.mkdir()
    (middle / "second").symlink_to(data)
    (tmp_path / "first").symlink_to("middle/second")
    assert problem_of_path(tmp_path / "first") is None
    middle.chmod(0o777)
    problem = problem_of_path(tmp_path / "first" / "opa")
    assert problem is not None
    assert problem.where == str(middle)


def test_a_directory_with_the_sticky_bit_is_accepted_above_only(tmp_path: Path) -> None:
    """Such as /tmp: other users cannot rename what is in it, but they can add to it."""
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    prepare(sticky / "data", PROVING)
    with pytest.raises(ConfigError, match="chmod go-w"):
        prepare(sticky, PROVING)


@root_only
@pytest.mark.parametrize(
    ("members", "others", "accepted"), [((), (), True), (("x",), (), False), ((), ("x",), False)]
)
def test_a_private_group_may_write(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: tuple[str, ...],
    others: tuple[str, ...],
    accepted: bool,
) -> None:
    """With umask 002 and private groups, what an operator copies is writable for the group.

    The group must have no other member, neither by /etc/group nor as a primary group.
    """
    root = pwd.getpwuid(0)
    users = [root, *(root.__class__((name, "x", 7, 0, "", "/", "/bin/sh")) for name in others)]
    group = grp.struct_group(("root", "x", 0, list(members)))
    monkeypatch.setattr(grp, "getgrgid", lambda _: group)
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    (data / "opa" / "tdxData").chmod(0o664)
    if accepted:
        prepare(data, PROVING)
    else:
        with pytest.raises(ConfigError, match="chmod go-w"):
            prepare(data, PROVING)


@root_only
def test_a_directory_that_is_no_volume_is_not_given_to_the_group(tmp_path: Path) -> None:
    """Other users of the host may be in the group, unknown to this process."""
    tmp_path.chmod(0o775)
    assert problem_of_path(tmp_path) is None  # the private group of root
    os.chown(tmp_path, 0, 54_321)
    groups = os.getgroups()
    os.setgroups([54_321])
    try:
        problem = problem_of_path(tmp_path)
    finally:
        os.setgroups(groups)
    assert problem is not None
    assert problem.where == str(tmp_path)


_IN_VOLUME = """
set -e
mount -t tmpfs -o "mode=2775,gid=$2" none "$1"
shift 2
exec setpriv --inh-caps=+dac_read_search --ambient-caps=+dac_read_search "$@"
"""
_PROBLEM = """
import sys
from pathlib import Path
from verdictd_py.storage.access import problem_of_path
print(problem_of_path(Path(sys.argv[1])))
"""


@root_only
@pytest.mark.parametrize(
    ("volume_group", "groups", "accepted"),
    [
        ("54321", "54321", True),
        ("54321", "54322", False),  # the process is no member
        ("1", "1", False),  # the primary group of the user daemon
    ],
)
def test_a_volume_that_root_gave_to_the_group_of_the_process(
    tmp_path: Path, volume_group: str, groups: str, accepted: bool
) -> None:
    """`fsGroup` of Kubernetes makes the directory of a volume writable for a group (2775)."""
    tmp_path.chmod(0o755)
    identity = ("--reuid=54321", f"--regid={groups}", "--clear-groups")
    shell = ("unshare", "--mount", "sh", "-c", _IN_VOLUME, "sh", str(tmp_path), volume_group)
    done = subprocess.run(
        [*shell, *identity, sys.executable, "-c", _PROBLEM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr and not done.stdout:
        pytest.skip("this user may not create namespaces")
    assert (done.stdout.strip() == "None") is accepted, done.stdout + done.stderr


def test_a_file_with_an_access_control_list_needs_a_mode_without_group_write(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode's group bits are then the mask of all named users."""
    monkeypatch.setattr(os, "getxattr", lambda *_: b"acl")
    (data / "opa" / "tdxData").chmod(0o660)
    with pytest.raises(ConfigError, match="chmod go-w"):
        prepare(data, PROVING)


@pytest.mark.parametrize(
    "setting",
    ["client_api_ca", "client_api_roles", "client_api_key", "kbs_admins", "kbs_token_key"],
)
def test_files_of_the_settings_are_refused(tmp_path: Path, setting: str) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    settings = Settings.model_validate({setting: file})
    DecidingFiles(settings, Unsafe(), DigestLog(RecordedEvents())).require_own()
    remedy = _writable(file)
    with pytest.raises(ConfigError, match=remedy):
        DecidingFiles(settings, Unsafe(), DigestLog(RecordedEvents())).require_own()
    chosen = Unsafe(unsafe_writable_files=True)
    DecidingFiles(settings, chosen, DigestLog(RecordedEvents())).require_own()


ENGINE_FILES: list[tuple[str, dict[str, Any]]] = [
    ("password", {"kbs_sessions": "valkeys://h?password_file={file}"}),
    ("key", {"kbs_sessions": "valkeys://h?cert={other}&key={file}"}),
    ("", {"kbs_sessions": "valkeys://h?ca={file}"}),
    ("", {"kbs_sessions": "valkeys://h?cert={file}&key={other}"}),
    ("password", {"store_password_file": "{file}"}),
    *(
        (secret, {setting: f"postgresql://a@h/b?{parameter}={{file}}"})
        for setting in ("store", "kbs_sessions")
        for secret, parameter in [
            *(("", "sslrootcert"), ("", "sslcrl"), ("", "sslcert")),
            *(("key", "sslkey"), ("password", "passfile")),
        ]
    ),
    ("key", {"seal": "file:{file}"}),
    ("key", {"seal": "file://{file}"}),
    ("PIN", {"seal": "pkcs11:object=k?module-name=x&pin-source={file}"}),
    ("PIN", {"seal": "pkcs11:object=k?module-name=x&pin-source=file:{file}"}),
    ("", {"seal": "pkcs11:object=k?module-path={file}"}),
    ("token for Vault", {"seal": "vault:https://h/transit/k?token-file={file}"}),
    ("", {"seal": "vault:https://h/transit/k?token-file={other}&ca={file}"}),
    *(
        (secret, {"resource_backend": ({"prefix": "team/", "vault": f"https://h/kv?{login}"},)})
        for secret, login in [
            ("token for Vault", "token-file={file}"),
            ("secret id for Vault", "role-id=r&secret-id-file={file}"),
            ("", "kubernetes-role=r&jwt-file={file}"),  # the kubelet writes it as 0644
            ("", "token-file={other}&ca={file}"),
        ]
    ),
    ("", {"audit_sink": ("syslog+tls://log.example?ca={file}",)}),
]
"""The secret that a file has, empty if others may read it, and the settings that name it."""


def _filled(value: object, **files: Path) -> Any:
    match value:
        case str():
            return value.format(**files)
        case dict():
            return {name: _filled(each, **files) for name, each in value.items()}
        case _:
            assert isinstance(value, tuple)
            return tuple(_filled(each, **files) for each in value)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[dict[str, Any]], DecidingFiles]:
    """Make the check of settings that name `file` and `other`."""
    files = {name: write_secret(tmp_path / name, "x") for name in ("file", "other")}

    def make(settings: dict[str, Any], **unsafe: Any) -> DecidingFiles:
        chosen = Settings.model_validate(_filled(settings, **files))
        return DecidingFiles(chosen, Unsafe(**unsafe), DigestLog(RecordedEvents()))

    return make


@pytest.mark.parametrize(("secret", "settings"), ENGINE_FILES)
def test_files_that_locations_of_engines_name_are_refused(
    tmp_path: Path, own: Callable[..., DecidingFiles], secret: str, settings: dict[str, Any]
) -> None:
    """An attacker who changes a CA reads the traffic; one who changes a library runs code here."""
    pytest.importorskip("psycopg")
    file = tmp_path / "file"
    own(settings).require_own()
    with pytest.raises(ConfigError, match=_writable(file)):
        own(settings).require_own()
    file.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match=f"run 'chmod go-w {tmp_path}'"):
        own(settings).require_own()
    own(settings, unsafe_writable_files=True).require_own()


@pytest.mark.parametrize(("secret", "settings"), ENGINE_FILES)
def test_a_secret_of_an_engine_that_others_may_read_is_refused(
    tmp_path: Path, own: Callable[..., DecidingFiles], secret: str, settings: dict[str, Any]
) -> None:
    """Also with the option for files that others may change: that is another danger."""
    pytest.importorskip("psycopg")
    file = tmp_path / "file"
    for mode in (0o604, 0o640, 0o440):
        file.chmod(mode)
        for unsafe in (False, True):
            if not secret or mode != 0o604:
                own(settings, unsafe_writable_files=unsafe).require_own()
                continue
            with pytest.raises(ConfigError, match=f"use the {secret} in {file}; run 'chmod"):
                own(settings, unsafe_writable_files=unsafe).require_own()


def test_a_secret_of_an_engine_is_a_regular_file(
    tmp_path: Path, own: Callable[..., DecidingFiles]
) -> None:
    settings = {"kbs_sessions": "valkeys://h?cert={other}&key={file}"}
    (tmp_path / "file").unlink()
    own(settings).require_own()  # what reads it reports that it is missing
    os.mkfifo(tmp_path / "file", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        own(settings).require_own()


def test_a_public_key_of_an_administrator_is_refused(tmp_path: Path) -> None:
    admins = tmp_path / "admins.toml"
    admins.write_text('[[key]]\nname = "ops"\npublic_key = "ops.pub"\n')
    (tmp_path / "ops.pub").touch()
    remedy = _writable(tmp_path / "ops.pub")
    settings = Settings(kbs_admins=admins)
    with pytest.raises(ConfigError, match=remedy):
        DecidingFiles(settings, Unsafe(), DigestLog(RecordedEvents())).require_own()
