"""JSON and base64 from outside, read strictly: by guests' requests and by ocicrypt's.

Nothing here repeats what it read, except names, cut and escaped by `shown`: the rest
may be a layer key.
"""

from __future__ import annotations

import binascii
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from verdictd_py.errors import RequestError

JsonScalar = str | int | float | bool | None
JsonValue = JsonScalar | list["JsonValue"] | dict[str, "JsonValue"]

MAX_DEPTH: Final = 32
"""Nesting of objects and arrays. ocicrypt's input nests 5 deep, a guest's request 3; the
decoder recurses once a level, so the bound must stay far below Python's own."""

MAX_CONTAINERS: Final = 1024
"""Objects and arrays together. A request of 64 blobs has 66; each costs the scanner a step
in Python, where strings and numbers cost none."""

_MAX_NUMBER_CHARACTERS: Final = 32
"""No number on these wires exceeds 2^32; a long one would cost quadratic time."""
_MAX_SHOWN_CHARACTERS: Final = 64
"""Of a name in a message: enough to recognise it, too little to flood a log."""

_TO_BRACKET: Final = re.compile(  # behind whole strings and whatever is no bracket
    rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL
)
_STRING_BODY: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_QUOTE: Final = ord('"')
_CLOSING: Final = {ord("{"): ord("}"), ord("["): ord("]")}
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")  # RFC 8259, 7: half of a pair

_Number = TypeVar("_Number", int, float)


class StructureScanner:
    """Finds where a JSON object ends, in time linear in its bytes however they arrive.

    It knows brackets, strings and escapes only: what it finds may still be no JSON.
    """

    __slots__ = ("_at", "_containers", "_in_string", "_max_containers", "_open")

    def __init__(self, max_containers: int = MAX_CONTAINERS) -> None:
        self._max_containers = max_containers
        self._at = 0
        self._containers = 0
        self._in_string = False
        self._open = bytearray()  # the closing bracket of each open container

    def end(self, data: bytes | bytearray, limit: int) -> int | None:
        """Goes on where the last call stopped.

        Args:
            data: what the last call got, with more bytes at its end.
            limit: no byte at or behind this offset is looked at.

        Returns:
            The offset behind the outermost closing bracket, None where it is not there yet.

        Raises:
            RequestError: brackets do not match, or there are more than `MAX_DEPTH` inside
                each other or `MAX_CONTAINERS` in all.
        """
        stop = min(len(data), limit)
        while self._at < stop:
            pattern = _STRING_BODY if self._in_string else _TO_BRACKET
            found = pattern.match(data, self._at, stop)
            self._at = self._at if found is None else found.end()
            if self._at == stop:
                return None
            byte = data[self._at]
            if byte == _QUOTE:
                self._in_string = not self._in_string
            elif self._in_string:
                return None  # a lone backslash at the end waits for its pair
            elif self._bracket(byte):
                return self._at + 1
            self._at += 1
        return None

    def _bracket(self, byte: int) -> bool:
        """True where `byte` closes the outermost container."""
        closing = _CLOSING.get(byte)
        if closing is None:
            if not self._open or self._open.pop() != byte:
                raise RequestError("the JSON has a closing bracket that fits no opening one")
            return not self._open
        self._open.append(closing)
        self._containers += 1
        if len(self._open) > MAX_DEPTH:
            raise RequestError(f"the JSON is nested deeper than {MAX_DEPTH} levels")
        if self._containers > self._max_containers:
            raise RequestError(f"the JSON has more than {self._max_containers} objects and arrays")
        return False


def decode_object(
    data: bytes,
    what: str,
    *,
    max_numbers: int | None = None,
    max_containers: int = MAX_CONTAINERS,
) -> dict[str, JsonValue]:
    """The JSON object that `data` is; see `decode_value`.

    Raises:
        RequestError: refused, or no object. Neither the text nor the cause shows what was read.
    """
    found = decode_value(data, what, max_numbers=max_numbers, max_containers=max_containers)
    if not isinstance(found, dict):
        raise RequestError(f"{what} is no JSON object")
    return found


def decode_value(
    data: bytes,
    what: str,
    *,
    max_numbers: int | None = None,
    max_containers: int = MAX_CONTAINERS,
) -> JsonValue:
    """Return the JSON value that `data` is.

    Refused besides what is no JSON: other encodings than UTF-8, members named twice, numbers
    that are not finite or too long, halves of surrogate pairs (they are no text), and deep
    nesting.

    Args:
        data: bytes whose number the caller has bounded.
        what: names them in messages: `the request`.
        max_numbers: where strangers send it; each number costs a step in Python too.
        max_containers: objects and arrays; more than the default for our own documents.

    Raises:
        RequestError: refused. Neither the text nor the cause shows what was read.
    """
    StructureScanner(max_containers).end(data, len(data))  # bounds depth before anything recurses
    counted = _counted(max_numbers)
    try:
        found: JsonValue = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_members,
            parse_int=counted(_integer),
            parse_float=counted(_number),
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is not UTF-8, see byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{what} is no JSON: {error.msg}, see character {error.pos}") from None
    if _SURROGATE.search(data):
        _check_text(found, what)
    return found


def _check_text(found: JsonValue, what: str) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(f"{what} has half of a surrogate pair in a string") from None


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RequestError(f"the JSON has the member {shown(twice)} twice")
    return members


def _counted(most: int | None) -> Callable[[Callable[[str], _Number]], Callable[[str], _Number]]:
    """Bounds how many numbers its readers read, together."""
    if most is None:
        return lambda read: read
    left = itertools.chain(itertools.repeat(True, most), itertools.repeat(False))

    def bounded(read: Callable[[str], _Number]) -> Callable[[str], _Number]:
        def read_one(text: str) -> _Number:
            if not next(left):
                raise RequestError(f"the JSON has more than {most} numbers")
            return read(text)

        return read_one

    return bounded


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


def has_more_values(value: JsonValue, most: int) -> bool:
    """Whether there are more than `most` values inside of this one, however deep."""
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        inner = list(item.values()) if isinstance(item, dict) else item
        if isinstance(inner, list):
            count += len(inner)
            if count > most:
                return True
            waiting.extend(inner)
    return False


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


def decode_base64url(text: str) -> bytes:
    """Bytes of base64url without padding (RFC 7515, 2).

    Raises:
        ValueError: it is something else, or nothing.
    """
    if not text or not text.isascii() or any(c in text for c in "+/= \n\r"):
        raise ValueError("no base64url")
    standard = text.translate(_TO_STANDARD)
    return binascii.a2b_base64(standard + "=" * (-len(text) % 4), strict_mode=True)


def encode_base64url(data: bytes) -> str:
    """The same, the other way round."""
    text = binascii.b2a_base64(data, newline=False).decode("ascii").rstrip("=")
    return text.translate(_FROM_STANDARD)


_TO_STANDARD: Final = str.maketrans("-_", "+/")
_FROM_STANDARD: Final = str.maketrans("+/", "-_")
