"""Reader that splits a guest's byte stream into JSON objects.

The protocol has neither lengths nor delimiters: a request ends with its outermost closing
bracket. Source: wire-eaa.md, "How the broker must read".
"""

from __future__ import annotations

from typing import Final

from verdictd_py.encoding import JsonValue, StructureScanner, decode_object
from verdictd_py.errors import RequestError

MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Largest request, 1 MiB. A wrapped layer key takes less than 1 KiB."""

_SPACE: Final = b" \t\n\r"  # RFC 8259, 2


class RequestReader:
    """Incremental reader of JSON objects, however their bytes were split or joined.

    Feed the received bytes, then take requests until `next_request` returns None. After an
    error the rest of the stream has no meaning: every further call raises the error again,
    and the caller closes the connection.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanner = StructureScanner()
        self._refusal: str | None = None

    @property
    def pending(self) -> bool:
        """Whether a request has started that `next_request` has not returned yet.

        White space before a request does not start it.
        """
        return bool(self._buffer)

    @property
    def pending_bytes(self) -> int:
        """Number of bytes in the stream that `next_request` has not returned yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append received bytes to the stream.

        It raises nothing, because requests before an error must still be answered.
        """
        if self._refusal is None:
            self._buffer += data if self._buffer else data.lstrip(_SPACE)

    def next_request(self) -> dict[str, JsonValue] | None:
        """Return the next complete object, or None if more bytes are needed.

        Raises:
            RequestError: the next bytes are not a JSON object, or one longer than
                `MAX_REQUEST_BYTES`, or one that is nested too deeply.
        """
        if self._refusal is not None:
            raise RequestError(self._refusal)
        try:
            return self._next()
        except RequestError as error:
            self._refusal = str(error)
            self._buffer = bytearray()
            raise

    def _next(self) -> dict[str, JsonValue] | None:
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] != ord("{"):
            raise RequestError("a request is a JSON object and begins with '{'")
        end = self._scanner.end(buffer, MAX_REQUEST_BYTES)
        if end is None:
            if len(buffer) >= MAX_REQUEST_BYTES:
                raise RequestError(f"a request is longer than {MAX_REQUEST_BYTES} bytes")
            return None
        text = bytes(buffer[:end])
        while end < len(buffer) and buffer[end] in _SPACE:
            end += 1
        del buffer[:end]
        self._scanner = StructureScanner()
        return decode_object(text, "the request")
