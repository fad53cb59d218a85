"""The subset of CBOR that rats-tls writes: no more is read, so no more can hurt.

A general decoder builds whatever hostile bytes ask for (nesting, tags, big numbers)
before a caller sees it; here the caller asks for one head after the other, nothing
recurses, and every length is checked against the bytes there are.

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
    """Takes items from the beginning of a buffer. Only definite lengths are read.

    Nothing here looks at what follows the last item: libcbor before 0.10 lets guests send
    its buffers with their allocated size, and this is the one place that tolerates it.
    Heads longer than needed are read too: libcbor writes 32-bit numbers for small ones.

    Args:
        data: the buffer.
        what: names it in messages: `the claims`.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def unsigned(self) -> int:
        """An unsigned integer.

        Raises:
            EvidenceFormat: something else comes next, or it is cut off; so do the others.
        """
        return self._head(_UNSIGNED)

    def byte_string(self) -> bytes:
        """A byte string."""
        return self._take(self._head(_BYTES))

    def text(self) -> str:
        """A text string."""
        try:
            return self._take(self._head(_TEXT)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise EvidenceFormat(f"{self._what} have text that is not UTF-8") from error

    def array(self) -> int:
        """Head of an array: how many items follow."""
        return self._head(_ARRAY)

    def mapping(self) -> int:
        """Head of a map: how many pairs follow."""
        return self._head(_MAP)

    def tag(self) -> int:
        """A tag; its item follows."""
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
    """An unsigned integer, as short as possible."""
    return _head(_UNSIGNED, value)


def unsigned32(value: int) -> bytes:
    """An unsigned integer in 32 bits, however small: the C library's verifier insists."""
    return bytes([_UNSIGNED << 5 | _IMMEDIATE + 2]) + value.to_bytes(4, "big")


def byte_string(value: bytes) -> bytes:
    """A byte string."""
    return _head(_BYTES, len(value)) + value


def array(*items: bytes) -> bytes:
    """An array of encoded items."""
    return _head(_ARRAY, len(items)) + b"".join(items)


def mapping(entries: dict[str, bytes]) -> bytes:
    """A map from text to byte strings, in the order given."""
    encoded = [_head(_MAP, len(entries))]
    for name, value in entries.items():
        key = name.encode("utf-8")
        encoded += (_head(_TEXT, len(key)), key, byte_string(value))
    return b"".join(encoded)


def tagged(tag: int, item: bytes) -> bytes:
    """An encoded item under a tag."""
    return _head(_TAG, tag) + item


def _head(major: int, value: int) -> bytes:
    if value < _IMMEDIATE:
        return bytes([major << 5 | value])
    power = next(power for power in range(4) if value < 1 << (8 << power))
    return bytes([major << 5 | _IMMEDIATE + power]) + value.to_bytes(1 << power, "big")
