"""Chain of digests of an audit file: each line contains its own digest and the previous one.

`verify` detects a line that was changed, removed or inserted. It also detects a file that was
cut, if its last digest is compared with the one in the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from verdictd_py.errors import StorageError

FIRST: Final = "0" * 64
"""In the place of the previous digest, in the first line of a file."""


_DIGEST: Final = "digest"
"""Member with the digest of all others. By its name it is usually the first of a line."""

_ENCODE: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def sealed(members: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    """Return one line with its digest, and this digest for the next line's `previous`."""
    body = _canonical({**members, "previous": previous})
    digest = hashlib.sha256(body).hexdigest()
    if min(members, default=_DIGEST) < _DIGEST:
        return _canonical({**members, "previous": previous, _DIGEST: digest}) + b"\n", digest
    return b'{"%b":"%b",%b\n' % (_DIGEST.encode(), digest.encode(), body[1:]), digest


def verify(lines: Iterator[bytes]) -> tuple[int, str]:
    """Check the chain of a file's lines, from the first line.

    Returns:
        The number of records and the digest of the last one, as in the event `AuditClosed`.

    Raises:
        StorageError: the chain is broken; the text names the first such line by its number.
    """
    previous, count = FIRST, 0
    for count, line in enumerate(lines, start=1):
        try:
            members = json.loads(line)
            digest = members.pop("digest")
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise StorageError(f"line {count} is not a record: it was cut or overwritten") from None
        if members.get("previous") != previous or members.get("number") != count - 1:
            raise StorageError(f"line {count} does not follow the line before it")
        if hashlib.sha256(_canonical(members)).hexdigest() != digest:
            raise StorageError(f"line {count} was changed after it was written")
        if not line.endswith(b"\n"):
            raise StorageError(f"line {count} has no end: the file was cut")
        # Another spelling of the same record has the same digest: a repeated name, more spaces.
        if line != _canonical({**members, "digest": digest}) + b"\n":
            raise StorageError(f"line {count} was changed after it was written")
        previous = digest
    return count, previous


def _canonical(members: Mapping[str, Any]) -> bytes:
    return _ENCODE(members).encode()
