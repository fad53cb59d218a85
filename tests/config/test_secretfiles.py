"""Files with a secret: which are read, and what is refused with a remedy."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from verdictd_py.secretfiles import SecretFileUnusable, read_password_file, read_secret_file

SECRET = b"hunter2-9c1"


def written(path: Path, content: bytes = SECRET, mode: int = 0o400) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def refusal(path: Path, **arguments: bool) -> str:
    with pytest.raises(SecretFileUnusable) as raised:
        read_secret_file(path, "key", max_bytes=len(SECRET), **arguments)
    text = str(raised.value)
    assert str(path) in text
    assert SECRET.decode() not in text
    assert ";" in text  # a remedy
    assert "\n" not in text
    return text


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o750])
def test_a_file_of_the_owner_and_its_group_is_read(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path / "file", mode=mode)
    assert read_secret_file(file, "key", max_bytes=len(SECRET)).reveal() == SECRET


@pytest.mark.parametrize("mode", [0o404, 0o444, 0o420, 0o602, 0o401])
def test_a_file_that_other_users_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path / "file", mode=mode)
    assert f"run 'chmod g-w,o= {file}'" in refusal(file)
    os.chmod(file, mode & ~0o027)  # noqa: PTH101  # as the remedy does
    assert read_secret_file(file, "key", max_bytes=len(SECRET)).reveal() == SECRET


@pytest.mark.parametrize("mode", [0o420, 0o602, 0o646])
def test_a_file_that_all_may_read_must_not_be_changed_by_others(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path / "token", mode=0o644)
    read = read_secret_file(file, "JWT", max_bytes=len(SECRET), readable_by_all=True)
    assert read.reveal() == SECRET
    file.chmod(mode)
    assert "chmod" in refusal(file, readable_by_all=True)


def test_a_mounted_secret_is_read_through_its_links(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    written(tmp_path / "..2026" / "key", mode=0o440)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "key").symlink_to("..data/key")
    assert read_secret_file(tmp_path / "key", "key", max_bytes=99).reveal() == SECRET


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "socket"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    """A FIFO without a writer neither blocks nor counts as empty."""
    path = tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as listening:
        match kind:
            case "fifo":
                os.mkfifo(path, 0o600)
            case "directory":
                path.mkdir(mode=0o700)
            case "device":
                path.symlink_to("/dev/zero")
            case _:
                listening.bind(str(path))
        text = refusal(path)
    cause = "cannot read the key" if kind in {"directory", "socket"} else "not a regular file"
    assert cause in text


@pytest.mark.parametrize("content", [b"", SECRET + b"\n"])
def test_an_empty_or_a_large_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "has no key" in refusal(written(tmp_path / "file", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5000, b"\xff\xfe"])
def test_an_unusable_password_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SecretFileUnusable, match="password"):
        read_password_file(written(tmp_path / "file", content))


def test_a_password_ends_at_its_newline(tmp_path: Path) -> None:
    assert read_password_file(written(tmp_path / "file", SECRET + b"\r\n")) == SECRET.decode()
