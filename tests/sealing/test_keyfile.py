"""Providers `file:` and `credential:`, and the registry of providers."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest

from tests.conformance.sealing import CONTEXT, DATA_KEY, KeyEncryptionKeySuite
from verdictd_py.errors import ConfigError
from verdictd_py.ports.sealing import KeyEncryptionKey, SealUnavailable
from verdictd_py.sealing.keyfile import KeyFile
from verdictd_py.sealing.registry import open_key


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o400)


class Files(KeyEncryptionKeySuite):
    """The suite on a directory of key files."""

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = tmp_path / "keys"
        self.directory.mkdir()
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(self.directory))
        write(self.directory / "kek", secrets.token_bytes(32))

    async def rotate(self) -> None:
        number = len(list(self.directory.iterdir()))
        (self.directory / "kek").rename(self.directory / f"kek.old-{number}")
        write(self.directory / "kek", base64.b64encode(secrets.token_bytes(32)) + b"\n")

    async def retire(self) -> None:
        for old in self.directory.glob("kek.old*"):
            old.unlink()

    async def interrupt(self) -> None:
        self.directory.rename(self.directory.with_name("away"))

    async def restore(self) -> None:
        self.directory.with_name("away").rename(self.directory)


class TestFile(Files):
    async def opened(self) -> KeyEncryptionKey:
        return open_key(f"file:{self.directory / 'kek'}")


class TestCredential(Files):
    async def opened(self) -> KeyEncryptionKey:
        return open_key("credential:kek")


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), b"x" * 44, bytes(300), b"AAAA\n"])
async def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "kek", content)
    with pytest.raises(SealUnavailable, match="has no key"):
        await KeyFile(tmp_path / "kek").check()


@pytest.mark.parametrize("mode", [0o404, 0o420, 0o602, 0o444])
async def test_a_file_of_other_users_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path / "kek", bytes(32))
    (tmp_path / "kek").chmod(mode)
    with pytest.raises(SealUnavailable, match="chmod g-w,o="):
        await KeyFile(tmp_path / "kek").wrap(DATA_KEY, CONTEXT)


async def test_raw_and_base64_of_one_key_are_the_same_version(tmp_path: Path) -> None:
    write(tmp_path / "raw", bytes(range(32)))
    write(tmp_path / "text", base64.b64encode(bytes(range(32))) + b"\n")
    raw, text = KeyFile(tmp_path / "raw"), KeyFile(tmp_path / "text")
    wrapped = await raw.wrap(DATA_KEY, CONTEXT)
    await text.check()
    assert text.current == raw.current
    assert await text.unwrap(raw.current, wrapped, CONTEXT) == DATA_KEY


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("", "no such provider"),
        ("file", "absolute path"),
        ("files:/x", "no such provider"),
        ("file:relative", "absolute path"),
        ("file:/directory/", "absolute path"),
        ("file://host/x", "absolute path"),
        ("credential:", "name of a credential"),
        ("credential:../x", "name of a credential"),
        ("credential:kek", "LoadCredentialEncrypted=kek"),
    ],
)
def test_a_wrong_location_is_refused_with_the_remedy(
    location: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=words):
        open_key(location)
