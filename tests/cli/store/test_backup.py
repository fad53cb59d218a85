"""`verdictd-py store backup`, `verify-backup` and `restore`, with age and OpenPGP."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from pysequoia import Tsk

from verdictd_py.cli.store import run
from verdictd_py.errors import ConfigError

SECRET = b"\x01 a secret of 32 bytes, in binary"[:32]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "keys" / "default" / "key").mkdir(parents=True, mode=0o700)
    (data / "keys" / "default" / "key" / "1").write_bytes(SECRET)
    (data / "opa").mkdir()
    (data / "opa" / "tdxPolicy.rego").write_text("package policy\n")
    for directory in (data, *data.rglob("*")):
        directory.chmod(0o700 if directory.is_dir() else 0o600)
    return data


def age(directory: Path, name: str = "identity") -> tuple[str, Path]:
    identity = pyrage.x25519.Identity.generate()
    file = directory / name
    file.write_text(f"# created by a test\n{identity}\n")
    return str(identity.to_public()), file


def openpgp(directory: Path, name: str = "identity") -> tuple[str, Path]:
    key = Tsk.generate("Operator <op@example.org>")
    file, public = directory / name, directory / f"{name}.pub"
    file.write_bytes(bytes(key))
    public.write_bytes(bytes(key.extract_certificate()))
    return str(public), file


Keys = Callable[..., tuple[str, Path]]
each_format = pytest.mark.parametrize("keys", [age, openpgp])


@each_format
def test_a_backup_is_restored(
    tmp_path: Path, data: Path, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    recipient, identity = keys(tmp_path)
    file, target = tmp_path / "backup", tmp_path / "new"
    assert run(["backup", str(file), "--recipient", recipient, "--data-dir", str(data)]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert SECRET not in file.read_bytes()
    digest = capsys.readouterr().out.split()[-1]
    read = [str(file), "--identity", str(identity), "--sha256", digest]
    assert run(["verify-backup", *read]) == 0
    assert "2 files" in capsys.readouterr().out
    assert run(["restore", *read, "--data-dir", str(target)]) == 0
    assert (target / "keys" / "default" / "key" / "1").read_bytes() == SECRET
    assert run(["restore", *read, "--data-dir", str(target), "--replace"]) == 0
    assert "before-restore" in capsys.readouterr().out


@each_format
def test_an_altered_backup_and_another_identity_are_refused(
    tmp_path: Path, data: Path, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    recipient, identity = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    file, target = tmp_path / "backup", tmp_path / "new"
    run(["backup", str(file), "--recipient", recipient, "--data-dir", str(data)])
    assert run(["verify-backup", str(file), "--identity", str(other)]) == 1
    assert "another recipient" in capsys.readouterr().err
    assert run(["verify-backup", str(file), "--identity", str(identity), "--sha256", "00"]) == 1
    content = file.read_bytes()
    for position in range(len(content) // 2, len(content), max(1, len(content) // 40)):
        file.chmod(0o600)
        file.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        command = ["restore", str(file), "--identity", str(identity), "--data-dir", str(target)]
        assert run(command) == 1
    file.write_bytes(content[:-40])
    assert run(["verify-backup", str(file), "--identity", str(identity)]) == 1
    assert not target.exists()
    assert SECRET.decode("latin1") not in capsys.readouterr().err


def test_two_recipients_can_decrypt(tmp_path: Path, data: Path) -> None:
    one, first = age(tmp_path, "one")
    two, second = age(tmp_path, "two")
    file = str(tmp_path / "backup")
    run(["backup", file, "--recipient", one, "--recipient", two, "--data-dir", str(data)])
    for identity in (first, second):
        assert run(["verify-backup", file, "--identity", str(identity)]) == 0


def test_mistakes_are_refused_with_a_remedy(tmp_path: Path, data: Path) -> None:
    recipient, identity = age(tmp_path)
    certificate, _ = openpgp(tmp_path, "pgp")
    file = tmp_path / "backup"
    where = ["--data-dir", str(data)]
    for recipients, remedy in (
        ([recipient, certificate], "cannot be mixed"),
        (["age1nonsense"], "copy it again"),
        ([str(identity)], "neither an age recipient"),
        ([str(tmp_path / "absent")], "absent: No such file or directory; check its name"),
    ):
        options = [part for each in recipients for part in ("--recipient", each)]
        with pytest.raises(ConfigError, match=remedy):
            run(["backup", str(file), *options, *where])
        assert not file.exists()
    file.touch()
    with pytest.raises(ConfigError, match="exists already"):
        run(["backup", str(file), "--recipient", recipient, *where])
    with pytest.raises(ConfigError, match="there is no directory"):
        run(["backup", str(file), "--recipient", recipient, "--data-dir", str(tmp_path / "no")])


def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient, _ = age(tmp_path)
    target = tmp_path / "backups"
    target.mkdir()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space"):
        run(["backup", str(target / "b"), "--recipient", recipient, "--data-dir", str(data)])
    assert list(target.iterdir()) == []
