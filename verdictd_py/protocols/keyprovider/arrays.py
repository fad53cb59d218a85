"""Byte strings as JSON arrays of integers, read and written in short steps.

A large one has a million integers. Most of the time for such a request would be the time to build
each of them, and one call of a library for all of them would hold the interpreter lock, so that
the event loop stalls (docs/reliability.md, "Stalls of the event loop").
"""

from __future__ import annotations

from typing import Final

from pydantic_core import from_json

from verdictd_py.encoding import encode_base64

_LARGE: Final = 64 * 1024
"""Length from which an array is read here. The reader of JSON is fast enough for smaller ones."""

_MAX_ARRAYS: Final = 64
"""Maximum number of arrays that are examined; a request has three."""

_STEP: Final = 4096
"""Characters, or bytes, that are converted in one call of a library, in less than 0.1 ms."""

_MISSING: Final = b" "
_CHARACTERS: Final = tuple(
    "".join(f"{number:3}"[place] for number in range(256)).encode() for place in range(3)
)
"""Hundreds, tens and ones of each byte; `_MISSING` in place of leading zeros."""

_BYTES_OF_ARRAYS: Final = b"0123456789, \t\n\r"
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_TOO_MANY_DIGITS: Final = b"0000"


def encode_array(data: bytes) -> bytes:
    """Return bytes as a compact JSON array of integers."""
    steps = (data[at : at + _STEP] for at in range(0, len(data), _STEP))
    return b"[%b]" % b"".join(map(_with_commas, steps))[:-1]


def _with_commas(data: bytes) -> bytes:
    """Return each byte as a decimal number with a comma after it.

    Each number has three characters at first, of which the missing ones are then deleted. That
    takes half the time of a library of JSON.
    """
    text = bytearray(b",") * (4 * len(data))
    for place, characters in enumerate(_CHARACTERS):
        text[place::4] = data.translate(characters)
    return bytes(text.translate(None, _MISSING))


def shorten_arrays(data: bytes) -> bytes:
    """Return JSON in which large arrays of bytes are base64 text of the same bytes.

    The readers of byte strings accept both (`decode_byte_string`). Arrays with other elements, and
    everything after a backslash, stay as they are; so does an array outside of a member.
    What is not JSON does not become JSON.
    """
    if len(data) < _LARGE:
        return data
    parts: list[bytes] = []
    copied = at = quotes = 0
    for _ in range(_MAX_ARRAYS):
        end = data.find(b"]", at)
        start = data.rfind(b"[", at, end)
        if start < 0 or data.find(b"\\", at, end) >= 0:  # an escape may hide a quote
            break
        quotes += data.count(b'"', at, start)
        if end - start > _LARGE and quotes % 2 == 0 and _is_value(data, start):
            octets = _octets(data[start + 1 : end])
            if octets is not None:
                parts += (data[copied:start], b'"', encode_base64(octets).encode(), b'"')
                copied = end + 1
        quotes += data.count(b'"', start, end)
        at = end + 1
    parts.append(data[copied:])
    return b"".join(parts)


def _is_value(data: bytes, start: int) -> bool:
    """Return whether a colon precedes an array, with little white space between."""
    return data[max(0, start - 16) : start].rstrip(b" \t\n\r").endswith(b":")


def _octets(content: bytes) -> bytes | None:
    """Return the bytes of an array without its brackets; None if its elements are not bytes."""
    octets = bytearray()
    at = 0
    while True:
        end = content.find(b",", at + _STEP)
        step = content[at:] if end < 0 else content[at:end]
        if step.translate(None, _BYTES_OF_ARRAYS):
            return None
        if _TOO_MANY_DIGITS in step.translate(_DIGITS_AS_ZEROS):
            return None
        try:
            converted = bytes(from_json(b"[%b]" % step))
        except ValueError:
            return None
        if not converted:  # an array has no comma before its end
            return None
        octets += converted
        if end < 0:
            return bytes(octets)
        at = end + 1
