"""Secret keys in keyrings, which must not be served."""

from __future__ import annotations

import pytest

from tests.support.vectors import input_file
from verdictd_py.formats import contents

SEGMENTS = ("team", "gpg-public-config", "a")
KEYRING = input_file("gpg/two.gpg").read_bytes()
SECRET_ARMOUR = input_file("gpg/secret.asc").read_text()

# Packets of two bytes, in both formats of headers (RFC 9580, 4.2)
SECRET_KEY = b"\xc5\x02\x04\x00"
SECRET_SUBKEY = b"\x9c\x02\x04\x00"


@pytest.mark.parametrize(
    "content",
    [
        SECRET_KEY,
        KEYRING + SECRET_KEY,
        KEYRING + SECRET_SUBKEY + KEYRING,
        b"\xcd\xc0\x01" + b"u" * 193 + SECRET_KEY,
        b"\xcd\xff\x00\x00\x01\x00" + b"u" * 256 + SECRET_KEY,
        b"\xcd\xe1uu\x01u" + SECRET_KEY,
        b"\xb5\x00\x02uu" + SECRET_KEY,
        SECRET_ARMOUR.encode("utf-16"),
        SECRET_ARMOUR.encode("utf-16-be"),
    ],
)
def test_a_secret_key_is_withheld_wherever_it_is(content: bytes) -> None:
    assert "secret key" in contents.withheld(SEGMENTS, content)


@pytest.mark.parametrize(
    "name", ["two.gpg", "ed.gpg", "rsa.gpg", "dsa.gpg", "nist.gpg", "rev.gpg", "old.gpg", "two.asc"]
)
def test_no_public_key_is_withheld(name: str) -> None:
    content = input_file(f"gpg/{name}").read_bytes()
    assert not contents.withheld(SEGMENTS, content)
    assert not contents.withheld(SEGMENTS, content[:-3])


@pytest.mark.parametrize(
    "content",
    [b"", b"\xcd", b"\xcd\xff", b"\xcd\xe1", b"\xcd\xc0", b"\xb5", b"\xb7uu", b"\xcd\xfe"],
)
def test_damaged_packets_end_the_search(content: bytes) -> None:
    assert not contents.withheld(SEGMENTS, content)
