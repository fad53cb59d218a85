"""OpenPGP keyrings with which guests verify simple signatures (`signedBy`).

image-rs reads them with sequoia until v0.19, and with the crate `pgp` from v0.20 (its
`signature/policy/simple/verify.rs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from verdictd_py.errors import RequestError
from verdictd_py.formats.contents.findings import NONE, Finding, Generation
from verdictd_py.formats.openpgp import SequoiaKeyringEditor

_KEYBOX: Final = b"KBXf"  # magic of GnuPG's keybox, at offset 8 (kbx/keybox-blob.c)

_SECRET_TAGS: Final = frozenset({5, 7})
"""Tags of the packets with secret keys and secret subkeys (RFC 9580, 5.5.1)."""

_BOM: Final = b"\xef\xbb\xbf"
_ARMOUR: Final = b"-----BEGIN PGP PUBLIC KEY BLOCK"
_REMEDY: Final = "'verdict-py keyring import' stores it in the binary form, which every guest reads"
_SECRET_ARMOUR: Final = b"-----BEGIN PGP PRIVATE KEY BLOCK"


def withheld(content: bytes) -> str:
    """Return why a keyring must not be served, with the remedy; else ''."""
    if content[8:12] == _KEYBOX:
        return "it is GnuPG's keybox, which guests cannot read; store what gpg --export writes"
    text = content.replace(b"\0", b"")  # also in UTF-16
    if _SECRET_ARMOUR in text or any(tag in _SECRET_TAGS for tag in _tags(content)):
        return "it contains a secret key; store what gpg --export writes"
    return ""


def check(content: bytes) -> Iterator[Finding]:
    """Yield the findings about a keyring, at most one."""
    reason = withheld(content)
    if reason:
        yield Finding(reason)
        return
    if content.startswith(_BOM):
        text = f"a byte order mark stands before the armour; {_REMEDY}"
        yield Finding(text, frozenset({Generation.V0_20}))
    if content.count(_ARMOUR) > 1:
        yield Finding(f"guests read only the first of its armoured blocks; {_REMEDY}", NONE)
    try:
        SequoiaKeyringEditor().add(b"", content)
    except RequestError as error:
        yield Finding(str(error))


def _tags(content: bytes) -> Iterator[int]:
    """Yield the tags of binary packets (RFC 9580, 4.2), up to the first damaged one."""
    at = 0
    while at < len(content) and content[at] & 0x80:
        first = content[at]
        if first & 0x40:
            yield first & 0x3F
            at = _after_body(content, at + 1)
        else:
            yield first >> 2 & 0x0F
            octets = (1, 2, 4, len(content))[first & 3]  # the last: the rest is the body
            at += 1 + octets + int.from_bytes(content[at + 1 : at + 1 + min(octets, 4)])


def _after_body(content: bytes, at: int) -> int:
    """Return the offset after a body whose length, or that of its first part, is at `at`."""
    while at < len(content):
        length = content[at]
        if 224 <= length < 255:
            at += 1 + (1 << (length & 0x1F))
        elif length == 255:
            return at + 5 + int.from_bytes(content[at + 1 : at + 5])
        elif length >= 192:
            return at + 2 + (length - 192 << 8) + 192 + int.from_bytes(content[at + 1 : at + 2])
        else:
            return at + 1 + length
    return at
