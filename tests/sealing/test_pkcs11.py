"""Provider `pkcs11:` on a real SoftHSM2."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.sealing import CONTEXT, DATA_KEY, KeyEncryptionKeySuite
from verdictd_py.errors import ConfigError
from verdictd_py.formats.pkcs11uri import Pkcs11Uri
from verdictd_py.ports.sealing import KeyEncryptionKey, SealUnavailable
from verdictd_py.sealing.registry import open_key

MODULE = next(
    (
        path
        for path in (
            os.environ.get("SOFTHSM2_MODULE", ""),
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib64/pkcs11/libsofthsm2.so",
        )
        if path and Path(path).exists()
    ),
    "",
)
PIN = "731 secret"

pytestmark = [
    pytest.mark.skipif(not MODULE, reason="SoftHSM2 is missing; apt-get install softhsm2"),
    pytest.mark.skipif(
        importlib.util.find_spec("pkcs11") is None, reason="python-pkcs11 is not installed"
    ),
    # A token that is initialized again ends the sessions of all providers in this process.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Token:
    """A token of SoftHSM2 with one key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokens = root / "tokens"
        self.tokens.mkdir()
        self.pin = root / "pin"
        self.pin.write_text(PIN + "\n")
        self.pin.chmod(0o400)
        self.number = 0x00FE
        self._tool("--init-token", "--free", "--label", "verdictd test", "--so-pin", "1234")
        self.import_key()

    @property
    def uri(self) -> str:
        return (
            "pkcs11:token=verdictd%20test;object=kek;type=secret-key"
            f"?module-path={MODULE}&pin-source=file:{self.pin}"
        )

    def import_key(self, *, sessions_continue: bool = False) -> None:
        """Add a newer version. The ids pass from one byte to two.

        Args:
            sessions_continue: whether the sessions of this process continue, of which one has
                logged in.
        """
        import pkcs11  # noqa: PLC0415  # optional

        self.number += 1
        size = 1 if self.number < 0x100 else 2
        library = pkcs11.lib(MODULE)
        if not sessions_continue:
            library.reinitialize()
        token = library.get_token(token_label="verdictd test")
        with token.open(rw=True, user_pin=None if sessions_continue else PIN) as session:
            session.generate_key(
                pkcs11.KeyType.AES,
                256,
                label="kek",
                id=self.number.to_bytes(size, "big"),
                store=True,
                template={
                    pkcs11.Attribute.SENSITIVE: True,
                    pkcs11.Attribute.EXTRACTABLE: False,
                    pkcs11.Attribute.ENCRYPT: True,
                    pkcs11.Attribute.DECRYPT: True,
                },
            )

    def remove_older_keys(self) -> None:
        import pkcs11  # noqa: PLC0415  # optional

        library = pkcs11.lib(MODULE)
        library.reinitialize()
        with library.get_token(token_label="verdictd test").open(rw=True, user_pin=PIN) as session:
            newest = self.number.to_bytes(1 if self.number < 0x100 else 2, "big")
            found: list[Any] = list(session.get_objects({pkcs11.Attribute.LABEL: "kek"}))
            for key in found:
                if key.id != newest:
                    key.destroy()

    def _tool(self, *arguments: str) -> None:
        command = ["softhsm2-util", *arguments, "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    return Token(tmp_path)


class TestSoftHsm(KeyEncryptionKeySuite):
    @pytest.fixture(autouse=True)
    def _token(self, token: Token) -> None:
        self.token = token

    async def opened(self) -> KeyEncryptionKey:
        return open_key(self.token.uri)

    async def rotate(self) -> None:
        self.token.import_key()

    async def retire(self) -> None:
        self.token.remove_older_keys()

    async def interrupt(self) -> None:
        self.token.tokens.rename(self.token.root / "away")
        self.token.tokens.mkdir()

    async def restore(self) -> None:
        self.token.tokens.rmdir()
        (self.token.root / "away").rename(self.token.tokens)


async def test_a_wrong_pin_is_refused_and_not_disclosed(token: Token) -> None:
    token.pin.chmod(0o600)
    token.pin.write_text("999999")
    kek = open_key(token.uri)
    with pytest.raises(SealUnavailable, match="PIN") as refused:
        await kek.wrap(DATA_KEY, CONTEXT)
    assert "999999" not in str(refused.value)
    await kek.close()


async def test_a_refused_pin_is_not_tried_again(token: Token) -> None:
    """The check of the health runs again and again: a real token would lock itself."""
    kek = open_key(token.uri)
    token.pin.chmod(0o600)
    token.pin.write_text("999999")
    with pytest.raises(SealUnavailable, match="PIN"):
        await kek.check()
    for _ in range(10):
        with pytest.raises(SealUnavailable, match="not tried again") as refused:
            await kek.wrap(DATA_KEY, CONTEXT)
        assert "999999" not in str(refused.value)
    token.pin.write_text(PIN + "\n")
    wrapped = await kek.wrap(DATA_KEY, CONTEXT)
    assert await kek.unwrap(kek.current, wrapped, CONTEXT) == DATA_KEY
    await kek.close()


async def test_a_pin_that_others_may_read_is_not_used(token: Token) -> None:
    token.pin.chmod(0o444)
    kek = open_key(token.uri)
    with pytest.raises(SealUnavailable, match="chmod g-w,o="):
        await kek.check()
    await kek.close()


async def test_a_library_that_is_missing_is_named(token: Token) -> None:
    kek = open_key(token.uri.replace(MODULE, "/nonexistent/library.so"))
    with pytest.raises(SealUnavailable, match=r"/nonexistent/library\.so"):
        await kek.check()
    await kek.close()


async def test_the_id_of_the_uri_chooses_the_version_that_wraps(token: Token) -> None:
    token.import_key()
    kek = open_key(token.uri.replace("object=kek", "object=kek;id=%FF"))
    wrapped = await kek.wrap(DATA_KEY, CONTEXT)
    assert kek.current == "pkcs11:ff"
    newest = open_key(token.uri)
    await newest.check()
    assert newest.current == "pkcs11:0100"
    assert await newest.unwrap("pkcs11:ff", wrapped, CONTEXT) == DATA_KEY
    await kek.close()
    await newest.close()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("pkcs11:object=k?module-path=/l&pin-value=1234", "pin-source"),
        ("pkcs11:object=k", "module-path"),
        ("pkcs11:token=t?module-path=/l", "names no key"),
        ("pkcs11:object=k;type=private?module-path=/l", "secret-key"),
        ("pkcs11:object=k;x-other=1?module-path=/l", "x-other"),
        ("pkcs11:object=k;object=l?module-path=/l", "repeated"),
        ("pkcs11:object=%zz?module-path=/l", "damaged"),
        ("pkcs11:object=?module-path=/l", "empty"),
        ("pkcs11:object=%ff?module-path=/l", "UTF-8"),
        ("pkcs11:object=k;slot-id=one?module-path=/l", "slot-id"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        open_key(uri)
    assert "1234" not in str(refused.value)


def test_a_uri_is_decoded() -> None:
    uri = Pkcs11Uri.parse("pkcs11:token=a%20b;id=%00%01;object=%C3%A9?module-path=/x%3By")
    assert (uri.token, uri.key_id, uri.label) == ({"token": "a b"}, b"\x00\x01", "é")
    assert uri.module == "/x;y"
    assert shutil.which("softhsm2-util")


async def test_the_next_wrap_uses_a_new_key_of_the_token(token: Token) -> None:
    """The session continues: it is not another session that finds the key."""
    kek = open_key(token.uri)
    await kek.check()
    assert kek.current == "pkcs11:ff"
    token.import_key(sessions_continue=True)
    wrapped = await kek.wrap(DATA_KEY, CONTEXT)
    assert kek.current == "pkcs11:0100"
    assert await kek.unwrap("pkcs11:0100", wrapped, CONTEXT) == DATA_KEY
    await kek.close()
