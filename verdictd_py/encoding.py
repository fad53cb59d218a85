"""Strict readers of untrusted JSON and base64, in requests of guests and of ocicrypt.

No error text repeats what was read, except names that `quoted` cut and escaped: the rest
may be a layer key.
"""

from __future__ import annotations

import binascii
import json
import math
import re
from collections import Counter
from functools import cache
from typing import Final, NoReturn

from verdictd_py.errors import RequestError

JsonScalar = str | int | float | bool | None
JsonValue = JsonScalar | list["JsonValue"] | dict[str, "JsonValue"]

MAX_DEPTH: Final = 32
"""Maximum nesting of objects and arrays. ocicrypt's input nests 5 deep, a guest's request 3.
The decoder recurses once per level, so this must stay far below Python's recursion limit."""

MAX_CONTAINERS: Final = 1024
"""Maximum number of objects and arrays together. A request with 64 blobs has 66. Each costs
the scanner a step in Python; strings and numbers do not."""

MAX_VALUES: Final = 64 * 1024
"""Maximum number of values together, of every type. A request with 64 blobs has 400."""

_MAX_NUMBER_CHARACTERS: Final = 32
"""No number on these wires exceeds 2^32; a long one would cost quadratic time."""
_MAX_QUOTED_CHARACTERS: Final = 64
"""Maximum length of a name in a message: enough to recognise it, too little to flood a log."""

# Before Python 3.11.5, a possessive quantifier of a group can match wrongly (gh-106052). Therefore
# only single characters have one here. Groups are repeated at most 256 times for each match, which
# bounds the memory for backtracking; they are written so that it finds nothing else.
_TO_BRACKET: Final = re.compile(  # skips whole strings and everything that is not a bracket
    rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+){0,256}"[^"\[\]{}]*+){0,256}', re.DOTALL
)
_STRING_BODY: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+){0,256}', re.DOTALL)
_COMMAS_OF_MATCH: Final = 256
_QUOTE: Final = ord('"')
_CLOSING: Final = {ord("{"): ord("}"), ord("["): ord("]")}
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")  # RFC 8259, 7: half of a pair

_STEP_BYTES: Final = 64 * 1024
"""Maximum number of bytes for one call of a library. A call holds the interpreter lock, so that a
long one would stall other threads, too."""

_STRINGS_TO_COMMA: Final = MAX_DEPTH + 2
"""Maximum number of strings between two commas in JSON: a name for each level, and a value."""


class StructureScanner:
    """Finder of the end of a JSON object, in time linear in its bytes however they arrive.

    It reads brackets, strings and escapes only, so the object may still be invalid JSON.
    """

    __slots__ = ("_at", "_containers", "_in_string", "_max_containers", "_open")

    def __init__(self, max_containers: int = MAX_CONTAINERS) -> None:
        self._max_containers = max_containers
        self._at = 0
        self._containers = 0
        self._in_string = False
        self._open = bytearray()  # the closing bracket of each open container

    def end(self, data: bytes | bytearray, limit: int) -> int | None:
        """Continue where the last call stopped.

        Args:
            data: the data of the last call, with more bytes at its end.
            limit: bytes from this offset on are not read.

        Returns:
            The offset after the outermost closing bracket, None if it has not arrived yet.

        Raises:
            RequestError: brackets do not match, or there are more than `MAX_DEPTH` inside
                each other or `MAX_CONTAINERS` in all.
        """
        stop = min(len(data), limit)
        while self._at < stop:
            pattern = _STRING_BODY if self._in_string else _TO_BRACKET
            end = min(stop, self._at + _STEP_BYTES)
            match = pattern.match(data, self._at, end)
            self._at = self._at if match is None else match.end()
            if self._at == stop:
                return None
            if self._at == end:
                continue
            byte = data[self._at]
            if byte == _QUOTE:
                self._in_string = not self._in_string
            elif self._in_string:
                if self._at + 1 == stop:
                    return None  # a lone backslash at the end waits for its pair
                continue
            elif self._bracket(byte):
                return self._at + 1
            self._at += 1
        return None

    def _bracket(self, byte: int) -> bool:
        """Read a bracket; return whether it closes the outermost container."""
        closing = _CLOSING.get(byte)
        if closing is None:
            if not self._open or self._open.pop() != byte:
                raise RequestError("the JSON has a closing bracket that matches no opening one")
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
    max_containers: int = MAX_CONTAINERS,
    max_values: int = MAX_VALUES,
) -> dict[str, JsonValue]:
    """Decode a JSON object strictly; see `decode_value`.

    Raises:
        RequestError: refused, or not an object. Neither the text nor the cause repeats what was
            read.
    """
    decoded = decode_value(
        data,
        what,
        max_containers=max_containers,
        max_values=max_values,
    )
    if not isinstance(decoded, dict):
        raise RequestError(f"{what} is not a JSON object")
    return decoded


