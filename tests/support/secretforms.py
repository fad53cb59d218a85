"""Search of bytes for secrets, in the forms in which programs write them.

A secret is searched raw, in hex of both cases, and in base64 and base64url at each of the three
alignments that base64 has inside a larger text. These forms are also searched inside of what is
encoded once more: each run of hex digits and each run of base64 is decoded and searched as well
(`pg_dump` writes bytes as hex, which may be a JSON document with base64).

Compressed or encrypted bytes are not decoded. Secrets must have 16 bytes or more.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

MIN_BYTES: Final = 16
"""Shorter ones have forms that other bytes contain by accident."""

_ZEROS: Final = re.compile(rb"\0{64,}")
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2}){16,}")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{22,}")
_SKIPPED_AT_START: Final = (0, 2, 3)
"""Characters of base64 that belong to the bytes before, by the number of these bytes modulo 3."""
_SKIPPED_AT_END: Final = (0, 3, 2)
"""Characters and padding that depend on the bytes behind, by the length modulo 3."""


@lru_cache(maxsize=1000)
def forms(secret: bytes) -> frozenset[bytes]:
    """Return all forms of a secret."""
    if len(secret) < MIN_BYTES:
        raise ValueError("the secret is too short to be searched")
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret)
        end = len(encoded) - _SKIPPED_AT_END[(before + len(secret)) % 3]
        standard = encoded[_SKIPPED_AT_START[before] : end]
        found |= {standard, standard.translate(bytes.maketrans(b"+/", b"-_"))}
    return frozenset(found)


def secrets_in(content: bytes, secrets: Mapping[str, bytes]) -> set[str]:
    """Return the names of the secrets that the content has in any form."""
    layers = tuple(_layers(_ZEROS.sub(bytes(64), content)))
    return {
        name
        for name, secret in secrets.items()
        if any(form in layer for form in forms(secret) for layer in layers)
    }


def _layers(content: bytes) -> Iterator[bytes]:
    """Yield the content, and what its runs of hex and of base64 decode to."""
    yield content
    yield b"\n".join(bytes.fromhex(run.decode()) for run in _HEX.findall(content))
    yield b"\n".join(map(_decoded, _BASE64.findall(content)))


def _decoded(run: bytes) -> bytes:
    standard = run.translate(bytes.maketrans(b"-_", b"+/"))
    whole = len(standard) // 4 * 4 + (len(standard) % 4 if len(standard) % 4 > 1 else 0)
    return base64.b64decode(standard[:whole] + b"=" * (-whole % 4))
