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

_SECRET_KEY: Final = frozenset({0x94, 0x95, 0x96, 0x97, 0xC5})
# First byte of OpenPGP's secret-key packet in both formats (RFC 9580, 4.2 and 5.5.1.3)

_BOM: Final = b"\xef\xbb\xbf"
_ARMOUR: Final = b"-----BEGIN PGP PUBLIC KEY BLOCK"
_REMEDY: Final = "'verdict-py keyring import' stores it in the binary form, which every guest reads"
_SECRET_ARMOUR: Final = b"-----BEGIN PGP PRIVATE KEY BLOCK"


def withheld(content: bytes) -> str:
    """Return why a keyring must not be served, with the remedy; else ''."""
    if content[8:12] == _KEYBOX:
        return "it is GnuPG's keybox, which guests cannot read; store what gpg --export writes"
    if (content and content[0] in _SECRET_KEY) or _SECRET_ARMOUR in content:
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
