"""Private keys in place of public ones, in each form in which tools write them.

Every accepted guest can fetch a resource, so such a content must never be served. Forms: PEM
(RFC 7468; cosign; OpenSSH), PKCS#8 with and without encryption (RFC 5958), PKCS#1 (RFC 8017),
SEC1 (RFC 5915), PKCS#12 (RFC 7292), JWK (RFC 7517), PuTTY and SSH2.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Final

_TEXT: Final = re.compile(rb"---- ?BEGIN [A-Z0-9 ]{0,100}PRIVATE KEY|PuTTY-User-Key-File-")
_BLOCK: Final = re.compile(rb"-----BEGIN [^-\r\n]{1,100}-----([^-]*)")
_JWK_SECRET: Final = re.compile(rb'"[dk]"\s*:\s*"')

_SEQUENCE: Final = rb"\x30(?:[\x00-\x7f]|\x81.|\x82..|\x83.{3}|\x84.{4}|\x80)"
_DER: Final = re.compile(
    _SEQUENCE
    + rb"(?:\x02\x01(?:\x00[\x02\x30]|\x01[\x04\x30]|\x03\x30)"  # versions of the forms above
    + rb"|"
    + _SEQUENCE
    + rb"\x06.\x2a\x86\x48\x86\xf7\x0d\x01[\x05\x0c])",  # encryption of PKCS#5 or PKCS#12
    re.DOTALL,
)


def has_private_key(content: bytes) -> bool:
    """Return whether `content` has a private key, also as UTF-16, or as base64 once more."""
    return any(map(_is_private, _forms(content)))


def _forms(content: bytes) -> Iterator[bytes]:
    yield content
    if b"\0" in content:
        yield content.replace(b"\0", b"")  # text in UTF-16 or UTF-32
    yield _decoded(content)
    for block in _BLOCK.finditer(content):  # its label may be wrong
        yield _decoded(block[1])


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text)
    except ValueError:
        return b""


def _is_private(form: bytes) -> bool:
    if _DER.match(form) or _TEXT.search(form):
        return True
    return b'"kty"' in form and _JWK_SECRET.search(form) is not None
