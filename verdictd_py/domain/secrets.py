"""Bytes that must never be seen."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

KEY_BYTES: Final = 32
"""Size of every key: AES-256 is the only cipher of the wire (wire-keyprovider)."""


class SecretBytes:
    """Bytes whose text forms show their number only.

    Comparison takes the same time wherever the first difference is. Pickling and
    formatting are refused, so that a secret cannot leave by accident.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves: the one way to them, and easy to search for."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"<{len(self._value)} secret bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")
