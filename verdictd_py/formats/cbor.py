"""Reader and writer of the subset of CBOR that rats-tls writes.

A general decoder builds nested structures, tags and big numbers from hostile bytes before
its caller can refuse them. Here the caller reads one head at a time, nothing recurses, and
every length is checked against the remaining bytes.

Source: RFC 8949, 3 (heads) and 3.1 (major types).
"""

from __future__ import annotations

from typing import Final

from verdictd_py.errors import EvidenceFormat

_UNSIGNED: Final = 0  # RFC 8949, 3.1
_BYTES: Final = 2
_TEXT: Final = 3
_ARRAY: Final = 4
_MAP: Final = 5
_TAG: Final = 6
_IMMEDIATE: Final = 24  # RFC 8949, 3: below it the value itself, 24 to 27 its 1, 2, 4, 8 bytes
_LONGEST: Final = 27


class Reader:
    """Reader of the items in a buffer, in order. Only definite lengths are accepted.

    Bytes after the last item are ignored: guests with libcbor before 0.10 send its buffers
    with their allocated size. Heads longer than necessary are accepted, because libcbor
    writes small numbers with 32 bits.

    Args:
        data: the buffer.
        what: name of the buffer in messages, a plural: `the claims`.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def unsigned(self) -> int:
        """Read an unsigned integer.

        Raises:
            EvidenceFormat: another type, or truncated; the other methods raise it too.
        """
        return self._head(_UNSIGNED)

    def byte_string(self) -> bytes:
        """Read a byte string."""
        return self._take(self._head(_BYTES))

    def text(self) -> str:
        """Read a text string."""
        try:
            return self._take(self._head(_TEXT)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise EvidenceFormat(f"{self._what} have text that is not UTF-8") from error

    def array(self) -> int:
        """Read the head of an array, and return the number of items that follow."""
        return self._head(_ARRAY)

    def mapping(self) -> int:
        """Read the head of a map, and return the number of pairs that follow."""
        return self._head(_MAP)

    def tag(self) -> int:
        """Read a tag; its item follows."""
        return self._head(_TAG)

    def _head(self, major: int) -> int:
        first = self._take(1)[0]
        info = first & 0x1F
        if first >> 5 != major or info > _LONGEST:
            raise EvidenceFormat(f"{self._what} are not the CBOR that rats-tls writes")
        if info < _IMMEDIATE:
            return info
        return int.from_bytes(self._take(1 << (info - _IMMEDIATE)), "big")

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise EvidenceFormat(f"{self._what} are cut off")
        taken = self._data[self._at : end]
        self._at = end
        return taken


def unsigned(value: int) -> bytes:
    """Encode an unsigned integer, as short as possible."""
    return _head(_UNSIGNED, value)


def unsigned32(value: int) -> bytes:
    """Encode an unsigned integer with 32 bits, which the C library's verifier requires."""
    return bytes([_UNSIGNED << 5 | _IMMEDIATE + 2]) + value.to_bytes(4, "big")


def byte_string(value: bytes) -> bytes:
    """Encode a byte string."""
    return _head(_BYTES, len(value)) + value


def array(*items: bytes) -> bytes:
    """Encode an array of encoded items."""
    return _head(_ARRAY, len(items)) + b"".join(items)


def mapping(entries: dict[str, bytes]) -> bytes:
    """Encode a map from text to byte strings, in the order of `entries`."""
    encoded = [_head(_MAP, len(entries))]
    for name, value in entries.items():
        key = name.encode("utf-8")
        encoded += (_head(_TEXT, len(key)), key, byte_string(value))
    return b"".join(encoded)


def tagged(tag: int, item: bytes) -> bytes:
    """Add a tag to an encoded item."""
    return _head(_TAG, tag) + item


def _head(major: int, value: int) -> bytes:
    if value < _IMMEDIATE:
        return bytes([major << 5 | value])
    power = next(power for power in range(4) if value < 1 << (8 << power))
    return bytes([major << 5 | _IMMEDIATE + power]) + value.to_bytes(1 << power, "big")
