"""Parser of answers with a limit: a server must not fill the memory of the broker.

The library reads as many bytes as the server announces, and raises errors of Python for numbers
that are none and for arrays in arrays without end.

Source: valkey.io, "Valkey serialization protocol specification" (RESP2); valkey-py, `_parsers`.
"""

from __future__ import annotations

from typing import Any, Final

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Size of the largest answer. The largest entry is the claims of one guest, with its event log."""

_LINE_BYTES: Final = 64
"""Memory that a line occupies in addition to its own bytes."""


def bounded_parser() -> Any:  # noqa: ANN401  # a class of the optional package
    """Return the class of the parser.

    Raises:
        ModuleNotFoundError: the optional package is missing.
    """
    from valkey._parsers import _AsyncRESP2Parser  # noqa: PLC0415  # optional package
    from valkey.exceptions import InvalidResponse  # noqa: PLC0415

    class BoundedParser(_AsyncRESP2Parser):
        """Raises `InvalidResponse` for every answer that is malformed or too large."""

        _left = MAX_ANSWER_BYTES

        async def read_response(self, disable_decoding: bool = False) -> Any:  # noqa: ANN401
            self._left = MAX_ANSWER_BYTES
            try:
                return await super().read_response(disable_decoding=disable_decoding)
            except (ValueError, RecursionError):
                raise InvalidResponse("malformed answer") from None

        async def _read(self, length: int) -> bytes:
            self._spend(length)
            return bytes(await super()._read(length))

        async def _readline(self) -> bytes:
            line = bytes(await super()._readline())
            self._spend(len(line) + _LINE_BYTES)
            return line

        def _spend(self, number: int) -> None:
            self._left -= max(number, 0)
            if self._left < 0:
                raise InvalidResponse("answer too large")

    return BoundedParser
