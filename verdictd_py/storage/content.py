"""Check for content that must never be served, such as private keys."""

from __future__ import annotations

import re
from typing import Final

_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")
# PEM labels: PRIVATE KEY, EC PRIVATE KEY, ENCRYPTED COSIGN PRIVATE KEY, ... (RFC 7468; cosign)

_KEYBOX: Final = b"KBXf"  # magic of GnuPG's keybox, at offset 8 (kbx/keybox-blob.c)

_SECRET_KEY: Final = frozenset({0x94, 0x95, 0x96, 0x97, 0xC5})
# First byte of OpenPGP's secret-key packet in both formats (RFC 9580, 4.2 and 5.5.1.3)

COSIGN_KEY: Final = ("image", "cosign.key")
KEYRING: Final = ("gpg", "keyring.gpg")


def unservable(segments: tuple[str, ...], content: bytes) -> str | None:
    """Return why the file at `segments` must not be served, with the remedy; None if it may be."""
    if segments == COSIGN_KEY and _PRIVATE_KEY.search(content):
        return "it contains a private key; store the public one (cosign.pub) under this name"
    if segments == KEYRING and content[8:12] == _KEYBOX:
        return "it is GnuPG's keybox, which guests cannot read; store what gpg --export writes"
    if segments == KEYRING and content and content[0] in _SECRET_KEY:
        return "it contains a secret key; store what gpg --export writes"
    return None
