"""Secret bytes, which are never displayed."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

KEY_BYTES: Final = 32
"""Size of every key: the wire protocols know AES-256 only (wire-keyprovider)."""


class SecretBytes:
    """Secret bytes, whose text forms contain only their number.

    Comparison takes constant time. Pickling is refused, and formatting renders the size, so
    that a secret is not disclosed by accident.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes themselves. This is the only access to them, and easy to search for."""
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

    __hash__ = None  # type: ignore[assignment]  # a secret must not be a dictionary key

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")
