"""Chain of digests of an audit file: each line contains its own digest and the previous one.

`read_record` detects a line that was changed, removed or inserted. A file that was cut at its end
is detected by comparison with a later statement about it (`events.verification`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from verdictd_py.errors import StorageError

FIRST: Final = "0" * 64
"""In the place of the previous digest, in the first line of a file."""

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of a line: all fields of an event at their bounds have less than 2 MiB."""

_DIGEST: Final = "digest"
"""Member with the digest of all others. By its name it is usually the first of a line."""

_CONNECTION: Final = "connection"
_MEMBERS: Final = frozenset((_CONNECTION, _DIGEST, "event", "fields", "number", "previous", "time"))
"""Members of the lines that this version writes. Only the connection precedes the digest."""


_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)
_DECODE: Final = json.JSONDecoder().raw_decode


def _encoder() -> Callable[[Mapping[str, Any]], str]:
    """Return a function that encodes a record canonically.

    `JSONEncoder.encode` makes the encoder that is written in C for each call, which takes a fifth
    of the time.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another implementation of Python
        return _ENCODER.encode
    text = json.encoder.encode_basestring_ascii
    encode = make(None, _ENCODER.default, text, None, ":", ",", True, False, True)
    return lambda members: "".join(encode(members, 0))


_ENCODE: Final = _encoder()


def sealed(members: Mapping[str, Any], previous: str) -> tuple[bytes, str]:
    """Return one line with its digest, and this digest for the next line's `previous`."""
    body = _canonical({**members, "previous": previous})
    digest = hashlib.sha256(body).hexdigest()
    at = _place_of_digest(members)
    if at is None:
        return _canonical({**members, "previous": previous, _DIGEST: digest}) + b"\n", digest
    return b'%b"%b":"%b",%b\n' % (body[:at], _DIGEST.encode(), digest.encode(), body[at:]), digest


def _place_of_digest(members: Mapping[str, Any]) -> int | None:
    """Return where the digest is in a canonical line; None if that needs its whole text."""
    if not _MEMBERS.issuperset(members):
        return None
    connection = members.get(_CONNECTION, "")
    if connection == "":
        return None if _CONNECTION in members else 1
    if not isinstance(connection, str) or not connection.isascii() or not connection.isalnum():
        return None
    return len(f'{{"{_CONNECTION}":"{connection}",')


def read_record(line: bytes, number: int, previous: str) -> dict[str, Any]:
    """Return the members of a line, the digest included.

    The line must be spelled exactly as `sealed` does: another spelling of the same record, such as
    a repeated member or more spaces, can have the same meaning for one program and another one for
    the next.

    Args:
        number: the line's index from 0.
        previous: digest of the line before.

    Raises:
        StorageError: the line is not the next record of the chain; the text names it by its
            number from 1.
    """
    where = f"line {number + 1}"
    try:
        members, _ = _DECODE(line.decode("ascii"))  # anything after it differs from `written`
        digest = members[_DIGEST]
        if members.get("previous") != previous or members.get("number") != number:
            raise StorageError(f"{where} does not follow the line before it")
        written = _canonical(members) + b"\n"
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise StorageError(f"{where} is not a record: it was cut or overwritten") from None
    if line != written:
        if line + b"\n" == written:
            raise StorageError(f"{where} has no end: the file was cut")
        raise StorageError(f"{where} was changed after it was written")
    if hashlib.sha256(_body(line, members)).hexdigest() != digest:
        raise StorageError(f"{where} was changed after it was written")
    return members  # type: ignore[no-any-return]  # an object, or there would be no digest


def _body(line: bytes, members: Mapping[str, Any]) -> bytes:
    """Return what the digest of a canonical line covers: the line without this member."""
    at = _place_of_digest(members)
    if at is None:
        return _canonical({name: value for name, value in members.items() if name != _DIGEST})
    end = at + len(f'"{_DIGEST}":"{FIRST}",')
    return line[:at] + line[end:-1]


def verify(lines: Iterator[bytes]) -> tuple[int, str]:
    """Check the chain of a file's lines, from the first line.

    Returns:
        The number of records and the digest of the last one, as in the event `AuditClosed`.

    Raises:
        StorageError: the chain is broken; the text names the first such line by its number.
    """
    previous, count = FIRST, 0
    for line in lines:
        previous = read_record(line, count, previous)[_DIGEST]
        count += 1
    return count, previous


def _canonical(members: Mapping[str, Any]) -> bytes:
    return _ENCODE(members).encode()