def decode_value(
    data: bytes,
    what: str,
    *,
    max_containers: int = MAX_CONTAINERS,
    max_values: int = MAX_VALUES,
) -> JsonValue:
    """Decode a JSON value strictly.

    Refused in addition to invalid JSON: encodings other than UTF-8, duplicate members, numbers
    that are not finite or too long, halves of surrogate pairs (they are not text), and deep
    nesting.

    Args:
        data: bytes whose number the caller has limited.
        what: name of the data in messages: `the request`.
        max_containers: limit of objects and arrays; higher for the operator's own documents.
        max_values: limit of the values of every type together, enforced before any is built.

    Raises:
        RequestError: refused. Neither the text nor the cause repeats what was read.
    """
    if _has_commas(data, max_values):
        raise RequestError(f"the JSON has more than {max_values} values")
    if data.count(b"{") + data.count(b"[") > min(MAX_DEPTH, max_containers):
        StructureScanner(max_containers).end(data, len(data))  # before anything recurses
    try:
        decoded: JsonValue = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is not UTF-8, see byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise RequestError(
            f"{what} is not valid JSON: {error.msg}, see character {error.pos}"
        ) from None
    if _has_surrogates(data):
        _check_text(decoded, what)
    return decoded


def _has_surrogates(data: bytes) -> bool:
    """Return whether `data` has an escape of half of a surrogate pair."""
    overlap = 3  # characters of a match without its last
    starts = range(0, len(data), _STEP_BYTES)
    return any(_SURROGATE.search(data, at, at + _STEP_BYTES + overlap) for at in starts)


def _has_commas(data: bytes, count: int) -> bool:
    """Return whether `data` has `count` commas outside of strings before its first invalid byte.

    JSON has fewer commas than values. Memory is allocated for values only, so this bounds it.
    """
    if data.count(b",") < count:  # many times faster than the pattern
        return False
    text = _without_escapes(data)  # no string contains a quote now
    at = 0
    while count:
        commas = min(count, _COMMAS_OF_MATCH)
        match = _commas(commas).match(text, at)
        if match is None:
            return False
        count, at = count - commas, match.end()
    return True


def _without_escapes(data: bytes) -> bytes | bytearray:
    if b"\\" not in data:
        return data
    rest, at = bytearray(), 0
    while at < len(data):
        part = data[at : at + _STEP_BYTES]
        backslashes = len(part) - len(part.rstrip(b"\\"))
        end = at + len(part) + backslashes % 2  # an escape must not be split
        rest += data[at:end].replace(rb"\\", b"").replace(rb"\"", b"")
        at = end
    return rest


@cache
def _commas(count: int) -> re.Pattern[bytes]:
    """Return a pattern that matches `count` commas, with the strings before them skipped."""
    to_comma = rb'[^",]*+(?:"[^"]*+"[^",]*+){0,%d},' % _STRINGS_TO_COMMA
    return re.compile(rb"(?:%b){%d}" % (to_comma, count))


def _check_text(decoded: JsonValue, what: str) -> None:
    waiting = [decoded]
    try:
        while waiting:
            value = waiting.pop()
            if isinstance(value, str):
                value.encode()
            elif isinstance(value, dict):
                waiting.extend(value)
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)
    except UnicodeEncodeError:
        raise RequestError(f"{what} has half of a surrogate pair in a string") from None


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise RequestError(f"the JSON has the member {quoted(twice)} twice")
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
    raise RequestError(f"the JSON has {text}, which JSON does not define")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_int=_integer,
    parse_float=_number,
    parse_constant=_constant,
)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def has_more_values(value: JsonValue, most: int) -> bool:
    """Return whether `value` contains more than `most` values, at any depth."""
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
    """Encode as compact ASCII JSON, members in their order; `/` is not escaped."""
    return _ENCODER.encode(members).encode("ascii")


def decode_base64(text: str, what: str) -> bytes:
    """Decode standard, padded base64 without white space.

    Raises:
        RequestError: anything else.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, and str that is not ASCII
        raise RequestError(f"{what} is not padded standard base64") from None


def encode_base64(data: bytes) -> str:
    """Encode as standard, padded base64."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_byte_string(value: JsonValue, what: str, max_bytes: int) -> bytes:
    """Decode bytes as Go does for a `[]byte`: base64 text, or an array of integers.

    Raises:
        RequestError: neither, or more than `max_bytes`.
    """
    if isinstance(value, str):
        data = decode_base64(value, what)
    elif isinstance(value, list):
        # A bool is an int to `bytes`, so the types are compared exactly.
        octets = [n for n in value if type(n) is int and 0 <= n <= 255]
        if len(octets) != len(value):
            raise RequestError(f"{what} has elements that are not bytes (0 to 255)")
        data = bytes(octets)
    else:
        raise RequestError(f"{what} is missing, or neither base64 text nor an array of bytes")
    if len(data) > max_bytes:
        raise RequestError(f"{what} is {len(data)} bytes long, at most {max_bytes} are accepted")
    return data


def quoted(text: str) -> str:
    """Return an untrusted name for a message: quoted, escaped to ASCII, cut."""
    cut = text[:_MAX_QUOTED_CHARACTERS]
    return ascii(cut) + ("..." if cut != text else "")


def decode_base64url(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515, 2).

    Raises:
        ValueError: anything else, or an empty text.
    """
    if not text or not text.isascii() or _NOT_BASE64URL.search(text):
        raise ValueError("not base64url")
    standard = text.encode("ascii").translate(_TO_STANDARD)  # bytes: many times faster than text
    return binascii.a2b_base64(standard + b"=" * (-len(text) % 4), strict_mode=True)


def encode_base64url(data: bytes) -> str:
    """Encode as base64url without padding."""
    text = binascii.b2a_base64(data, newline=False).rstrip(b"=")
    return text.translate(_FROM_STANDARD).decode("ascii")  # bytes, as above


_NOT_BASE64URL: Final = re.compile(r"[+/= \n\r]")
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_FROM_STANDARD: Final = bytes.maketrans(b"+/", b"-_")
