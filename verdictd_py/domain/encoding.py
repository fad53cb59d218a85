"""JSON and base64 from outside, read strictly: by guests' requests and by ocicrypt's.

Nothing here repeats what it read, except names, cut and escaped by `shown`: the rest
may be a layer key.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from typing import Final, NoReturn

from verdictd_py.domain.evidence import JsonValue
from verdictd_py.errors import RequestError

MAX_DEPTH: Final = 32
"""Nesting of objects and arrays. ocicrypt's input nests 5 deep, a guest's request 3; the
decoder recurses once a level, so the bound must stay far below Python's own."""

_MAX_NUMBER_CHARACTERS: Final = 32
"""No number on these wires exceeds 2^32; a long one would cost quadratic time."""
_MAX_SHOWN_CHARACTERS: Final = 64
"""Of a name in a message: enough to recognise it, too little to flood a log."""

_TO_STRUCTURE: Final = re.compile(rb'[^"\[\]{}]*+')
_STRING_BODY: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_QUOTE, _OPENING, _CLOSING = ord('"'), frozenset(b"{["), frozenset(b"}]")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")  # RFC 8259, 7: half of a pair


class StructureScanner:
    """Finds where a JSON object ends, in time linear in its bytes however they arrive.

    It knows brackets, strings and escapes only: what it finds may still be no JSON.
    """

    __slots__ = ("_at", "_depth", "_in_string")

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False

    def end(self, data: bytes | bytearray, limit: int) -> int | None:
        """Goes on where the last call stopped.

        Args:
            data: what the last call got, with more bytes at its end.
            limit: no byte at or behind this offset is looked at.

        Returns:
            The offset behind the outermost closing bracket, None where it is not there yet.

        Raises:
            RequestError: nested deeper than `MAX_DEPTH`.
        """
        stop = min(len(data), limit)
        while self._at < stop:
            if self._in_string:
                if not self._leave_string(data, stop):
                    return None
                continue
            self._at = _behind(_TO_STRUCTURE, data, self._at, stop)
            if self._at == stop:
                return None
            byte = data[self._at]
            self._at += 1
            if byte == _QUOTE:
                self._in_string = True
            elif byte in _OPENING:
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise RequestError(f"the JSON is nested deeper than {MAX_DEPTH} levels")
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return self._at
        return None

    def _leave_string(self, data: bytes | bytearray, stop: int) -> bool:
        """True once the closing quote is passed. A lone `\\` at the end waits for its pair."""
        self._at = _behind(_STRING_BODY, data, self._at, stop)
        if self._at < stop and data[self._at] == _QUOTE:
            self._at += 1
            self._in_string = False
            return True
        return False


def _behind(pattern: re.Pattern[bytes], data: bytes | bytearray, at: int, stop: int) -> int:
    """Offset behind what `pattern`, which matches anything, matches at `at`."""
    found = pattern.match(data, at, stop)
    return at if found is None else found.end()


def decode_object(data: bytes, what: str) -> dict[str, JsonValue]:
    """The JSON object that `data` is.

    Refused besides what is no JSON: anything else than one object, other encodings than
    UTF-8, members named twice, numbers that are not finite or too long, halves of
    surrogate pairs (they are no text), and deep nesting.

    Args:
        data: bytes whose number the caller has bounded.
        what: names them in messages: `the request`.

    Raises:
        RequestError: refused. Neither the text nor the cause shows what was read.
    """
    StructureScanner().end(data, len(data))  # bounds the depth before anything recurses
    try:
        found = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_members,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is not UTF-8, see byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{what} is no JSON: {error.msg}, see character {error.pos}") from None
    if not isinstance(found, dict):
        raise RequestError(f"{what} is no JSON object")
    if _SURROGATE.search(data):
        _check_text(found, what)
    return found


def _check_text(found: dict[str, JsonValue], what: str) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(f"{what} has half of a surrogate pair in a string") from None


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members: dict[str, JsonValue] = {}
    for name, value in pairs:
        if name in members:
            raise RequestError(f"the JSON has the member {shown(name)} twice")
        members[name] = value
    return members


def _integer(text: str) -> int:
    if len(text) > _MAX_NUMBER_CHARACTERS:
        raise RequestError(f"the JSON has a number of {len(text)} characters")
    return int(text)


def _number(text: str) -> float:
    if len(text) > _MAX_NUMBER_CHARACTERS:
        raise RequestError(f"the JSON has a number of {len(text)} characters")
    number = float(text)
    if not math.isfinite(number):
        raise RequestError("the JSON has a number that is not finite")
    return number


def _constant(text: str) -> NoReturn:
    raise RequestError(f"the JSON has {text}, which is no JSON")


def encode_object(members: dict[str, JsonValue]) -> bytes:
    """Compact ASCII JSON, members in their order; `/` is not escaped."""
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def decode_base64(text: str, what: str) -> bytes:
    """Bytes of standard, padded base64 without white space.

    Raises:
        RequestError: it is something else.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, and str that is not ASCII
        raise RequestError(f"{what} is no padded standard base64") from None


def encode_base64(data: bytes) -> str:
    """Standard, padded base64."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_byte_string(value: JsonValue, what: str, max_bytes: int) -> bytes:
    """Bytes as Go reads a `[]byte`: base64 text, or an array of integers.

    Raises:
        RequestError: neither, or more than `max_bytes`.
    """
    if isinstance(value, str):
        data = decode_base64(value, what)
    elif isinstance(value, list):
        # A bool is an int to `bytes`, so the types are compared exactly.
        octets = [n for n in value if type(n) is int and 0 <= n <= 255]
        if len(octets) != len(value):
            raise RequestError(f"{what} has elements that are no bytes (0 to 255)")
        data = bytes(octets)
    else:
        raise RequestError(f"{what} is missing, or neither base64 text nor an array of bytes")
    if len(data) > max_bytes:
        raise RequestError(f"{what} is {len(data)} bytes long, at most {max_bytes} are accepted")
    return data


def shown(text: str) -> str:
    """A name from outside, for a message: quoted, escaped to ASCII, cut."""
    cut = text[:_MAX_SHOWN_CHARACTERS]
    return ascii(cut) + ("..." if cut != text else "")
